"""Claim: boosted trees at the speed of XGBoost, with its accuracy, and the same bits for any number of workers.

usage: python benchmarks/boosting.py [--data DIR] [--repeats 2] [--jobs higgs others products sums rare sets]
higgs: 400,000 x 28 float32, 200 rounds, depth 6, rate 0.1, at most 255 or 256 bins, 2 threads each, against XGBoost and
LightGBM; others: the same against scikit-learn and SnapML.  Every system runs alone in its process, after a warm-up on
a few rows; the clock is around ``fit``, binning included, and around ``predict_proba`` of 100,000 rows; the peak is
what the process needs beyond its start and the data.  Ours runs first and last.
products, sums, rare: which splits a greedy tree finds is chance, too, so one fit on one set says little: mean AUC over
three draws of 100,000 rows, two fits of each.
sets: digits (10 classes), friedman (regression), mixed (categories and missing values), for accuracy alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import alone, header, median, save
from data import DEFAULT, ensure

RIVALS = {"higgs": ("xgboost", "lightgbm", "lightgbm-quantised"), "others": ("hgb", "snapml")}
DRAWS = 3
FAMILIES = ("products", "sums", "rare")
SETS = ("digits", "friedman", "mixed")


def timed(job: str, data: str, repeats: str, systems: list[str]) -> list[str]:
    """Return the lines of one job against the clock."""
    names = ("tutti", *(s for s in RIVALS[job] if not systems or s in systems), "tutti")
    lines = [f"{'higgs':18} {'fit s':>8} {'CPU s':>8} {'predict s':>10} {'peak MB':>8} {'AUC':>8}"]
    found: dict[str, list[dict[str, float]]] = {}
    for name in names:
        rows = alone("_boost.py", name, "higgs", data, repeats)
        if not rows or "skipped" in rows[0]:
            lines.append(f"{name:18} skipped: {rows[0]['skipped'] if rows else 'it failed, see above'}")
            continue
        row = {key: median([r[key] for r in rows]) for key in ("fit", "cpu", "predict", "score")}
        row["peak"] = max(r["peak"] for r in rows)
        found.setdefault(name, []).append(row)
        numbers = f"{row['fit']:8.3f} {row['cpu']:8.2f} {row['predict']:10.4f} {row['peak']:8.0f} {row['score']:8.5f}"
        lines.append(f"{name:18} {numbers}")
    ours = {key: float(np.mean([r[key] for r in found.get("tutti", [])])) for key in ("fit", "cpu", "predict", "peak")}
    for name in [n for n in found if n != "tutti"]:
        (r,) = found[name]
        goal = " (goal 1.0x, extreme 1.8x)" if name == "xgboost" else ""
        lines.append(
            f"ours against {name:18} fit {r['fit'] / ours['fit']:5.2f}x{goal}, CPU {r['cpu'] / ours['cpu']:5.2f}x, "
            f"predict {r['predict'] / ours['predict']:5.2f}x, memory {ours['peak'] / max(r['peak'], 1):4.2f} of it, "
            f"AUC {found['tutti'][0]['score'] - r['score']:+.5f}"
        )
    return lines


def chance(family: str, data: str, systems: list[str]) -> list[str]:
    """Return the mean AUC of each draw, and what ours differs by, with its standard error over the draws."""
    names = ("tutti", *(s for s in RIVALS["higgs"] if not systems or s in systems))
    lines = [f"{'AUC':10} " + " ".join(f"{name:>18}" for name in names)]
    means: dict[str, list[float]] = {name: [] for name in names}
    for draw in range(DRAWS):
        for name in names:
            rows = alone("_boost.py", name, f"{family}:{draw}", data, "2")
            means[name].append(float(np.mean([r.get("score", np.nan) for r in rows])) if rows else np.nan)
        lines.append(f"{family} {draw:<{9 - len(family)}} " + " ".join(f"{means[name][-1]:18.5f}" for name in names))
    for name in names[1:]:
        apart = np.subtract(means["tutti"], means[name])
        if np.isnan(apart).any():
            lines.append(f"{name} skipped: it is not installed, or failed")
        else:
            error = apart.std(ddof=1) / len(apart) ** 0.5
            lines.append(f"ours less {name:18} {apart.mean():+.5f} +- {error:.5f} (goal -0.00200)")
    return lines


def sets(data: str) -> list[str]:
    lines = []
    for name in SETS:
        scores = []
        for system in ("tutti", "xgboost", "lightgbm", "hgb"):
            found: list[dict[str, Any]] = alone("_boost.py", system, name, data, "1")
            scores += [f"{system} {r['score']:.4f}" for r in found if "score" in r]
        lines.append(f"{name:10} {', '.join(scores)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--jobs", nargs="*", default=["higgs", "others", *FAMILIES, "sets"])
    parser.add_argument("--systems", nargs="*", default=[], help="only these rivals")
    given = parser.parse_args()
    ensure(given.data, "higgs")
    data, repeats = str(given.data), str(given.repeats)
    for job in given.jobs:
        if job in RIVALS:
            lines = timed(job, data, repeats, given.systems)
        else:
            lines = chance(job, data, given.systems) if job in FAMILIES else sets(data)
        save("boosting" if job == "higgs" else f"boosting_{job}", "\n".join([header(), "", *lines]))


if __name__ == "__main__":
    main()
