"""What a net may be fitted on: torch's Datasets, Arrow tables, frames; the same bits as from arrays."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, rows  # noqa: E402
from tutti.errors import DataError, InputError  # noqa: E402
from tutti.estimators import _net_items  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402

nn = torch.nn


def net(kind=MLP, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 1, "random_state": 0, **params})


def sha(*data, kind=MLP):
    return net(kind).fit(*data).report_.sha256


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, *arrays):
        self.arrays = arrays

    def __iter__(self):
        for row in zip(*self.arrays, strict=True):
            yield tuple(map(torch.as_tensor, row)) if len(row) > 1 else row[0]


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (({"x": np.zeros(20, np.float32), "y": i % 3}) for i in itertools.count())


class Items(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def loss(module, batch):
    return nn.functional.cross_entropy(module(batch["x"]), batch["y"])


@pytest.mark.parametrize("kind", [MLP, CNN])
def test_a_stream_has_the_bits_of_arrays(kind):
    x, y = rows(kind, n=1100)
    assert sha(Stream(x, y), kind=kind) == sha(x, y, kind=kind)


def test_train_takes_streams_and_items_of_any_names():
    x, y = rows(MLP)
    whole = tutti.train(MLP, loss, {"x": x, "y": y}, epochs=1).report.sha256
    assert tutti.train(MLP, loss, Stream(x, y), epochs=1).report.sha256 == whole
    named = Items([{"x": a, "y": b} for a, b in zip(x, y, strict=True)])
    assert tutti.train(MLP, loss, named, epochs=1).report.sha256 == whole
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 20), "y": y})
    assert tutti.train(MLP, loss, table, epochs=1).report.sha256 == whole
    made = tutti.train(
        lambda: nn.Linear(20, 20), lambda m, b: (m(b["x"]) - b["x"]).square().mean(), Stream(x), epochs=1
    )
    assert made.history[0]["loss"] > 0


def test_an_endless_stream_is_refused(monkeypatch):
    monkeypatch.setattr(_net_items, "available_bytes", lambda: 4 * 10**6)
    with pytest.raises(InputError, match=r"rows take 0\.001\d* GB, and there is no end: .* bound it"):
        net().fit(Endless())


def test_a_dataloader_is_refused_with_the_way_out():
    loader = torch.utils.data.DataLoader(Stream(*rows(MLP)))
    for fit in (net().fit, lambda d: tutti.train(MLP, loss, d)):
        with pytest.raises(InputError, match=r"give its dataset, fit\(loader\.dataset\)"):
            fit(loader)


@pytest.mark.parametrize(
    "items, message",
    [
        ([], "the Dataset has no row"),
        ([(np.zeros(20), 0), (np.zeros(19), 1)], r"row 1: 'x' has shape \(19,\), before it was \(20,\)"),
        ([(np.zeros(20), 0), np.zeros(20)], "row 1: this row has 'x', the one of number 0 has 'x', 'y'"),
        ([(np.zeros(20), 0, 1)] * 3, "a torch Dataset of pairs .* gives 'x', 'y', 'x2'"),
        ([(np.zeros(2), 0)] * 1024 + [(np.zeros(3), 0)], r"row 1024: 'x' is \(3,\) here"),
        ([(np.zeros(2), 0)] * 1024 + [np.zeros(2)], "not every row has every part: x 1025 times, y 1024 times"),
    ],
)
def test_rows_that_differ_are_named(items, message):
    with pytest.raises(InputError, match=message):
        net().fit(Items(items))


# frames and tables


NAMES = [f"f{j}" for j in range(20)]


def frames(x, y):
    columns = {name: x[:, j] for j, name in enumerate(NAMES)}
    text = np.array(["red", "green", "blue"])[y]
    return [pd.DataFrame({**columns, "kind": text}), pl.DataFrame({**columns, "kind": text}),
            pa.table({**columns, "kind": text})]  # fmt: skip


@pytest.mark.parametrize("form", range(3), ids=["pandas", "polars", "arrow"])
def test_frames_have_the_bits_of_arrays_and_their_labels_may_be_a_column(form):
    x, y = rows(MLP)
    frame = frames(x, y)[form]
    labels = frame.column("kind") if form == 2 else frame["kind"]
    features = frame.select(NAMES) if form else frame[NAMES]
    whole = net().fit(x, np.array(["red", "green", "blue"])[y])
    for made in (net().fit(frame, "kind"), net().fit(features, labels)):
        assert made.report_.sha256 == whole.report_.sha256
        assert list(made.feature_names_in_) == NAMES
        assert made.predict(features).tolist() == whole.predict(x).tolist()
        with pytest.raises(DataError, match="feature names should match"):
            made.predict(features.select(NAMES[::-1]) if form else features[NAMES[::-1]])
    with pytest.raises(DataError, match="y='knd' names no column of X: it has "):
        net().fit(frame, "knd")


def lists(array, *sizes):
    made = pa.array(array.ravel())
    for size in reversed(sizes):
        made = pa.FixedSizeListArray.from_arrays(made, size)
    return made


def test_lists_of_a_fixed_size_are_dimensions():
    x, y = rows(CNN, n=403)
    whole = sha(x, y, kind=CNN)
    table = pa.table({"image": lists(x, 1, 8, 8), "y": y})
    made = net(CNN).fit(table, "y")
    assert made.report_.sha256 == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.predict(table.drop_columns(["y"])).shape == y.shape
    chunked = pa.concat_tables([table.slice(0, 200), table.slice(200)])
    assert sha(chunked, "y", kind=CNN) == whole
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x))
    assert sha(pa.table({"image": tensors, "y": y}), "y", kind=CNN) == whole


def test_lists_and_numbers_stand_side_by_side():
    x, y = rows(MLP)
    table = pa.table({"a": lists(x[:, :5], 5), "b": x[:, 5], "c": lists(x[:, 6:], 14), "y": y})
    assert sha(table, "y") == sha(x, y)


@pytest.mark.parametrize(
    "column, message",
    [
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), "row 1, column 'a': a value is missing"),
        (pa.array([[1.0, None], [1.0, 2.0]], pa.list_(pa.float32(), 2)), "column 'a': a value is missing"),
        (pa.array([["p", "q"], ["p", "q"]], pa.list_(pa.string(), 2)), "dtype object"),
    ],
)
def test_columns_that_cannot_be_arrays_are_named(column, message):
    with pytest.raises(DataError, match=message):
        net().fit(pa.table({"a": column, "b": lists(np.zeros(4), 2), "y": [0, 1]}), "y")
