"""Claim: a search of 60 small fits is dealt no slower than by joblib's threads, and linear candidates share their work.

usage: python benchmarks/search.py [--repeats 3] [--ray PYTHON]
20 values of C x 3 folds of a logistic regression on 100,000 x 100 dense rows, two workers, no refit, one run after the
other.  "same estimator" searches over scikit-learn's LogisticRegression with every system: what differs is who deals
the fits.  "own estimator" is tutti's.  Workers of all systems are warm: the first turn, which starts processes, is not
counted.  Fits of loky, Ray and tutti have one BLAS thread each; one after the other, and under joblib's threads, they
have what BLAS takes by itself, which is a hindrance here.  Goals: 1.0 times joblib's threads with the same estimator, 6
times with all that tutti has; 3 times Ray (its start-up apart), which needs ``--ray`` with the Python of an environment
that holds ray and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
from _common import header, median, save
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

GRID = {"C": np.logspace(-3, 3, 20)}
SYSTEMS = ("one after the other", "joblib threads", "joblib loky", "tutti, same estimator", "tutti, own estimator")
RAY = """
import json, sys, time
import numpy as np, ray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
n, d, repeats = 100_000, 100, int(sys.argv[1])
r = np.random.default_rng(0)
x = r.standard_normal((n, d))
y = (x @ r.standard_normal(d) + 4 * r.standard_normal(n) > 0).astype(int)
began = time.perf_counter()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[2])
start = time.perf_counter() - began

@ray.remote
def fit(x, y, c, train, test):
    return LogisticRegression(C=c).fit(x[train], y[train]).score(x[test], y[test])

times = []
for _ in range(repeats + 1):
    began = time.perf_counter()
    px, py = ray.put(x), ray.put(y)
    folds = list(StratifiedKFold(3).split(x, y))
    ray.get([fit.remote(px, py, c, *fold) for c in np.logspace(-3, 3, 20) for fold in folds])
    times.append(time.perf_counter() - began)
print(json.dumps({"start": start, "times": times[1:]}))
"""


def rows() -> tuple[Any, Any]:
    n, d = 100_000, 100
    r = np.random.default_rng(0)
    x = r.standard_normal((n, d))
    return x, (x @ r.standard_normal(d) + 4 * r.standard_normal(n) > 0).astype(int)


def search(system: str, x: Any, y: Any) -> Any:
    import tutti

    if system == "one after the other":
        return GridSearchCV(LogisticRegression(), GRID, cv=3, refit=False).fit(x, y)
    if system.startswith("joblib"):
        backend = {"joblib threads": "threading", "joblib loky": "loky"}[system]
        with joblib.parallel_config(backend, n_jobs=2):
            return GridSearchCV(LogisticRegression(), GRID, cv=3, refit=False, n_jobs=2).fit(x, y)
    own = system.endswith("own estimator")
    estimator = tutti.LogisticRegression() if own else LogisticRegression()
    return tutti.GridSearchCV(estimator, GRID, cv=3, refit=False).fit(x, y)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def under_ray(python: str, repeats: int) -> dict[str, Any]:
    """Return the seconds of the same fits as Ray's tasks; first of all, so that a wrong Python costs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        call = [python, "-c", RAY, str(repeats), folder]
        out = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def with_ray(found: dict[str, Any], rival: float, same: float, own: float) -> str:
    t = found["times"]
    return (
        f"{'Ray tasks':28}{median(t):9.2f}{min(t):9.2f}{max(t):9.2f}{rival / median(t):13.2f}x   "
        f"and {found['start']:.1f} s to start\nRay against tutti: {median(t) / same:.2f}x, the same estimator\n"
        f"Ray against tutti's own: {median(t) / own:.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", default=None)
    given = parser.parse_args()
    ray = None if given.ray is None else under_ray(given.ray, given.repeats)
    x, y = rows()
    times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    best = {}
    for turn in range(given.repeats + 1):
        for system in SYSTEMS:
            seconds, found = timed(lambda system=system: search(system, x, y))
            best[system] = found.best_score_, found.best_params_["C"]
            if turn:  # the first one starts processes and compiles
                times[system].append(seconds)
    rival = median(times["joblib threads"])
    lines = [
        f"{'60 fits of 66,667 x 100':28}{'seconds':>9}{'lowest':>9}{'highest':>9}{'threads / it':>14}   best score, C"
    ]
    for system in SYSTEMS:
        t = times[system]
        lines.append(
            f"{system:28}{median(t):9.2f}{min(t):9.2f}{max(t):9.2f}{rival / median(t):13.2f}x   "
            f"{best[system][0]:.5f}, {best[system][1]:.3g}"
        )
    same, own = (median(times[f"tutti, {whose} estimator"]) for whose in ("same", "own"))
    lines.append(f"joblib loky against tutti: {median(times['joblib loky']) / same:.2f}x, the same estimator")
    lines.append("Ray: skipped, because no --ray was given" if ray is None else with_ray(ray, rival, same, own))
    save("search", "\n".join([header(), "", *lines]))


if __name__ == "__main__":
    main()
