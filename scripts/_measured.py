"""What the results in benchmarks/results say, as numbers; None or nothing where there is no result yet."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"slow": "one of two workers four times slower", "random": "random delays, mean one step"}
NUMBER = r"([\d.]+|nan|inf)"


@dataclass(frozen=True)
class Reached:
    """Seconds to the target loss (inf if it was not reached) and the loss at the end."""

    seconds: float
    loss: float


def _seconds(word: str) -> float:
    return math.inf if word in ("nan", "inf") else float(word)


class Results:
    """The files of a folder of results, read when asked for."""

    def __init__(self, folder: Path = ROOT / "benchmarks" / "results") -> None:
        self.folder = folder

    def text(self, name: str) -> str:
        file = self.folder / f"{name}.txt"
        return file.read_text() if file.exists() else ""

    def find(self, name: str, pattern: str) -> tuple[float, ...] | None:
        found = re.search(pattern, self.text(name), re.M)
        return None if found is None else tuple(float(word) for word in found.groups())

    def rows(self, name: str, pattern: str) -> list[tuple[str, ...]]:
        return [found.groups() for found in re.finditer(pattern, self.text(name), re.M)]

    def curves(self, name: str, kind: str | None = None) -> dict[str, list[tuple[float, float]]]:
        """Return of each mode the medians over the repeats of (seconds, loss) after each epoch, from the start on."""
        file = self.folder / f"{name}.csv"
        if not file.exists():
            return {}
        runs: dict[str, dict[str, list[tuple[float, float]]]] = {}
        with open(file, newline="") as lines:
            for row in csv.DictReader(lines):
                if kind is None or row["kind"] == kind:
                    run = runs.setdefault(row["mode"], {}).setdefault(row["repeat"], [])
                    run.append((float(row["seconds"]), float(row["loss"])))
        return {
            mode: [
                (median(s for s, _ in epoch), median(loss for _, loss in epoch))
                for epoch in zip(*repeats.values(), strict=True)
            ]
            for mode, repeats in runs.items()
        }

    # one result each

    def staleness(self, kind: str) -> dict[str, Reached]:
        """Return what each mode reached with workers of that kind."""
        for part in self.text("staleness").split("\n\n"):
            if part.startswith(KINDS[kind]):
                rows = re.finditer(rf"^(\S.*?) +{NUMBER} +{NUMBER}x +([\d.]+) +[\d.]+(?: .*)?$", part, re.M)
                return {row[1]: Reached(_seconds(row[2]), float(row[4])) for row in rows}
        return {}

    def slow_link(self) -> dict[str, Reached]:
        """Return what each system reached over the slow link; nothing if none got there."""
        rows = self.rows("slow_link", rf"^(\S.*?) +{NUMBER} s +{NUMBER}x +{NUMBER}x +{NUMBER}(?: .*)?$")
        found = {name: Reached(_seconds(s), float(loss)) for name, s, _, _, loss in rows}
        return found if any(math.isfinite(r.seconds) for r in found.values()) else {}

    def target(self, name: str) -> float:
        found = self.find(name, r"\bloss (?:of )?([\d.]+)")
        assert found is not None, f"benchmarks/results/{name}.txt names no target"
        return found[0]

    def local_sgd(self) -> dict[tuple[int, str], dict[str, float]]:
        """Return rounds, MB, loss, accuracy and rows a second of (shards, strategy)."""
        pattern = r"^(\d+) +(\S.*?) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+)$"
        keys = ("rounds", "MB", "loss", "accuracy", "speed")
        return {
            (int(n), name): dict(zip(keys, map(float, numbers), strict=True))
            for n, name, *numbers in self.rows("local_sgd", pattern)
        }

    def straggler(self) -> dict[str, tuple[float, float]]:
        """Return ms a step with dealt and with claimed shards."""
        rows = self.rows("straggler", r"^(no straggler|one of two four times slower) +([\d.]+) +([\d.]+)$")
        return {name: (float(dealt), float(claimed)) for name, dealt, claimed in rows}

    def link(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Return (ms, share of the link in %) of (link, system)."""
        pattern = r"^(\d+ Mbit/s \d+ ms) (\S+) +[\d.]+ +([\d.]+) +[\d.]+ +([\d.]+)% +[\d.]+$"
        return {(link, system): (float(ms), float(share)) for link, system, ms, share in self.rows("link", pattern)}

    def forms(self) -> dict[str, tuple[float, float, float]]:
        """Return (bytes of a number, loss, accuracy) of each form of updates."""
        sizes = {"none": 4.0}
        for name, size in self.rows("compress", r"^(\S+) +[\d.]+ +[\d.]+ +([\d,]+)$"):
            sizes[name] = int(size.replace(",", "")) / 1e6
        rows = self.rows("compress", r"^(\S+) +(0\.\d{4}) +(0\.\d{4})$")
        return {name: (sizes[name], float(loss), float(share)) for name, loss, share in rows if name in sizes}

    def updates(self) -> dict[str, dict[str, float]]:
        """Return updates a second of each net and system."""
        head = re.search(r"^model +(.*?) +updates a second$", self.text("updates"), re.M)
        if head is None:
            return {}
        systems, found = head[1].split(), {}
        for line in self.text("updates")[head.end() :].strip().split("\n\n")[0].splitlines():
            net, *rates = line.split()
            found[net] = {s: float(r) for s, r in zip(systems, rates, strict=True) if r != "nan"}
        return found
