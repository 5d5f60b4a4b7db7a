"""Claim: libsvm text is parsed at least 3x as fast as xgboost's reader does.

usage: python benchmarks/readers.py [--data DIR] [--repeats 5]
The page cache is warm; every reader runs alone in its process; 2 threads unless the name says otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import alone, header, median, save
from data import DEFAULT, ensure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    ensure(given.data, "sparse")
    path = str(given.data / "sparse/train.svm")
    lines, rate = [header(), ""], {}
    for reader in ("tutti-1", "tutti-2", "xgboost", "sklearn"):
        (row,) = alone("_read.py", reader, path, str(given.repeats if reader != "sklearn" else 1))
        seconds = median(row["seconds"])
        rate[reader] = row["megabytes"] / seconds
        lines.append(f"{reader:8} {seconds:7.3f} s  {rate[reader]:7.0f} MB/s of {row['megabytes']:.0f} MB")
    lines += ["", f"tutti-2 against xgboost: {rate['tutti-2'] / rate['xgboost']:.2f}x (goal 3x)"]
    save("readers", "\n".join(lines))


if __name__ == "__main__":
    main()
