"""Ridge regression on a Parquet file with scikit-learn.  Beside it: ridge_parquet.py, the same on two workers."""

import tempfile
from pathlib import Path

from make_data import parquet_file
from pyarrow.parquet import read_table
from sklearn.linear_model import Ridge

with tempfile.TemporaryDirectory() as folder:
    path = parquet_file(Path(folder) / "small.parquet")

    data = read_table(path).to_pandas()
    X, y = data.drop(columns="target").to_numpy(), data["target"].to_numpy()
    model = Ridge(alpha=1.0)
    model.fit(X, y)

    print(f"R^2 {model.score(X, y):.6f}")
    print(f"weight 0 {model.coef_[0]:.6f}")
