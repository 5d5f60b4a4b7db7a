"""What callers hand over becomes float arrays or canonical CSR, without a copy where none is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tutti.data import from_arrays
from tutti.errors import DataError, InputError, ParameterError
from tutti.types import Csr


def matrix(x: Any) -> Any:
    return from_arrays(x).source.x


def dense(x: Any) -> np.ndarray:
    return sp.csr_array((x.values, x.indices, x.indptr), shape=x.shape).toarray() if isinstance(x, Csr) else x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_float_arrays_are_not_copied(dtype: str, order: str) -> None:
    x = np.asarray(np.arange(6).reshape(3, 2), dtype=dtype, order=order)
    found = matrix(x)
    assert np.shares_memory(found, x)
    assert found.dtype == dtype


@pytest.mark.parametrize(
    "dtype,becomes",
    [
        *((t, "float32") for t in ("bool", "int8", "uint16", "float16", ">f4")),
        *((t, "float64") for t in ("int32", "int64", "uint64", ">f8")),
    ],
)
def test_other_numbers_become_the_float_that_holds_them(dtype: str, becomes: str) -> None:
    found = matrix(np.array([[0, 1], [1, 1]]).astype(dtype))
    assert found.dtype == np.dtype(becomes)
    assert found.tolist() == [[0, 1], [1, 1]]


def test_strided_views_and_read_only_arrays_are_taken() -> None:
    x = np.arange(24.0).reshape(4, 6)
    assert (matrix(x[::2, ::3]) == x[::2, ::3]).all()
    x.flags.writeable = False
    assert np.shares_memory(matrix(x), x)


def test_tensors_hold_the_same_numbers() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rows = [[1.0, 2.0], [3.0, 4.5], [5.0, 6.0]]
    for x in (torch.tensor(rows), torch.tensor(rows, requires_grad=True).bfloat16()):
        assert matrix(x).tolist() == rows
        assert from_arrays(x).feature_names is None


def test_lists_frames_and_tables_hold_the_same_numbers() -> None:
    rows = [[1.0, 2.0], [3.0, 4.5], [5.0, 6.0]]
    named = {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.5, 6.0]}
    assert matrix(rows).tolist() == rows
    assert from_arrays(rows).feature_names is None
    for x in (pd.DataFrame(named), pl.DataFrame(named), pa.table(named), pa.record_batch(named)):
        assert matrix(x).tolist() == rows
        assert from_arrays(x).feature_names == ("a", "b")
    mixed = pd.DataFrame({"a": pd.array([1, 3, 5], dtype="Int64"), "b": np.float32([2, 4.5, 6])})
    assert matrix(mixed).tolist() == rows
    assert matrix(pd.DataFrame({"a": np.int8([1, 2]), "b": np.float32([1, 2])})).dtype == np.float32


def test_homogeneous_frames_are_not_copied() -> None:
    x = np.arange(6.0).reshape(3, 2)
    frame = pd.DataFrame(x)
    assert np.shares_memory(matrix(frame), frame.to_numpy())
    assert from_arrays(pd.DataFrame(x)).feature_names is None


def test_canonical_csr_is_not_copied() -> None:
    x = sp.random(20, 30, 0.2, format="csr", dtype=np.float32, random_state=0)
    found = matrix(x)
    assert np.shares_memory(found.values, x.data)
    assert np.shares_memory(found.indices, x.indices)
    assert found.indptr.dtype == np.int64


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("make", [sp.csr_array, sp.csr_matrix])
def test_any_sparse_form_becomes_csr(form: str, make: Any) -> None:
    x = make(sp.random(15, 12, 0.3, format="csr", random_state=1))
    found = matrix(x.asformat(form))
    assert (dense(found) == x.toarray()).all()
    assert all((np.diff(found.indices[a:b]) > 0).all() for a, b in zip(found.indptr, found.indptr[1:], strict=False))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 9)), max_size=30))
def test_repeated_and_unsorted_entries_are_summed_and_the_input_is_left_alone(entries: list[tuple[int, ...]]) -> None:
    entries.sort(key=lambda e: e[0])
    rows, columns, values = (np.array([e[i] for e in entries], dtype=np.int64) for i in range(3))
    indptr = np.searchsorted(rows, np.arange(6))
    x = sp.csr_array((values.astype(float), columns, indptr), shape=(5, 6))
    before = x.data.copy(), x.indices.copy()
    found = matrix(x)
    assert (dense(found) == x.toarray()).all()
    assert found.indices.dtype == np.int32
    assert (x.data == before[0]).all()
    assert (x.indices == before[1]).all()


def test_a_broken_sparse_matrix_is_refused() -> None:
    with pytest.raises(DataError, match=r"an index lies outside 0\.\.2"):
        matrix(Csr(np.array([0, 1]), np.array([3], dtype=np.int32), np.ones(1), 3))
    with pytest.raises(DataError, match="outside"):
        matrix(Csr(np.array([0, 2]), np.array([2, -1], dtype=np.int32), np.ones(2), 3))
    with pytest.raises(DataError, match="indptr runs back"):
        matrix(Csr(np.array([0, 2, 1]), np.array([0, 1], dtype=np.int32), np.ones(2), 3))
    with pytest.raises(DataError, match="do not fit together"):
        matrix(Csr(np.array([0, 1]), np.array([0], dtype=np.int32), np.ones(2), 3))


@pytest.mark.parametrize(
    "x,message",
    [
        (np.zeros(3), "Expected 2D array, got 1D array instead.*Reshape your data"),
        (np.zeros((2, 2, 2)), "Expected 2D array, got 3D array.*Found array with dim 3"),
        (np.float64(3), "got scalar array instead"),
        (np.zeros((0, 3)), r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"),
        (np.zeros((2, 0)), r"0 feature\(s\) \(shape=\(2, 0\)\) while a minimum of 1 is required"),
        (pd.DataFrame({"a": []}), r"0 sample\(s\)"),
        (sp.csr_array((0, 3)), r"0 sample\(s\)"),
        (sp.csr_array((3, 0)), r"0 feature\(s\)"),
        (np.zeros((2, 2), dtype=complex), "Complex data not supported"),
        (sp.csr_array(np.eye(2, dtype=complex)), "Complex data not supported"),
        ([[1, "a"], [2, "b"]], "row 0, column 1: text 'a' where a number was expected"),
        (np.array([[1, None]], dtype=object), "row 0, column 1: a value is missing"),
        ([[1, 2], [3]], "not a table of numbers"),
        (np.zeros((2, 2), dtype="M8[s]"), "not a number"),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), "row 0, column 'b': 'x' where a number was expected"),
        (pl.DataFrame({"a": [1, None]}), "row 1, column 'a': a value is missing"),
        (pa.table({"a": [1, 2, None]}), "row 2, column 'a': a value is missing"),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), "row 1, column 'a': a value is missing"),
        (pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}), "column 't': X holds datetime64"),
        (np.ma.array([[1.0, 2.0]], mask=[[0, 1]]), "masked values came"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(x: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(x)


def test_an_object_that_is_no_number_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"argument must be .* string.* number"):
        from_arrays(np.array([[1.0, {}]], dtype=object))


def test_numbers_in_object_arrays_are_taken() -> None:
    assert matrix(np.array([[1, "2.5"]], dtype=object)).tolist() == [[1, 2.5]]


X2 = np.eye(2)


@pytest.mark.parametrize(
    "y,message",
    [
        ([1], r"inconsistent numbers of samples: \[2, 1\]"),
        (np.ones((2, 2)), r"y should be a 1d array, got an array of shape \(2, 2\)"),
        (3, r"y should be a 1d array, got an array of shape \(\)"),
        ([1 + 1j, 2], "Complex data not supported"),
        (np.array(["a", 1], dtype=object), "row 1: Unknown label type: unknown. y mixes str and int"),
        (np.array(["a", None], dtype=object), "row 1: Input y contains NaN or None"),
        (np.array([1.0, np.nan], dtype=object), "row 1: Input y contains NaN or None"),
        (np.zeros(2, dtype="M8[s]"), "write labels as numbers or text"),
    ],
)
def test_wrong_labels_are_refused(y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(X2, y)


@pytest.mark.parametrize("y,what", [([1.0, np.nan], "NaN"), ([1.0, np.inf], "infinity"), ([-np.inf, 1.0], "infinity")])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_targets_that_are_not_finite_are_refused_with_their_row(y: list[float], what: str, task: Any) -> None:
    with pytest.raises(DataError, match=f"row {int(np.isfinite(y[0]))}: Input y contains {what}"):
        from_arrays(X2, y).schema(task)


@pytest.mark.parametrize(
    "y",
    [
        ["b", "a"],
        np.array(["b", "a"], dtype=object),
        pd.Series(["b", "a"]),
        pd.Series(["b", "a"], dtype="category"),
        pl.Series(["b", "a"]),
        pa.chunked_array([["b", "a"]]),
    ],
)
def test_text_labels_come_in_many_forms(y: Any) -> None:
    assert from_arrays(X2, y).classes == ("a", "b")


def test_labels_in_one_column_are_taken() -> None:
    assert from_arrays(X2, [[1], [2]]).classes == (1, 2)
    assert from_arrays(X2, [True, False]).classes == (False, True)


@pytest.mark.parametrize(
    "weight,message",
    [
        ([1.0], r"sample_weight.shape == \(1,\), expected \(2,\)"),
        (np.ones((2, 1)), "Sample weights must be 1D array or scalar"),
        ([1.0, -1.0], "row 1: sample_weight is -1.0"),
        ([np.nan, 1.0], "row 0: sample_weight is nan"),
        ([1.0, np.inf], "row 1: sample_weight is inf"),
        ([0.0, 0.0], "zero for every row"),
        (["a", "b"], "write numbers"),
    ],
)
def test_wrong_weights_are_refused(weight: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(X2, [0, 1], sample_weight=weight)


def test_one_weight_stands_for_all_rows() -> None:
    schema = from_arrays(X2, [0, 1], sample_weight=2).schema("classification")
    assert schema.weighted
    assert schema.class_weight_sums == (2.0, 2.0)


def test_feature_names_must_fit() -> None:
    assert from_arrays(X2, feature_names=["p", "q"]).feature_names == ("p", "q")
    with pytest.raises(ParameterError, match="X has 2 columns"):
        from_arrays(X2, feature_names=["p"])


def test_every_refusal_is_a_value_error() -> None:
    assert issubclass(DataError, InputError)
    assert issubclass(InputError, ValueError)
