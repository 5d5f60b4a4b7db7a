"""Missing values of trees: the same model from arrays, frames, Arrow tables and files, and one way of asking for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

import tutti
from tutti.errors import DataError

RNG = np.random.default_rng(4)
X = np.round(RNG.standard_normal((400, 3)), 3)
X[RNG.random(X.shape) < 0.1] = np.nan
Y = (np.nansum(X, axis=1) > 0).astype(int)
NAMES = ["a", "b", "c"]
MODELS = {
    "forest": lambda: tutti.RandomForestClassifier(5),
    "forest of targets": lambda: tutti.RandomForestRegressor(5),
    "boosting": lambda: tutti.GradientBoostingClassifier(n_estimators=5),
    "boosting of targets": lambda: tutti.GradientBoostingRegressor(n_estimators=5),
}


def table() -> pa.Table:
    columns = {n: [None if np.isnan(v) else float(v) for v in X[:, j]] for j, n in enumerate(NAMES)}
    return pa.table(columns)


@pytest.mark.parametrize("name", list(MODELS))
def test_nulls_of_frames_tables_and_files_are_the_nan_of_arrays(name: str, tmp_path: Path) -> None:
    right = MODELS[name]().fit(X, Y)
    rows = table()
    kept = {
        "pandas": pd.DataFrame({n: pd.array(rows[n].to_pylist(), dtype="Float64") for n in NAMES}),
        "polars": pl.from_arrow(rows),
        "arrow": rows,
        "objects": np.array([rows[n].to_pylist() for n in NAMES], dtype=object).T,
    }
    for kind, x in kept.items():
        model = MODELS[name]().fit(x, Y)
        assert model.report_.sha256 == right.report_.sha256, kind
        np.testing.assert_array_equal(model.predict(x), right.predict(X))
    pq.write_table(rows.append_column("y", pa.array(Y)), tmp_path / "t.parquet")
    pc.write_csv(rows.append_column("y", pa.array(Y)), tmp_path / "t.csv")
    for read, file in ((tutti.read_parquet, "t.parquet"), (tutti.read_csv, "t.csv")):
        data: Any = read(str(tmp_path / file), dtype="float64", missing=True)
        model = MODELS[name]().fit(data)
        assert model.report_.sha256 == right.report_.sha256, file
        np.testing.assert_array_equal(model.predict(data), right.predict(X))
        with pytest.raises(DataError, match=r"missing=True\) for trees") as caught:
            MODELS[name]().fit(str(tmp_path / file), "y")
        assert caught.value.path == str(tmp_path / file)


def test_files_with_missing_values_give_the_same_forest_in_both_layouts(tmp_path: Path) -> None:
    pq.write_table(table().append_column("y", pa.array(Y)), tmp_path / "t.parquet")
    data = tutti.read_parquet(str(tmp_path / "t.parquet"), missing=True)
    one = tutti.RandomForestClassifier(5, engine=tutti.Threads(1)).fit(data)
    two = tutti.RandomForestClassifier(5, engine=tutti.Threads(3), strategy=tutti.AllReduce()).fit(data)
    assert one.report_.sha256 == two.report_.sha256


def test_arrow_columns_of_names_are_categories() -> None:
    names = np.array(["ash", "elm", "fir"])[RNG.integers(0, 3, 400)]
    y = (names == "elm").astype(int)
    rows = pa.table({"noise": X[:, 0], "tree": pa.array(names).dictionary_encode()})
    model = tutti.RandomForestClassifier(5, max_depth=1, max_features=None).fit(rows, y)
    assert model.score(rows, y) == 1.0


def test_other_models_still_refuse_nulls() -> None:
    with pytest.raises(DataError, match="a value is missing"):
        tutti.LinearSVC().fit(table(), Y)
    x = pa.table({"a": [1.0, None]})
    assert np.isnan(next(iter(tutti.from_arrays(x, missing=True).predict_blocks(1))).x[1, 0])
