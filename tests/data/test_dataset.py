"""A Dataset is inert; its schema, splits, shards and cached forms agree with each other and with scikit-learn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tutti._spec import decode, encode
from tutti.data import Dataset, from_arrays, read_csv, read_libsvm, read_parquet
from tutti.data import dataset as module
from tutti.data.sources import ArraySource, CountedSource
from tutti.errors import DataError, InputError, ParameterError, PlanError
from tutti.types import Csr, Partition, Schema

SCHEMES = get_args(Partition)
Write = Callable[[str, Any], str]


def rows_of(x: Any) -> np.ndarray:
    return sp.csr_array((x.values, x.indices, x.indptr), shape=x.shape).toarray() if isinstance(x, Csr) else x


def gather(ds: Dataset, n_shards: int, schema: Schema) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows of all shards, shard by shard, with the bounds checked on the way."""
    xs, ys, ws = [np.zeros((0, schema.n_features))], [np.zeros(0, np.int32)], [np.zeros(0)]
    counts = ds.shard_rows(n_shards, schema)
    for s in range(n_shards):
        shard = ds.open(s, n_shards, schema)
        assert shard.id == s
        assert shard.n_rows == counts[s]
        at = 0
        for i, (lo, hi) in enumerate(shard.bounds):
            block = shard.block(i)
            assert (lo, block.start) == (at, at)
            assert block.x.shape == (hi - lo, schema.n_features)
            assert len(block.y) == hi - lo
            assert block.y.dtype == (np.int32 if schema.classes else np.float64)
            xs.append(rows_of(block.x))
            ys.append(block.y)
            ws.append(np.ones(hi - lo) if block.weight is None else block.weight)
            at = hi
        assert at == shard.n_rows
        shard.close()
    return np.concatenate(xs), np.concatenate(ys), np.concatenate(ws)


def problem(n: int = 60, seed: int = 0, sparse: bool = False, order: str = "C") -> tuple[Any, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((n, 4)) * (draw.random((n, 4)) < 0.6)
    x[:, 0] = np.arange(1, n + 1)  # tells the rows apart
    y = np.where(np.arange(n) % 5 < 3, "no", "yes")
    return (sp.csr_array(x) if sparse else np.asarray(x, order=order)), y, draw.random(n) + 0.1


def test_the_schema_of_a_classification() -> None:
    x, y, w = problem()
    schema = from_arrays(x, y, w).schema("classification")
    assert schema == Schema(
        n_rows=60,
        n_features=4,
        classes=("no", "yes"),
        class_weight_sums=schema.class_weight_sums,
        class_counts=(36, 24),
        weight_sum=float(w.sum()),
        weighted=True,
        sparse=False,
        dtype="float64",
        n_values=240,
        n_bytes=240 * 8 + 60 * 8,
        feature_names=None,
    )
    np.testing.assert_allclose(schema.class_weight_sums, [w[y == "no"].sum(), w[y == "yes"].sum()])


def test_the_schema_of_a_sparse_regression() -> None:
    x, _, _ = problem(sparse=True)
    schema = from_arrays(x.astype(np.float32), np.arange(60)).schema("regression")
    assert (schema.classes, schema.class_counts, schema.class_weight_sums) == (None, None, None)
    assert (schema.sparse, schema.dtype, schema.n_values) == (True, "float32", x.nnz)
    assert (schema.weighted, schema.weight_sum) == (False, 60.0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kind, scheme",
    [
        pytest.param(kind, scheme, marks=[pytest.mark.thorough] if kind == "F" and scheme != "balanced" else [])
        for kind in ("C", "F", "sparse")
        for scheme in SCHEMES
    ],
)
@given(n=st.integers(2, 40), n_shards=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_row_is_opened_exactly_once(scheme: Partition, kind: str, n: int, n_shards: int, seed: int) -> None:
    x, y, w = problem(n, seed, sparse=kind == "sparse", order="F" if kind == "F" else "C")
    y = np.where(np.arange(n) == 0, "a", y)
    ds = from_arrays(x, y, w).partition(scheme, random_state=seed)
    schema = ds.schema("classification")
    got, codes, weights = gather(ds, n_shards, schema)
    order = np.argsort(got[:, 0])
    assert (got[order] == rows_of(x if kind != "sparse" else from_arrays(x).source.x)).all()
    assert [schema.classes[c] for c in codes[order]] == y.tolist()  # type: ignore[index]
    assert (weights[order] == w).all()


def test_contiguous_shards_of_arrays_are_views() -> None:
    x, y, _ = problem()
    ds = from_arrays(x, y)
    block = ds.open(3, 8, ds.schema("classification")).block(0)
    assert np.shares_memory(block.x, x)
    xs, _, _ = problem(sparse=True)
    ds = from_arrays(xs, y)
    block = ds.open(3, 8, ds.schema("classification")).block(0)
    assert np.shares_memory(block.x.values, xs.data)


def test_blocks_are_c_ordered_whatever_came() -> None:
    x, y, _ = problem(order="F")
    ds = from_arrays(x, y)
    assert ds.open(1, 4, ds.schema("classification")).block(0).x.flags.c_contiguous
    ds = ds.partition("random")
    assert ds.open(1, 4, ds.schema("classification")).block(0).x.flags.c_contiguous


def test_nothing_writes_to_the_arrays_of_the_caller() -> None:
    x, y, w = problem()
    for array in (x, y, w):
        array.flags.writeable = False
    for scheme in SCHEMES:
        ds = from_arrays(x, y, w).partition(scheme)
        gather(ds, 5, ds.schema("classification"))


def test_balanced_shards_even_out_non_zeros() -> None:
    lengths = np.r_[np.full(50, 40), np.full(950, 2)]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.concatenate([np.arange(k) for k in lengths]).astype(np.int32)
    ds = from_arrays(Csr(indptr, indices, np.ones(len(indices)), 40), np.arange(1000) % 2).partition("balanced")
    schema = ds.schema("classification")
    held = [len(ds.open(s, 4, schema).block(0).x.values) for s in range(4)]
    assert max(held) - min(held) <= 80
    assert ds.shard_rows(4, schema)[0] < 30


def test_a_split_has_the_sizes_of_scikit_learn_and_no_row_twice() -> None:
    x, y, _ = problem(101)
    for stratify in (False, True):
        train, test = from_arrays(x, y).split(0.3, random_state=5, stratify=stratify)
        theirs = train_test_split(x, test_size=0.3, stratify=y if stratify else None)
        assert [train.n_rows, test.n_rows] == [len(t) for t in theirs]
        got = [gather(d, 3, d.schema("classification"))[0][:, 0] for d in (train, test)]
        assert sorted(np.concatenate(got)) == list(range(1, 102))
        if stratify:
            assert abs(test.schema("classification").class_counts[0] - 0.3 * (y == "no").sum()) < 1  # type: ignore[index]


def test_views_compose() -> None:
    x, y, w = problem(100)
    train, test = from_arrays(x, y, w).split(20, random_state=1)
    even = train.partition("stratified").resample("oversample", random_state=2)
    schema = even.schema("classification")
    assert schema.class_counts is not None
    assert schema.class_counts[0] == schema.class_counts[1] == train.schema("classification").class_counts[0]  # type: ignore[index]
    rows, codes, weights = gather(even, 4, schema)
    assert len(rows) == even.n_rows == schema.n_rows == sum(even.shard_rows(4, schema))
    assert set(rows[:, 0]).isdisjoint(gather(test, 2, test.schema("classification"))[0][:, 0])
    assert (weights == w[rows[:, 0].astype(int) - 1]).all()
    np.testing.assert_allclose(np.bincount(codes, weights), schema.class_weight_sums)
    inner, outer = even.split(0.5)
    assert inner.n_rows + outer.n_rows == even.n_rows
    assert test.resample("undersample").n_rows <= test.n_rows


def test_every_method_returns_another_data_set() -> None:
    ds = from_arrays(*problem()[:2])
    before = copy.copy(ds.__dict__)
    for other in (ds.partition("random"), *ds.split(), ds.resample("oversample"), ds.cached(None)):
        assert isinstance(other, Dataset)
        assert other is not ds
    assert {k: v for k, v in ds.__dict__.items() if k != "_memo"} == {k: v for k, v in before.items() if k != "_memo"}


def test_a_train_and_a_test_part_share_one_scan(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = read_csv(write("t.csv", "a,y\n" + "1,0\n2,1\n" * 50))
    train, test = ds.split()
    train.schema("classification")
    monkeypatch.setattr(type(ds.source), "read", None)
    assert test.schema("classification").n_rows == 20
    assert len(gather(test, 3, test.schema("classification"))[0]) == 20


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Dataset]:
    draw = np.random.default_rng(3)
    n = 500
    frame = pd.DataFrame(draw.standard_normal((n, 3)).astype(np.float32), columns=["a", "b", "c"])
    frame["a"] = np.arange(1, n + 1)
    frame["y"] = draw.integers(0, 3, n)
    frame["w"] = draw.random(n) + 0.5
    for part, chunk in enumerate(np.array_split(np.arange(n), 3)):
        frame.iloc[chunk].to_csv(tmp_path / f"{part}.csv", index=False)
        frame.iloc[chunk].to_parquet(tmp_path / f"{part}.parquet", row_group_size=37)
        lines = [f"{r.y:g} 1:{r.a} 2:{r.b!r} 3:{r.c!r}\n" for r in frame.iloc[chunk].itertuples()]
        (tmp_path / f"{part}.svm").write_text("".join(lines).replace("np.float32(", "").replace(")", ""))
    return {
        "csv": read_csv(str(tmp_path / "*.csv"), weight="w"),
        "parquet": read_parquet(str(tmp_path / "?.parquet"), weight="w"),
        "svm": read_libsvm(str(tmp_path / "[0-9].svm")),
    }


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["csv", "parquet", "svm"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_disk_and_streaming_hold_the_same_rows(files: dict[str, Dataset], kind: str, scheme: Partition) -> None:
    ds = files[kind].split(0.2, random_state=1)[0].partition(scheme)
    kept = {keep: ds.cached(keep) for keep in ("memory", "disk", None)}
    schemas = {keep: d.schema("classification") for keep, d in kept.items()}
    assert schemas["memory"] == schemas["disk"] == schemas[None]
    first = gather(kept["memory"], 5, schemas["memory"])
    assert len(first[0]) == 400
    for keep in ("disk", None):
        for one, other in zip(first, gather(kept[keep], 5, schemas[keep]), strict=True):
            assert (one == other).all()


@pytest.mark.parametrize("kind", ["csv", "parquet", "svm"])
@pytest.mark.parametrize("keep", ["memory", "disk", None])
def test_a_settled_data_set_opens_elsewhere_without_a_scan(
    files: dict[str, Dataset], kind: str, keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = files[kind].cached(keep).split(0.2, stratify=True)[1].partition("stratified").resample("oversample")
    schema = ds.schema("classification")
    settled = ds.settled(4, schema)
    there = decode(*encode(settled))
    assert isinstance(there.source, ArraySource if keep == "memory" else CountedSource)
    monkeypatch.setattr("tutti.data.scan.scan", None)
    for one, other in zip(gather(ds, 4, schema), gather(there, 4, schema), strict=True):
        assert (one == other).all()
    places = [[d.open(2, 4, schema).place(r) for r in range(d.shard_rows(4, schema)[2])] for d in (ds, there)]
    assert places[0] == places[1]


@pytest.mark.parametrize("kind", ["csv", "parquet", "svm"])
def test_an_unsettled_data_set_travels_and_scans_again(files: dict[str, Dataset], kind: str) -> None:
    ds = files[kind].split()[1].partition("random")
    there = decode(*encode(ds))
    assert there == ds
    schema = ds.schema("classification")
    assert there.schema("classification") == schema
    assert there.shard_rows(4, schema) == ds.shard_rows(4, schema)


def test_arrays_travel(files: dict[str, Dataset]) -> None:
    x, y, w = problem()
    for data in (x, sp.csr_array(x)):
        ds = from_arrays(data, y, w).partition("random").split()[0]
        schema = ds.schema("classification")
        for there in (decode(*encode(ds)), decode(*encode(ds.settled(3, schema)))):
            for one, other in zip(gather(ds, 3, schema), gather(there, 3, schema), strict=True):
                assert (one == other).all()


@pytest.mark.parametrize("kind,line", [("csv", 2), ("svm", 1), ("parquet", 0)])
def test_the_place_of_a_row_is_its_file_and_line(files: dict[str, Dataset], kind: str, line: int) -> None:
    ds = files[kind]
    schema = ds.schema("classification")
    path, at = ds.open(7, 8, schema).place(10)
    row = ds.open(7, 8, schema).block(0)
    assert path is not None
    assert path.endswith(f"2.{kind}")
    number = rows_of(row.x)[10, 0]
    assert at == int(number) - 1 - 334 + line  # the first two files hold 167 rows each
    assert from_arrays([[1.0], [2.0]], [0, 1]).open(1, 2, schema).place(0) == (None, 1)


@pytest.mark.parametrize("kind", ["csv", "parquet", "svm"])
def test_auto_keeps_in_memory_what_fits(files: dict[str, Dataset], kind: str) -> None:
    ds = files[kind]
    schema = ds.schema("classification")
    assert ds.keep == "auto"
    assert ds.keeps(schema) == "memory"
    tight = ds.cached("auto", limit=schema.n_bytes - 1)
    assert tight.keeps(schema) is None
    assert len(tight.open(0, 2, schema).bounds) > 1
    with pytest.raises(PlanError, match=r'more than the limit of .* MB: write cached\("disk"\) or cached\(None\)'):
        ds.cached("memory", limit=schema.n_bytes - 1).keeps(schema)
    with pytest.raises(PlanError, match="raise the limit"):
        ds.cached("memory", limit=100).open(0, 2, schema)
    with pytest.raises(PlanError, match=r"one piece of .* needs .* decoded, more than the limit"):
        ds.cached(None, limit=100).open(0, 2, schema)
    assert ds.cached("disk").keeps(schema) == "disk"
    assert from_arrays([[1.0], [2.0]], [0, 1]).cached(None).keeps(schema) == "memory"


@pytest.mark.parametrize(
    "limit,bytes_", [("2GB", 2 * 10**9), ("1.5 KiB", 1536), ("7", 7), (5, 5), ("512 mb", 512 * 10**6)]
)
def test_a_limit_may_be_written_as_people_do(limit: Any, bytes_: int) -> None:
    assert from_arrays([[1.0]]).cached("memory", limit).limit == bytes_


@pytest.mark.parametrize("limit", [-1, 0, "-2GB", "x", "2 XB", "I", 1.5, True])
def test_an_impossible_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ParameterError, match="limit"):
        from_arrays([[1.0]]).cached("memory", limit)


def test_a_file_that_changes_or_vanishes_after_the_scan_is_refused(write: Write) -> None:
    path = write("t.svm", "1 1:1\n0 2:1\n" * 20)
    ds = read_libsvm(path).cached(None)
    schema = ds.schema("classification")
    write("t.svm", "1 1:1\n0 2:1\n" * 20 + "1 1:1\n" * 3)
    assert len(gather(ds, 3, schema)[0]) == 40  # what was appended is not part of the plan
    write("t.svm", "1 1:1\n0 22:1" + "\n0 2:1\n" * 38)
    with pytest.raises(DataError, match=r"changed; scan it again|beyond n_features=2"):
        gather(ds, 3, schema)
    write("t.svm", "1 1:1\n7 2:1\n" * 20)
    with pytest.raises(DataError, match=r"label 7.0 is not among the classes 0, 1: the data changed"):
        gather(ds, 3, schema)
    write("t.svm", "1 1:1\n0 2:1\n")
    with pytest.raises(DataError, match="the file shrank"):
        gather(ds, 3, schema)
    Path(path).unlink()
    with pytest.raises(DataError, match=r"t.svm: the file is gone"):
        gather(ds, 3, schema)


@pytest.mark.parametrize("kind", ["csv", "parquet", "svm"])
def test_a_file_that_vanishes_is_named(files: dict[str, Dataset], kind: str) -> None:
    ds = files[kind].cached(None)
    schema = ds.schema("classification")
    Path(ds.open(0, 2, schema).place(0)[0] or "").unlink()
    with pytest.raises(DataError, match=f"0.{kind}: the file is gone"):
        ds.open(0, 2, schema).block(0)


@pytest.mark.parametrize("labels", [[1, 1, 1], ["a", "a", "a"]])
def test_one_class_alone_is_refused(labels: list[Any]) -> None:
    message = f"needs samples of at least 2 classes in the data, but the data contains only one class: {labels[0]!r}"
    with pytest.raises(DataError, match=message):
        from_arrays(np.eye(3), labels).schema("classification")
    with pytest.raises(DataError, match=message):
        from_arrays(np.eye(3), labels).resample("oversample").schema("classification")


def test_labels_that_cannot_be_used_are_refused() -> None:
    x = np.eye(3)
    with pytest.raises(DataError, match="Unknown label type: continuous"):
        from_arrays(x, [0.5, 1.5, 2.5]).schema("classification")
    with pytest.raises(DataError, match="'a' is text; a regression needs numbers"):
        from_arrays(x, ["a", "b", "c"]).schema("regression")
    with pytest.raises(DataError, match="the target y is None"):
        from_arrays(x).schema("regression")
    with pytest.raises(DataError, match="classes are needed to stratify or resample"):
        _ = from_arrays(x).resample("oversample").n_rows


def test_words_that_are_not_known_are_refused() -> None:
    ds = from_arrays(np.eye(3), [0, 1, 0])
    with pytest.raises(ParameterError, match="contiguous, round_robin"):
        ds.partition("blocks")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="oversample"):
        ds.resample("both")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="classification"):
        ds.schema("ranking")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="auto"):
        ds.cached("ram")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="test_size"):
        ds.split(0.0)
    with pytest.raises(ParameterError, match="numbered 0 to 1"):
        ds.open(2, 2, ds.schema("classification"))
    with pytest.raises(ParameterError, match="at least one file"):
        read_csv([])
    for error in (ParameterError, PlanError, DataError):
        assert issubclass(error, InputError)


def test_sample_weights_of_zero_in_the_chosen_rows_are_refused() -> None:
    ds = from_arrays(np.eye(4), [0, 1, 0, 1], [1, 0, 0, 0])
    parts = ds.split(0.5)
    with pytest.raises(DataError, match="zero for every row"):
        [p.schema("classification") for p in parts]


def test_prediction_blocks_come_in_order_and_widen_sparse_rows(files: dict[str, Dataset]) -> None:
    for kind in ("csv", "parquet"):
        rows = np.concatenate([b.x for b in files[kind].predict_blocks(3)])
        assert rows[:, 0].tolist() == list(range(1, 501))
    blocks = list(files["svm"].predict_blocks(10, classes=(0, 1, 2)))
    assert {b.x.n_features for b in blocks} == {10}
    assert [b.start for b in blocks] == np.cumsum([0] + [b.x.shape[0] for b in blocks])[:-1].tolist()
    assert {b.y.dtype for b in blocks} == {np.dtype(np.int32)}
    with pytest.raises(DataError, match="X has 3 features, but the model is expecting 2 features as input"):
        list(files["svm"].predict_blocks(2))
    with pytest.raises(DataError, match="X has 3 features, but the model is expecting 4"):
        list(files["csv"].predict_blocks(4))
    with pytest.raises(DataError, match=r"0.svm: label 2.0 is not among the classes 0, 1"):
        list(files["svm"].predict_blocks(3, classes=(0, 1)))


def test_prediction_blocks_of_a_split_are_its_rows(files: dict[str, Dataset]) -> None:
    _, test = files["csv"].split(0.2)
    rows = np.concatenate([b.x for b in test.predict_blocks(3)])
    assert (rows == gather(test, 1, test.schema("classification"))[0]).all()


def test_large_arrays_are_predicted_in_blocks_without_copies() -> None:
    x = np.zeros((150_000, 1))
    blocks = list(from_arrays(x).predict_blocks(1))
    assert [b.x.shape[0] for b in blocks] == [65_536, 65_536, 18_928]
    assert all(np.shares_memory(b.x, x) for b in blocks)


def test_a_copied_data_set_finds_out_for_itself() -> None:
    ds = from_arrays(*problem()[:2])
    schema = ds.schema("classification")
    assert copy.deepcopy(ds).schema("classification") == schema


def test_making_a_data_set_reads_nothing() -> None:
    for make in (module.read_csv, module.read_libsvm, module.read_parquet):
        assert make("no/such/file").limit is None
    with pytest.raises(DataError, match="no such file or folder"):
        _ = read_csv("no/such/file").n_rows
