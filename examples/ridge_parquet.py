"""Ridge regression on a Parquet file with two workers.  Beside it: ridge_parquet_sklearn.py, the same on one."""

import tempfile
from pathlib import Path

from make_data import parquet_file

import tutti

with tempfile.TemporaryDirectory() as folder:
    path = parquet_file(Path(folder) / "small.parquet")

    data = tutti.read_parquet(str(path), label="target", dtype="float64")
    model = tutti.Ridge(alpha=1.0, engine=tutti.Threads(2))
    print(model.explain(data))
    model.fit(data)

    print(f"R^2 {model.score(data):.6f}")
    print(f"weight 0 {model.coef_[0]:.6f}")
