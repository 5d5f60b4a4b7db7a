"""Claim: the whole process, from libsvm text to a sparse logistic model, takes at most a third of SnapML's.

usage: python benchmarks/whole_process.py [--data DIR] [--repeats 5]
Wall time from the start of the interpreter to its end, imports included; the two take turns.  SnapML reads the text
with its own loader or with scikit-learn's; the faster of the two counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from _common import HERE, header, median, save
from data import DEFAULT, ensure

SNAPML_EPOCHS = 8  # reaches 1e-3 of the best objective, see linear.txt


def wall(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, str(HERE / "_whole.py"), *words], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    ensure(given.data, "sparse")
    path = str(given.data / "sparse/train.svm")
    wall("tutti", path, "0")  # compiled kernels outlive the process that compiled them
    seconds: dict[str, list[float]] = {"tutti": [], "snapml": [], "snapml-sklearn": []}
    for _ in range(given.repeats):
        for system, found in seconds.items():
            found.append(wall(system, path, str(SNAPML_EPOCHS)))
    lines = [header(), ""]
    lines += [f"{s:14} {median(t):6.2f} s  {[round(x, 2) for x in t]}" for s, t in seconds.items()]
    rival = min(median(seconds["snapml"]), median(seconds["snapml-sklearn"]))
    lines += ["", f"ratio {rival / median(seconds['tutti']):.2f}x (goal 3x)"]
    save("whole_process", "\n".join(lines))


if __name__ == "__main__":
    main()
