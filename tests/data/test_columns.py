"""CSV and Parquet hold the same numbers as pandas reads, and every bad value is named by its place."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutti._spec import decode, encode
from tutti.data import read_csv, read_parquet
from tutti.data.formats.columns import to_rows
from tutti.data.formats.csv import CsvSource
from tutti.data.formats.parquet import ParquetSource
from tutti.data.scan import scan
from tutti.errors import DataError, ParameterError
from tutti.protocols import Piece, Source

Write = Callable[[str, Any], str]


def table(n: int = 200, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(draw.standard_normal((n, 4)), columns=list("abcd"))
    frame["i"] = draw.integers(-5, 5, n)
    frame["y"] = draw.integers(0, 3, n)
    frame["w"] = draw.random(n)
    return frame


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    frame = table()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=30)
    return {"csv": str(tmp_path / "t.csv"), "parquet": str(tmp_path / "t.parquet")}


READ = {"csv": read_csv, "parquet": read_parquet}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_holds_what_pandas_reads(files: dict[str, str], kind: str, dtype: Any) -> None:
    frame = pd.read_csv(files["csv"])
    found = scan(READ[kind](files[kind], weight="w", dtype=dtype).source, 1 << 30)
    assert found.whole is not None
    assert found.names == ("a", "b", "c", "d", "i")
    assert found.whole.x.flags.c_contiguous
    assert (found.whole.x == frame[list("abcdi")].to_numpy().astype(dtype)).all()
    assert (found.y == frame["y"]).all()
    assert (found.weight == frame["w"]).all()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_can_be_chosen_and_labels_left_out(files: dict[str, str], kind: str) -> None:
    frame = pd.read_csv(files["csv"])
    ds = READ[kind](files[kind], label=None, columns=["c", "a"])
    assert ds.feature_names == ("c", "a")
    assert ds.n_rows == 200
    blocks = list(ds.predict_blocks(2))
    np.testing.assert_allclose(np.concatenate([b.x for b in blocks]), frame[["c", "a"]].to_numpy(), rtol=1e-6)
    assert all(len(b.y) == 0 for b in blocks)
    with pytest.raises(DataError, match="requires y to be passed, but the target y is None"):
        ds.schema("classification")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_may_be_text(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "y": ["x, 1", "b", "x, 1", "é"]})
    path = str(tmp_path / f"t.{kind}")
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    ds = READ[kind](path)
    assert ds.classes == ("b", "x, 1", "é")
    assert ds.open(0, 1, ds.schema("classification")).block(0).y.tolist() == [1, 0, 1, 2]
    with pytest.raises(DataError, match="'x, 1' is text; a regression needs numbers"):
        ds.schema("regression")


def test_text_labels_in_a_dictionary_column_and_booleans_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    y = pa.array(["b", "a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"f": [True, False, True], "y": y, "z": [True, False, True]}), path)
    assert read_parquet(path, columns=["f"]).classes == ("a", "b")
    assert read_parquet(path, label="z", columns=["f"]).classes == (False, True)


def test_types_of_parquet_labels_are_kept_and_those_of_csv_are_guessed_by_value(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "y": [0.0, 1.0]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    assert [type(c) for c in read_csv(str(tmp_path / "t.csv")).classes] == [int, int]
    assert [type(c) for c in read_parquet(str(tmp_path / "t.parquet")).classes] == [float, float]


@given(edges=st.lists(st.integers(0, 700), max_size=6), newline=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_cut_of_a_csv_file_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, edges: list[int], newline: str, last: bool
) -> None:
    rows = [f"{i},{i * 0.5},{'k' if i % 2 else 'l'}" for i in range(40)]
    rows[20:20] = ["", ""]
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes((newline.join(["a,b,y", *rows]) + newline * last).encode())
    n = path.stat().st_size
    cuts = [0, *sorted(min(e, n) for e in edges), n]
    source = CsvSource((str(path),), dtype="float64")
    pieces = [Piece(i, str(path), lo, hi, hi - lo) for i, (lo, hi) in enumerate(pairwise(cuts))]
    parts = [source.read(p) for p in pieces]
    assert np.concatenate([p.x for p in parts])[:, 0].tolist() == list(range(40))
    assert np.concatenate([p.y for p in parts if len(p.y)]).tolist() == ["k" if i % 2 else "l" for i in range(40)]
    lines = [source.line(p, r) for p, part in zip(pieces, parts, strict=True) for r in range(len(part.x))]
    assert lines == list(range(2, 22)) + list(range(24, 44))


def test_a_csv_file_may_have_no_header_another_delimiter_or_a_byte_order_mark(write: Write) -> None:
    assert read_csv(write("a.csv", "1;2;0\n3;4;1\n"), label="f2", delimiter=";", header=False).n_rows == 2
    assert read_csv(write("b.csv", b"\xef\xbb\xbfa,y\n1,0\n2,1\n")).feature_names == ("a",)
    assert read_csv(write("c.csv", '"a b","y"\n1,"p"\n2,"q"\n')).feature_names == ("a b",)


def test_compressed_csv_is_unpacked(write: Write) -> None:
    text = b"a,y\n" + b"1,0\n2,1\n" * 50
    assert read_csv(write("a.csv.gz", gzip.compress(text))).n_rows == 100
    packed = pa.Codec("zstd").compress(text, asbytes=True)
    assert read_csv(write("a.csv.zst", packed)).n_rows == 100
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_csv(write("b.csv.gz", gzip.compress(text)[:-9])).schema("classification")


@pytest.mark.parametrize(
    "body,row,column,message",
    [
        ("1,2,0\n1,x,1\n", 3, "b", "text 'x' where a number was expected"),
        ("1,2,0\n1,,1\n", 3, "b", r"the value is missing \(''\)"),
        ("1,2,0\n\n1,NA,1\n", 4, "b", r"the value is missing \('NA'\)"),
        ("1,2,0\n1,nan,1\n", 3, "b", r"the value is missing \('nan'\)"),
        ("1,2,0\n1,inf,1\n", 3, "b", "the value is inf"),
        ("1,2,0\n1,1e400,1\n", 3, "b", "the value is inf"),
        ("1,2,0\n1,2\n", 3, None, "2 values, but the file has 3 columns"),
        ("1,2,0\n1,2,3,4\n", 3, None, "4 values, but the file has 3 columns"),
        ("1,2,0\n1,2,\n", 3, "y", "the label is missing"),
        ('1,2,"p\nq"\n1,2,r\n', 2, None, "a quoted value holds a line break"),
        ('1,2,"p\n', 2, None, "a quote is not closed"),
        ("1,2,\xff\n", 2, None, "not UTF-8"),
    ],
)
def test_a_broken_csv_line_is_named(write: Write, body: str, row: int, column: Any, message: str) -> None:
    path = write("t.csv", ("a,b,y\n" + body).encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        read_csv(path).schema("classification")
    assert (caught.value.path, caught.value.row, caught.value.column) == (path, row, column)


def test_a_target_that_is_not_finite_is_named_by_its_line(write: Write) -> None:
    path = write("t.csv", "a,y\n1,2\n2,inf\n")
    with pytest.raises(DataError, match="line 3: the label is inf"):
        read_csv(path).schema("regression")


def test_bad_weights_of_a_file_are_named_by_their_line(write: Write) -> None:
    with pytest.raises(DataError, match=r"t.csv, line 3: sample_weight is -1.0"):
        read_csv(write("t.csv", "a,y,w\n1,0,1\n2,1,-1\n"), weight="w").schema("classification")
    with pytest.raises(DataError, match="sample_weight is zero for every row"):
        read_csv(write("u.csv", "a,y,w\n1,0,0\n2,1,0\n"), weight="w").schema("classification")


def test_labels_that_are_text_in_one_file_and_numbers_in_another_are_refused(write: Write) -> None:
    paths = [write("a.csv", "a,y\n1,0\n"), write("b.csv", "a,y\n1,no\n")]
    with pytest.raises(DataError, match=r"b.csv: label 'no' is text, but labels elsewhere are numbers"):
        read_csv(paths).schema("classification")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_label_column_is_refused_with_the_columns_there_are(files: dict[str, str], kind: str) -> None:
    with pytest.raises(DataError, match="no label column 'target'; the columns are a, b, c, d, i, y, w") as caught:
        READ[kind](files[kind], label="target").schema("classification")
    assert "label=None" in str(caught.value)
    with pytest.raises(DataError, match=r"no weight column 'ww'.*Did you mean 'w'"):
        READ[kind](files[kind], weight="ww").schema("classification")
    with pytest.raises(DataError, match="no feature column 'e'"):
        READ[kind](files[kind], columns=["a", "e"]).schema("classification")
    with pytest.raises(DataError, match="'y' is label or weight"):
        READ[kind](files[kind], columns=["a", "y"]).schema("classification")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_with_other_columns_are_refused_and_another_order_is_not(tmp_path: Path, kind: str) -> None:
    def save(name: str, **columns: list[float]) -> str:
        path = str(tmp_path / f"{name}.{kind}")
        frame = pd.DataFrame(columns)
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
        return path

    first = save("first", a=[1.0], b=[2.0], y=[0])
    swapped = save("swapped", y=[1], b=[4.0], a=[3.0])
    found = scan(READ[kind]([first, swapped]).source, 1 << 20)
    assert found.whole is not None
    assert found.whole.x.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"1 feature columns, but .*first.* has 2 \(this file lacks 'b'\)"):
        READ[kind]([first, save("fewer", a=[1.0], y=[0])]).schema("classification")
    with pytest.raises(DataError, match=r"3 feature columns.*\(this file has 'c' besides\)"):
        READ[kind]([first, save("more", a=[1.0], b=[1.0], c=[1.0], y=[0])]).schema("classification")


def test_names_that_occur_twice_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="the column 'a' occurs twice"):
        read_csv(write("t.csv", "a,a,y\n1,2,0\n")).schema("classification")


@pytest.mark.parametrize(
    "column,row,message",
    [
        (pa.array([1.0, None, 3.0]), 1, "the value is missing"),
        (pa.array([1.0, 2.0, float("nan")]), 2, "the value is nan"),
        (pa.array([1.0, float("inf"), 2.0]), 1, "the value is inf"),
        (pa.array(["x", "y", "z"]), None, "holds string, which is not a number"),
        (pa.array([1, 2, 3], pa.timestamp("ms")), None, r"holds timestamp\[ms\], which is not a number"),
    ],
)
def test_a_bad_parquet_column_is_named(tmp_path: Path, column: Any, row: int | None, message: str) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0], "b": column, "y": [0, 1, 0]}), path, row_group_size=2)
    with pytest.raises(DataError, match=message) as caught:
        scan(read_parquet(path).source, 1 << 30)
    assert (caught.value.path, caught.value.row, caught.value.column) == (path, row, "b")


def test_missing_and_odd_parquet_labels_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0], "y": [0, 1, None], "z": [[1], [2], [3]]}), path, row_group_size=2)
    with pytest.raises(DataError, match="the label is missing") as caught:
        read_parquet(path, columns=["a"]).schema("classification")
    assert (caught.value.row, caught.value.column) == (2, "y")
    with pytest.raises(DataError, match="the label holds list"):
        read_parquet(path, label="z", columns=["a"]).schema("classification")


def test_decimals_and_small_integers_of_parquet_are_numbers(tmp_path: Path) -> None:
    import decimal

    path = str(tmp_path / "t.parquet")
    a = pa.array([decimal.Decimal("1.25"), decimal.Decimal("-2.50")])
    pq.write_table(pa.table({"a": a, "b": pa.array([1, 2], pa.int8()), "y": [0, 1]}), path)
    (block,) = read_parquet(path).predict_blocks(2)
    assert block.x.tolist() == [[1.25, 1], [-2.5, 2]]


def test_damaged_parquet_is_refused(write: Write, files: dict[str, str]) -> None:
    with pytest.raises(DataError, match="not a Parquet file, or it is damaged"):
        read_parquet(write("a.parquet", "a,y\n1,2\n")).schema("regression")
    with pytest.raises(DataError, match="the file is empty"):
        read_parquet(write("b.parquet", "")).schema("regression")
    with pytest.raises(DataError, match="not a Parquet file, or it is damaged"):
        read_parquet(write("c.parquet", Path(files["parquet"]).read_bytes()[:-20])).schema("regression")


def test_parquet_labels_are_scanned_without_reading_the_features(files: dict[str, str]) -> None:
    ds = read_parquet(files["parquet"]).cached(None)
    found = scan(ds.source)
    assert found.whole is None
    assert (found.n_rows, found.n_features, found.n_values) == (200, 6, 1200)
    assert ds.schema("classification") == read_parquet(files["parquet"]).schema("classification")


@given(n=st.integers(0, 3000), d=st.integers(0, 5))
def test_columns_become_rows(n: int, d: int) -> None:
    columns = [np.arange(n) * 10 + j for j in range(d)]
    out = to_rows(columns, n, "float64")
    assert out.flags.c_contiguous
    assert out.shape == (n, d)
    assert all((out[:, j] == c).all() for j, c in enumerate(columns))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_sources_are_inert_and_travel(files: dict[str, str], kind: str) -> None:
    ds = READ[kind](files[kind], weight="w")
    assert isinstance(ds.source, Source)
    back = decode(*encode(ds))
    assert back == ds
    assert back.schema("classification") == ds.schema("classification")


@pytest.mark.parametrize("wrong", [{"delimiter": ",,"}, {"delimiter": '"'}, {"dtype": "int"}])
def test_wrong_csv_options_are_refused(wrong: Any) -> None:
    with pytest.raises(ParameterError):
        read_csv("a.csv", **wrong)


def test_wrong_parquet_options_are_refused() -> None:
    with pytest.raises(ParameterError):
        ParquetSource(("a",), dtype="float16")  # type: ignore[arg-type]
