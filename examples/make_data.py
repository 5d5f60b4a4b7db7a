"""The small files that the examples read; the same on every call."""

import sys
from pathlib import Path

import numpy as np


def libsvm_file(path: Path, n_rows: int = 4000, n_features: int = 300) -> Path:
    """Write sparse rows with labels -1 and +1 as libsvm text."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=n_features)
    with path.open("w") as file:
        for _ in range(n_rows):
            columns = np.sort(rng.choice(n_features, size=12, replace=False))
            values = rng.random(12).round(3)
            label = 1 if values @ truth[columns] + 0.2 * rng.normal() > 0 else -1
            file.write(f"{label:+d} " + " ".join(f"{j + 1}:{v}" for j, v in zip(columns, values, strict=True)) + "\n")
    return path


def parquet_file(path: Path, n_rows: int = 5000, n_features: int = 10) -> Path:
    """Write columns x0, x1, ... and a target as Parquet."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    rng = np.random.default_rng(2)
    x = rng.normal(size=(n_rows, n_features))
    target = x @ np.arange(n_features) + 3 + rng.normal(size=n_rows)
    columns = {f"x{j}": x[:, j] for j in range(n_features)}
    write_table(pa.table({**columns, "target": target}), path, row_group_size=1000)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    print(libsvm_file(folder / "small.svm"), parquet_file(folder / "small.parquet"))
