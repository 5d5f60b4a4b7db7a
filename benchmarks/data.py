"""Make the benchmark data (fixed seeds).  usage: python benchmarks/data.py [--data DIR] [dense sparse higgs]

DIR/dense/{X,y}_train.npy   800,000 x 100 float32, a linear rule, some non-linear terms, 10 % flipped labels
DIR/sparse/train_{data,indices,indptr,y}.npy  400,000 x 100,000 CSR, about 63 non-zeros a row, power-law features
DIR/sparse/train.svm                 the same numbers as libsvm text (1-based)
DIR/higgs/{X,y}_{train,test}.npy  400,000 and 100,000 x 28 float32, products, derived and skewed columns
Labels are 0/1 int8.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

DEFAULT = Path(__file__).parent / "data"


def dense(out: Path, n: int = 1_000_000, d: int = 100) -> None:
    r = np.random.default_rng(1)
    x = r.standard_normal((n, d), dtype=np.float32)
    x[:, d // 2 :] = 0.7 * x[:, d // 2 :] + 0.5 * x[:, : d - d // 2]  # mild correlation
    x *= np.exp(0.3 * r.standard_normal(d)).astype(np.float32)  # unequal scales
    w = r.standard_normal(d).astype(np.float32) * (r.random(d) < 0.5)
    z = x @ w
    z /= z.std()
    z += 0.4 * (x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + (x[:, 3] ** 2 - 1)) + 0.1
    y = z > 0
    y ^= r.random(n) < 0.10
    folder = out / "dense"
    folder.mkdir(parents=True, exist_ok=True)
    m = int(0.8 * n)
    np.save(folder / "X_train.npy", x[:m])
    np.save(folder / "y_train.npy", y[:m].astype(np.int8))


def higgs_rows(seed: int, n: int, d: int = 28) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, d), dtype=np.float32)
    x[:, 21:] = np.abs(x[:, :7] * x[:, 7:14] + 0.5 * x[:, 21:])  # seven derived "masses"
    x[:, 14:18] = np.exp(0.5 * x[:, 14:18])  # skewed positive columns
    z = (
        0.8 * x[:, 0] * x[:, 1] + 0.7 * np.sin(2 * x[:, 2]) * x[:, 3] + 0.6 * (x[:, 21] - x[:, 22])
        + 0.5 * (x[:, 4] ** 2 - x[:, 5] ** 2) + 0.4 * x[:, 6] + 0.5 * np.tanh(x[:, 14] - x[:, 15]) - 0.1
    )  # fmt: skip
    return x, (r.random(n) < 1 / (1 + np.exp(-1.2 * z))).astype(np.int8)


def higgs(out: Path, n: int = 500_000) -> None:
    x, y = higgs_rows(3, n)
    folder = out / "higgs"
    folder.mkdir(parents=True, exist_ok=True)
    m = int(0.8 * n)
    for name, rows in (("train", slice(0, m)), ("test", slice(m, n))):
        np.save(folder / f"X_{name}.npy", x[rows])
        np.save(folder / f"y_{name}.npy", y[rows])


def sparse(out: Path, n: int = 500_000, d: int = 100_000, mean: int = 66) -> None:
    r = np.random.default_rng(2)
    p = 1.0 / (np.arange(d) + 20.0) ** 1.05  # power-law feature frequency
    cdf = np.cumsum(p / p.sum())
    perm = r.permutation(d).astype(np.int32)  # as hashed: no order in the ids
    k = np.clip(np.exp(np.log(mean) - 0.125 + 0.5 * r.standard_normal(n)), 5, 600).astype(np.int64)
    rows = np.repeat(np.arange(n, dtype=np.int64), k)
    f = np.minimum(np.searchsorted(cdf, r.random(len(rows))), d - 1)
    key, count = np.unique(rows * d + perm[f], return_counts=True)
    rows, ids = key // d, (key % d).astype(np.int32)
    df = np.bincount(ids, minlength=d)
    v = (1 + np.log(count)) * np.log(1 + n / np.maximum(df[ids], 1))  # tf-idf, rows of unit norm
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    v /= np.sqrt(np.add.reduceat(v * v, indptr[:-1]))[rows]
    q = np.maximum(np.round(v * 1e5), 1).astype(np.int64)  # five decimals: text and binary agree
    v = (q / 1e5).astype(np.float32)
    w = r.standard_normal(d) * (r.random(d) < 0.3)
    z = np.add.reduceat(v * w[ids], indptr[:-1])
    z = 2.5 * (z - np.median(z)) / z.std() + 0.2
    y = (r.random(n) < 1 / (1 + np.exp(-1.5 * z))).astype(np.int8)
    folder = out / "sparse"
    folder.mkdir(parents=True, exist_ok=True)
    m = int(0.8 * n)
    b = indptr[m]
    for name, array in (("data", v[:b]), ("indices", ids[:b]), ("indptr", indptr[: m + 1]), ("y", y[:m])):
        np.save(folder / f"train_{name}.npy", array)
    write_libsvm(folder / "train.svm", indptr[: m + 1], ids[:b], q[:b], y[:m])


def write_libsvm(
    path: Path, indptr: np.ndarray, ids: np.ndarray, hundred_thousandths: np.ndarray, y: np.ndarray
) -> None:
    """Write rows with values of five decimals, given as whole hundred-thousandths."""
    with open(path, "w") as file:
        for lo in range(0, len(y), 10_000):
            hi = min(lo + 10_000, len(y))
            a, b = indptr[lo], indptr[hi]
            whole, part = np.divmod(hundred_thousandths[a:b], 100_000)
            pairs = [
                f"{i + 1}:{w}.{f:05d}" for i, w, f in zip(ids[a:b].tolist(), whole.tolist(), part.tolist(), strict=True)
            ]
            at = (indptr[lo : hi + 1] - a).tolist()
            labels = y[lo:hi].tolist()
            file.writelines(f"{labels[i]} {' '.join(pairs[at[i] : at[i + 1]])}\n" for i in range(hi - lo))


def ensure(out: Path, *names: str) -> None:
    """Make what is missing."""
    for name in names:
        done = out / name / ("train.svm" if name == "sparse" else "y_train.npy")
        if not done.exists():
            began = time.perf_counter()
            {"dense": dense, "sparse": sparse, "higgs": higgs}[name](out)
            print(f"made {name} data in {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("names", nargs="*", default=["dense", "sparse", "higgs"])
    arguments = parser.parse_args()
    ensure(arguments.data, *arguments.names)
