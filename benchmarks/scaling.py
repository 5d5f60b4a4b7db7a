"""Claim: two workers fit the sparse jobs at least 1.6x as fast as one, with the same bits.

usage: python benchmarks/scaling.py [--data DIR] [--repeats 3]
The tolerances are such that the fit takes over a second on one worker; workers take turns 1, 2, 1, 2, ...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from _common import header, median, save
from data import DEFAULT, ensure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    ensure(given.data, "sparse")
    import scipy.sparse as sp

    import tutti

    v, ix, p, y = (np.load(given.data / f"sparse/train_{s}.npy") for s in ("data", "indices", "indptr", "y"))
    x = sp.csr_matrix((v, ix.astype(np.int32), p.astype(np.int32)), shape=(len(p) - 1, 100_000))
    lines = [header(), ""]
    for name, make in (
        ("sparse-logistic", lambda engine: tutti.LogisticRegression(C=1.0, tol=1e-7, engine=engine)),
        ("sparse-hinge", lambda engine: tutti.LinearSVC(C=1.0, loss="hinge", tol=5e-4, engine=engine)),
    ):
        for kind in (tutti.Threads, tutti.Processes):
            seconds: dict[int, list[float]] = {1: [], 2: []}
            hashes = set()
            for i in range(given.repeats + 1):
                for n, found in seconds.items():
                    began = time.perf_counter()
                    model = make(kind(n)).fit(x, y)
                    if i:
                        found.append(time.perf_counter() - began)
                    hashes.add(model.report_.sha256)
            ratio = median(seconds[1]) / median(seconds[2])
            lines.append(
                f"{name:16} {kind.__name__:10} "
                f"1 worker {median(seconds[1]):.3f} s, 2 workers {median(seconds[2]):.3f} s: "
                f"{ratio:.2f}x (goal 1.6x), {'same bits' if len(hashes) == 1 else 'DIFFERENT BITS'}"
            )
    save("scaling", "\n".join(lines))


if __name__ == "__main__":
    main()
