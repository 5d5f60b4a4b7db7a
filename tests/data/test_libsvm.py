"""The libsvm parser reads every textual style as Python would, cuts files anywhere, and names what is broken."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from tutti.data import read_libsvm
from tutti.data._kernels import libsvm as kernel
from tutti.data.formats.libsvm import LibsvmSource
from tutti.data.scan import scan
from tutti.errors import DataError, ParameterError
from tutti.protocols import Piece, Source
from tutti.types import Csr

Write = Callable[[str, Any], str]


def pieces_at(path: str, edges: Sequence[int]) -> list[Piece]:
    n = Path(path).stat().st_size
    cuts = [0, *sorted(min(max(e, 0), n) for e in edges), n]
    return [Piece(i, path, lo, hi, hi - lo) for i, (lo, hi) in enumerate(pairwise(cuts))]


def load(path: str, **options: Any) -> tuple[Csr, np.ndarray]:
    found = scan(LibsvmSource((path,), **options), keep_bytes=1 << 40)
    assert found.whole is not None
    return found.whole.x, found.whole.y


def one_value(write: Write, token: str, dtype: str = "float64") -> float:
    x, _ = load(write("one.svm", f"1 1:{token}\n"), dtype=dtype)
    return float(x.values[0])


def styled(value: float, style: int) -> str:
    text = [repr(value), f"{value:.16g}", f"{value:.17e}", f"{value:+.6f}", f"{value:E}", f"{value:.25f}"][style]
    return "0" + text if style == 3 and text[0] not in "+-" else text


rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "-1", "+1", "0", "2.5", "1e0"]),
        st.dictionaries(
            st.integers(1, 40), st.tuples(st.floats(-1e6, 1e6, allow_subnormal=False), st.integers(0, 5)), max_size=6
        ),
        st.sampled_from(["", "  ", "\t", " # note 3:4", "#", "\r"]),
        st.sampled_from(["", "\n", "   \n", "# comment 1:2\n", "\r\n"]),
        st.sampled_from([" ", "  ", "\t"]),
    ),
    min_size=1,
    max_size=12,
)


@given(rows=rows, last_newline=st.booleans(), edges=st.lists(st.integers(0, 400), max_size=5))
def test_every_style_and_every_cut_gives_the_numbers_that_python_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, last_newline: bool, edges: list[int]
) -> None:
    text, labels, indptr, indices, values = "", [], [0], [], []
    for label, pairs, end, before, space in rows:
        tokens = [(i, styled(*pairs[i])) for i in sorted(pairs)]
        text += before + space.join([label, *(f"{i}:{v}" for i, v in tokens)]) + end + "\n"
        labels.append(float(label))
        indices += [i - 1 for i, _ in tokens]
        values += [float(v) for _, v in tokens]
        indptr.append(len(indices))
    path = str(tmp_path_factory.mktemp("svm") / "a.svm")
    Path(path).write_bytes((text if last_newline else text[:-1]).encode())
    source = LibsvmSource((path,), n_features=40, dtype="float64")
    parts = [source.read(p) for p in pieces_at(path, edges)]
    assert np.concatenate([p.y for p in parts]).tolist() == labels
    assert np.concatenate([p.x.indices for p in parts]).tolist() == indices
    np.testing.assert_array_max_ulp(np.concatenate([p.x.values for p in parts]), np.array(values, dtype=float), 1)
    assert np.concatenate([np.diff(p.x.indptr) for p in parts]).tolist() == np.diff(indptr).tolist()
    assert {p.x.n_features for p in parts} == {40}


def test_a_line_can_be_found_again_for_every_row(write: Write) -> None:
    path = write("a.svm", "\n1 1:1\n# c\n2 1:1\r\n\n  \n3 1:1\n4")
    source = LibsvmSource((path,))
    lines = [source.line(p, r) for p in pieces_at(path, [3, 11, 20]) for r in range(source.read(p).x.shape[0])]
    assert lines == [2, 4, 7, 8]


@given(value=st.floats(allow_nan=False, allow_infinity=False), style=st.integers(0, 2))
@example(9007199254740993.0, 0)
@example(1.7976931348623157e308, 0)
@example(5e-324, 0)
def test_any_float_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, value: float, style: int) -> None:
    token = styled(value, style)
    assume(np.isfinite(float(token)))  # rounding to 16 digits may leave the range
    path = tmp_path_factory.mktemp("svm") / "a.svm"
    path.write_text(f"1 1:{token}\n")
    x, _ = load(str(path), dtype="float64")
    assert x.values[0] == float(token)


@given(
    digits=st.text("0123456789", min_size=1, max_size=30),
    point=st.integers(0, 30),
    exponent=st.integers(-80, 80),
)
def test_decimals_of_any_length_are_correctly_rounded(digits: str, point: int, exponent: int) -> None:
    text = digits[:point] + "." + digits[point:] + f"e{exponent}"
    end, value, state = kernel.number(np.frombuffer(text.encode() + b"\n", dtype=np.uint8), 0)
    assert end == len(text)
    if state == 0:
        assert value == float(text)
    else:
        assert state == 2
        assert len(digits.lstrip("0")) > 19 or abs(exponent) > 30


@pytest.mark.parametrize(
    "token,value",
    [
        *zip(
            ["1", "+1", "-0.5", ".5", "5.", "1e-3", "1.5E+4", "-1e2", "000000000000000000000001.50", "0e999", "-0"],
            [1.0, 1.0, -0.5, 0.5, 5.0, 1e-3, 15000.0, -100.0, 1.5, 0.0, 0.0],
            strict=True,
        )
    ],
)
def test_numbers_come_in_many_styles(write: Write, token: str, value: float) -> None:
    assert one_value(write, token) == value
    assert one_value(write, token, "float32") == np.float32(value)


def test_a_number_of_any_length_is_read_whole(write: Write) -> None:
    long = "0." + "1" * 3000 + "e1"
    assert one_value(write, long) == float(long)
    assert one_value(write, "0" * 3000 + "2.5") == 2.5


def test_agrees_with_scikit_learn(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 40)) * (draw.random((300, 40)) < 0.3) * 10.0 ** draw.integers(-8, 8, (300, 40))
    y = draw.standard_normal(300)
    for zero_based in (True, False):
        path = str(tmp_path / f"{zero_based}.svm")
        dump_svmlight_file(x, y, path, zero_based=zero_based, comment="a comment")
        theirs, their_y = load_svmlight_file(path, n_features=40, zero_based=zero_based)
        ours, our_y = load(path, n_features=40, zero_based=zero_based, dtype="float64")
        assert (ours.values == theirs.data).all()
        assert (ours.indices == theirs.indices).all()
        assert (ours.indptr == theirs.indptr).all()
        assert (our_y == their_y).all()


def test_the_number_of_threads_and_pieces_changes_nothing(write: Write) -> None:
    draw = np.random.default_rng(1)
    lines = [f"{draw.integers(2)} " + " ".join(f"{i}:{draw.random():.5f}" for i in range(1, 40)) for _ in range(4000)]
    path = write("a.svm", "\n".join(lines))
    source = LibsvmSource((path,))
    assert len(source.pieces()) >= 5
    one, four = scan(source, 1 << 40, threads=1), scan(source, 1 << 40, threads=4)
    assert one.whole is not None
    assert four.whole is not None
    for name in ("indptr", "indices", "values"):
        assert (getattr(one.whole.x, name) == getattr(four.whole.x, name)).all()
    (whole,) = pieces_at(path, [])
    assert (source.read(whole).x.values == one.whole.x.values).all()


def test_rows_without_features_and_many_short_rows_are_read(write: Write) -> None:
    x, y = load(write("a.svm", "1\n2\n" * 5000 + "3 7:1"))
    assert y.tolist() == [1, 2] * 5000 + [3]
    assert x.shape == (10001, 7)
    assert x.indptr[-1] == 1


def test_many_numbers_beyond_the_fast_path_are_read(write: Write) -> None:
    value = "0.123456789012345678901234567890"
    line = " ".join(f"{i}:{value}" for i in range(1, 6001))
    x, y = load(write("a.svm", f"1 {line}\n" + f"{value} 1:{value}\n" * 9000), dtype="float64")
    assert set(x.values.tolist()) == {float(value)}
    assert len(x.values) == 15000
    assert set(y[1:].tolist()) == {float(value)}


def test_labels_of_text_are_whole_numbers_where_they_can_be(write: Write) -> None:
    assert read_libsvm(write("a.svm", "+1 1:1\n-1 1:2\n")).classes == (-1, 1)
    ds = read_libsvm(write("b.svm", "0.5 1:1\n1.5 1:2\n"))
    assert ds.schema("regression").classes is None
    with pytest.raises(DataError, match="Unknown label type"):
        _ = ds.classes


def test_width_is_the_largest_index_or_what_is_given(write: Write) -> None:
    path = write("a.svm", "1 1:1\n2 5:1\n")
    assert read_libsvm(path).n_features == 5
    assert read_libsvm(path, n_features=9).n_features == 9
    assert read_libsvm(path, zero_based=True).n_features == 6


@pytest.mark.parametrize(
    "line,message",
    [
        ("1 1:2 x", "'x' lacks a colon; features are written index:value"),
        ("1 1:2 3", "'3' lacks a colon"),
        ("1 0:1", "index 0 in '0:1': indices start at 1 here.*pass zero_based=True"),
        ("1 3:1 2:1", "index 2 comes after 3; write the indices of a row in rising order"),
        ("1 3:1 3:1", "index 3 occurs twice"),
        ("1 1:nan", "the value in '1:nan' is not finite"),
        ("1 1:-inf", "the value in '1:-inf' is not finite"),
        ("1 1:1e999", "the value in '1:1e999' is too large"),
        (f"1 1:{'1' * 25}x", "is not a number"),
        (f"{'1' * 25}x 1:1", "is not a number"),
        ("1 1:1e39", 'too large for float32: pass dtype="float64"'),
        ("1 1:" + "9" * 50, 'too large for float32: pass dtype="float64"'),
        ("1 qid:3 1:1", "groups rows for ranking, which is not supported: remove the qid column"),
        ("x 1:1", "the label 'x' is not a number"),
        ("nan 1:1", "the label 'nan' is not finite"),
        ("1e999 1:1", "the label '1e999' is too large"),
        ("1,2 1:1", "list of labels; one label a row"),
        ("1:1 2:2", "the line starts with '1:1'; a label such as 1 or -1 comes first"),
        ("1 -1:3", "the index in '-1:3' is negative"),
        ("1 a:3", "the index in 'a:3' is not a whole number"),
        ("1 1:", "the value in '1:' is not a number"),
        ("1 1:1:1", "the value in '1:1:1' is not a number"),
        ("1 1:1e", "the value in '1:1e' is not a number"),
        ("1 1:1_0", "is not a number"),
        ("1 1:0x1", "is not a number"),
        ("1 1:--1", "is not a number"),
        ("1 99:1", "index 99 in '99:1' is beyond n_features=50"),
        ("\x00\x00", "is not a number"),
    ],
)
@pytest.mark.parametrize("newline", [True, False])
def test_a_broken_line_is_named_with_its_reason(write: Write, line: str, message: str, newline: bool) -> None:
    path = write("a.svm", "# head\n1 1:1\n\n" + line + ("\n2 1:1\n" if newline else ""))
    with pytest.raises(DataError, match=message) as caught:
        read_libsvm(path, n_features=50).schema("regression")
    assert (caught.value.path, caught.value.row) == (path, 4)
    assert f"{path}, line 4: " in str(caught.value)


def test_an_index_beyond_int32_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="larger than 2147483647"):
        read_libsvm(write("a.svm", "1 3000000000:1\n")).schema("regression")
    with pytest.raises(DataError, match="larger than"):
        read_libsvm(write("a.svm", "1 99999999999999999999999:1\n")).schema("regression")


def test_the_first_broken_line_of_a_large_file_is_named_with_its_number(write: Write) -> None:
    lines = [f"1 {i % 90 + 1}:0.5 100:1" for i in range(60_000)]
    lines[40_321] = "1 1:2 oops"
    lines[50_000] = "1 later"
    path = write("a.svm", "\n".join(lines))
    assert len(LibsvmSource((path,)).pieces()) >= 4
    for threads in (1, 3):
        with pytest.raises(DataError, match="oops") as caught:
            read_libsvm(path).schema("regression", threads)
        assert caught.value.row == 40_322


def test_gzip_is_unpacked_and_a_truncated_one_is_named(write: Write) -> None:
    text = "".join(f"{i % 2} 1:{i}\n" for i in range(5000)).encode()
    path = write("a.svm.gz", gzip.compress(text))
    assert read_libsvm(path).schema("classification").class_counts == (2500, 2500)
    assert read_libsvm(path).open(3, 8, read_libsvm(path).schema("classification")).place(0) == (path, 1876)
    with pytest.raises(DataError, match="cannot be unpacked, is it damaged or cut short") as caught:
        read_libsvm(write("b.svm.gz", gzip.compress(text)[:-2000])).schema("regression")
    assert "b.svm.gz" in str(caught.value)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_libsvm(write("c.svm.gz", b"1 1:1\n")).schema("regression")


def test_zstd_is_unpacked(write: Write) -> None:
    import pyarrow as pa

    packed = pa.Codec("zstd").compress(b"1 1:1\n0 2:3\n", asbytes=True)
    assert read_libsvm(write("a.svm.zst", packed)).n_features == 2
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_libsvm(write("b.svm.zst", packed[:-4])).schema("regression")


@pytest.mark.parametrize("content", ["# nothing\n", "\n\n"])
def test_a_file_without_rows_is_refused(write: Write, content: str) -> None:
    with pytest.raises(DataError, match=r"0 sample\(s\)"):
        read_libsvm(write("a.svm", content)).schema("regression")


def test_an_empty_file_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.svm: the file is empty"):
        read_libsvm(write("a.svm", "")).schema("regression")


def test_rows_without_any_feature_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"0 feature\(s\)"):
        read_libsvm(write("a.svm", "1\n2\n")).schema("regression")


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"n_features": 0}, {"n_features": 2**31}])
def test_wrong_options_are_refused(options: Any) -> None:
    with pytest.raises(ParameterError):
        read_libsvm("a.svm", **options)


def test_fits_the_protocol() -> None:
    assert isinstance(LibsvmSource(("a",)), Source)
