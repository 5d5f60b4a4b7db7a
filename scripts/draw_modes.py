"""Draw the plots of docs/modes.md from benchmarks/results/ into docs/img/; a plot whose result is missing is left out.

python scripts/draw_modes.py && python scripts/refresh_pages.py docs/modes.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from _measured import ROOT, Reached, Results
from _svg import GREY, Bar, Curve, bars, curves

IMAGES = ROOT / "docs" / "img"
BLUE, ORANGE, GREEN, PURPLE, YELLOW, PINK = range(6)
LINK = "100 Mbit/s, 20 ms each way"
SYSTEMS = {"AllReduce": BLUE, "ddp": GREY, "Int8": ORANGE, "TopK + Int8": GREEN, "auto": PURPLE, "LocalSGD 16": YELLOW}
RIVALS = {"rpc": "torch RPC", "ray": "Ray actor"}


def colour(mode: str) -> int:
    """Return the colour of a mode of staleness.py or a system of slow_link.py."""
    for start, found in (("synchronous, dealt", GREY), ("synchronous", BLUE), ("stale", ORANGE), ("async", GREEN)):
        if mode.startswith(start):
            return found
    return SYSTEMS.get(mode, PINK)


def until_target(title: str, what: str, reached: dict[str, Reached]) -> str | None:
    """Return bars of the seconds to the target, which the text of a result knows."""
    if not any(math.isfinite(r.seconds) for r in reached.values()):
        return None
    each = [
        Bar(mode, r.seconds, f"{r.seconds:.2f} s" if math.isfinite(r.seconds) else "not reached", colour(mode))
        for mode, r in reached.items()
    ]
    return bars(title, what, [("", each)])


TITLES = {
    "slow": "One of two workers is four times slower",
    "random": "Both workers pause at random, for a step on average",
}


def staleness(results: Results, kind: str) -> str | None:
    reached, runs = results.staleness(kind), results.curves("staleness", kind)
    target = results.target("staleness") if reached else None
    if runs and reached:
        dashed = {mode for mode in runs if "2 shards" in mode or ("dealt" in mode and colour(mode) != GREY)}
        each = [Curve(mode, points, colour(mode), mode in dashed) for mode, points in runs.items()]
        return curves(TITLES[kind], "seconds of training", "loss on training rows", each, target)
    return until_target(TITLES[kind], f"seconds until the loss is {target}", reached)


def slow_link(results: Results) -> str | None:
    reached, runs, title = results.slow_link(), results.curves("slow_link"), f"Two hosts, {LINK}"
    target = results.target("slow_link") if reached else None
    if runs and reached:
        each = [Curve(mode, points, colour(mode), mode == "ddp") for mode, points in runs.items()]
        return curves(title, "seconds of training", "loss on training rows", each, target)
    return until_target(title, f"seconds until the loss is {target}", reached)


def straggler(results: Results) -> str | None:
    groups = []
    for kind, (dealt, claimed) in results.straggler().items():
        each = [Bar("dealt", dealt, f"{dealt:.1f} ms", GREY), Bar("claimed", claimed, f"{claimed:.1f} ms")]
        groups.append(
            ("both workers alike" if kind == "no straggler" else "one of two workers four times slower", each)
        )
    return bars("Shards dealt in advance, or claimed by who is free", "milliseconds a step", groups) if groups else None


def local_sgd(results: Results) -> str | None:
    groups: dict[str, list[Bar]] = {}
    for (shards, name), row in results.local_sgd().items():
        text = f"{row['speed']:,.0f}, {row['MB']:,.0f} MB sent"
        bar = Bar(name, row["speed"], text, GREY if name == "AllReduce" else BLUE)
        groups.setdefault(f"{shards} shards", []).append(bar)
    return (
        bars("Merges after every step, and after H steps of each shard", "rows a second", list(groups.items()))
        if groups
        else None
    )


def compress(results: Results) -> str | None:
    each = [
        Bar(name, size, f"{size:.2f}, loss {loss:.4f}", GREY if name == "none" else BLUE)
        for name, (size, loss, _) in results.forms().items()
    ]
    title = "What leaves a shard, and the loss of the last epoch"
    return bars(title, "bytes for each number", [("", each)]) if each else None


def link(results: Results) -> str | None:
    groups: dict[str, list[Bar]] = {}
    for (name, system), (ms, share) in results.link().items():
        ours = BLUE if system == "TLS" else ORANGE if system == "plain" else GREY
        title = {"TLS": "tutti, TLS 1.3", "plain": "tutti, plain"}.get(system, f"{system}, plain")
        groups.setdefault(name, []).append(Bar(title, share, f"{share:.1f} %, {ms:,.0f} ms", ours))
    whole = (100.0, "the link")
    return bars("A sum of 25 MB between two hosts", "% of the link", list(groups.items()), whole) if groups else None


def updates(results: Results) -> str | None:
    groups = []
    for net, rates in results.updates().items():
        best = max(rates.values())
        each = []
        for system, rate in rates.items():
            library, way = system.split("-")
            name = f"{RIVALS.get(library, 'tutti')}, {'asynchronous' if way == 'async' else 'synchronous'}"
            each.append(Bar(name, 100 * rate / best, f"{rate:,.0f} a second", BLUE if library == "ours" else GREY))
        groups.append((net, each))
    return bars("Updates a second of two workers", "% of the fastest on that net", groups) if groups else None


FIGURES: dict[str, Callable[[Results], str | None]] = {
    "straggler": straggler,
    "staleness_slow": lambda results: staleness(results, "slow"),
    "staleness_random": lambda results: staleness(results, "random"),
    "updates": updates,
    "slow_link": slow_link,
    "local_sgd": local_sgd,
    "compress": compress,
    "link": link,
}


def main() -> None:
    results = Results()
    IMAGES.mkdir(exist_ok=True)
    for name, figure in FIGURES.items():
        file, drawn = IMAGES / f"{name}.svg", figure(results)
        if drawn is None:
            file.unlink(missing_ok=True)
            source = "staleness" if name.startswith("staleness") else name
            print(f"{name}.svg is left out: benchmarks/results/{source}.txt has no numbers for it", file=sys.stderr)
        else:
            file.write_text(drawn)
            print(f"docs/img/{name}.svg")


if __name__ == "__main__":
    main()
