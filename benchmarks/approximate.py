"""Claim: machines on Nystroem features fit 100,000 rows as fast as scikit-learn's and prove how good they are.

usage: python benchmarks/approximate.py [--rows 100000] [--repeats 1]
SVR and SVC with approximate="nystroem" against scikit-learn's Nystroem with LinearSVR or LinearSVC (hinge) on it: 300
components, the same gamma and C, defaults else (tol: a certified relative gap of 1e-3 here, liblinear's own 1e-4
there).  Rows: Friedman's first function of 10 of 20 columns; above or below its median for the classes.  What is timed
is fit, features included, after a fit of 500 rows; the score is R^2 or accuracy on 20,000 further rows.  gap is what
the fit proves about its objective; scikit-learn proves nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import numpy as np
from _common import alone, header, medians, save

SYSTEMS = ("tutti", "tutti, 1 worker", "scikit-learn")
TASKS = ("regression", "classes")
TEST, COLUMNS, COMPONENTS = 20_000, 20, 300


def rows(n: int, task: str) -> tuple[Any, Any]:
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(n, COLUMNS, noise=1.0, random_state=0)
    return x.astype(np.float32), y if task == "regression" else (y > np.median(y)).astype(int)


def made(system: str, task: str) -> Any:
    gamma = 1.0
    if system.startswith("tutti"):
        import tutti

        kind = tutti.SVR if task == "regression" else tutti.SVC
        engine = tutti.Threads(1 if "1 worker" in system else 2)
        return kind(approximate="nystroem", n_components=COMPONENTS, gamma=gamma, random_state=0, engine=engine)
    from sklearn.kernel_approximation import Nystroem
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC, LinearSVR

    machine = LinearSVR(epsilon=0.1) if task == "regression" else LinearSVC(loss="hinge")
    return make_pipeline(Nystroem(gamma=gamma, n_components=COMPONENTS, random_state=0), machine)


def one(system: str, task: str, n: int) -> None:
    warnings.simplefilter("ignore")
    X, y = rows(n + TEST, task)
    made(system, task).fit(X[:500], y[:500])
    cpu, wall = time.process_time(), time.perf_counter()
    model = made(system, task).fit(X[:n], y[:n])
    found: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["score"] = float(model.score(X[n:], y[n:]))
    found["gap"], found["sha256"] = float("nan"), ""
    if hasattr(model, "report_"):
        found["gap"] = model.report_.relative_gap
        found["sha256"] = model.report_.sha256[:12]
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.rows)
        return
    lines = [header(), ""]
    for task in TASKS:
        own = float("nan")
        for system in SYSTEMS:
            call = "--rows", str(given.rows), "--one", system, task
            runs = alone("approximate.py", *call, repeats=given.repeats)
            if not runs:
                lines.append(f"{task:10} {system:16} absent")
                continue
            m = medians(runs)
            own = m["wall"] if system == "tutti" else own
            lines.append(
                f"{task:10} {system:16} fit {m['wall']:6.2f} s (CPU {m['cpu']:6.1f})  score {m['score']:.4f}  "
                f"gap {m['gap']:.1e}  {m['wall'] / own:5.2f}x tutti  {runs[0]['sha256']}"
            )
            print(lines[-1], flush=True)
    save("approximate", "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
