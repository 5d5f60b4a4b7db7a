"""Parameter objects survive the way to another process, and nothing else does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutti._spec import Spec, decode, encode, resolve
from tutti.errors import InputError, ParameterError
from tutti.learners._problem import LinearProblem
from tutti.types import Schema, Seat

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    text, arrays = encode(value)
    back = decode(text, arrays)
    assert back == value
    assert type(back) is type(value)


def test_arrays_numpy_scalars_and_dataclasses_come_back_with_their_types() -> None:
    value = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "labels": np.array(["a", None, 3], dtype=object),
        "one": np.float32(0.1),
        "n": np.int64(-5),
        "flag": np.bool_(True),
        "schema": Schema(3, 2, classes=(1, "b"), weight_sum=3.5),
        "problem": LinearProblem("hinge", C=0.1, class_weight=(1.0, 2.0)),
        "rows": slice(1, None, 2),
        "inf": float("inf"),
        "set": frozenset({"b", "a"}),
    }
    text, arrays = encode(value)
    back = decode(text, arrays)
    np.testing.assert_array_equal(back.pop("x"), value.pop("x"))
    np.testing.assert_array_equal(back.pop("labels"), value.pop("labels"))
    assert back == value
    assert [type(back[k]) for k in ("one", "n", "flag")] == [np.float32, np.int64, np.bool_]


def test_placed_arrays_do_not_travel() -> None:
    shelf = []

    def put(array: np.ndarray) -> object:
        if array.nbytes < 100:
            return None
        shelf.append(array)
        return len(shelf) - 1

    text, arrays = encode([np.zeros(100), np.zeros(2)], put)
    assert [len(a) for a in arrays] == [2]
    big, small = decode(text, arrays, get=lambda i: shelf[i])
    assert big is shelf[0]
    assert len(small) == 2


def test_a_value_that_is_not_data_is_refused_by_its_type() -> None:
    with pytest.raises(InputError, match="a function cannot be sent to another process"):
        encode(lambda: None)


def test_a_class_that_another_process_cannot_import_is_refused_with_the_way_out() -> None:
    @dataclasses.dataclass
    class Local:
        a: int = 1

    with pytest.raises(InputError, match=r"use engine=tutti\.Threads\(\)"):
        encode(Local())


def test_decoding_refuses_whatever_is_not_a_dataclass() -> None:
    with pytest.raises(InputError, match="os:system is not a dataclass"):
        decode(b'{"c": "os:system", "k": {"command": "true"}}', [])


def test_a_wrong_parameter_name_lists_the_right_ones() -> None:
    problem = LinearProblem()
    assert problem.set_params(C=2.0).C == 2.0
    with pytest.raises(ParameterError, match="LinearProblem has loss, C, intercept, intercept_scaling, class_weight"):
        problem.set_params(c=1.0)


def test_get_params_rebuilds_an_equal_object() -> None:
    @dataclasses.dataclass(frozen=True)
    class Point(Spec):
        x: int = 1
        y: int = 2

    assert Point(**Point(3, 4).get_params()) == Point(3, 4)


def test_resolve_finds_nested_names() -> None:
    assert resolve("tutti.types:Seat") is Seat
