"""Claim: the cost per row and pass is flat from 1e5 to 1e7 streamed rows, and memory stays under the cap.

usage: python benchmarks/flat.py [--data DIR] [--largest 10000000] [--jobs ...]
Rows of 20 float32 features in Parquet; nothing is kept between passes (``cached(None)``); one process a size, after one
that compiles on the smallest.  ``--jobs`` without names makes the data and stops; trees have a result of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import alone, header, save
from data import DEFAULT

CAP = 1.5e9  # bytes, the whole process with its libraries; 1e7 rows alone are 0.8e9 decoded
CAP_TREES = 2.5e9  # trees keep the codes of all rows (boosting twice) and some 50 bytes a row besides


def make(folder: Path, n: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (folder / "_done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    w = np.random.default_rng(0).standard_normal(20).astype(np.float32)
    for part, lo in enumerate(range(0, n, 1_000_000)):
        r = np.random.default_rng(part + 1)
        m = min(1_000_000, n - lo)
        x = r.standard_normal((m, 20), dtype=np.float32)
        y = (x @ w + 2 * r.standard_normal(m) > 0).astype(np.int8)
        columns = {f"f{j}": x[:, j] for j in range(20)} | {"y": y}
        pq.write_table(pa.table(columns), folder / f"part-{part:03d}.parquet", row_group_size=50_000)
    (folder / "_done").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--jobs", nargs="*", default=["logistic", "hinge", "ridge", "forest", "boosting"])
    given = parser.parse_args()
    sizes = [n for n in (100_000, 1_000_000, 10_000_000) if n <= given.largest]
    for n in sizes:
        make(given.data / f"flat-{n}", n)
    results: dict[str, list[str]] = {}
    for name in given.jobs:
        result = "flat_trees" if name in ("forest", "boosting") else "flat"
        lines = results.setdefault(result, [header(), ""])
        alone("_flat.py", str(given.data / f"flat-{sizes[0]}"), name)  # compile
        cap = CAP_TREES if name in ("forest", "boosting") else CAP
        per_row = []
        for n in sizes:
            (row,) = alone("_flat.py", str(given.data / f"flat-{n}"), name)
            per_row.append(row["seconds"] / n)
            lines.append(
                f"{name:9} {n:>10,} rows  {row['seconds']:7.2f} s  {row['seconds'] / n * 1e9:7.0f} ns a row  "
                f"{row['passes']:5.2f} passes  peak {row['peak'] / 1e9:.2f} GB (cap {cap / 1e9:.1f})"
            )
        lines.append(f"{name:9} cost per row, largest against smallest: {per_row[-1] / per_row[0]:.2f}")
        save(result, "\n".join(lines))


if __name__ == "__main__":
    main()
