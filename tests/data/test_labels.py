"""Labels are counted and coded as numpy would, for every type they come in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tutti.data.labels import codes, first_bad, summarise
from tutti.errors import DataError

TYPES = ["int8", "uint8", "int64", "uint64", "float32", "float64", "bool"]


@pytest.mark.parametrize("dtype", TYPES)
@given(values=st.lists(st.integers(0, 100), min_size=1, max_size=40), few=st.booleans())
def test_numbers_are_counted_as_numpy_does(dtype: str, values: list[int], few: bool) -> None:
    y = (np.array(values) % 2 if few else np.array(values)).astype(dtype)
    classes, counts = np.unique(y, return_counts=True)
    found = summarise(y, None)
    assert found.classes == tuple(classes.tolist())
    assert [type(c) for c in found.classes] == [type(c) for c in classes.tolist()]
    assert found.counts == tuple(counts)
    assert found.weight_sums == tuple(map(float, counts))
    assert (np.asarray(found.classes, dtype=dtype)[codes(y, found.classes)] == y).all()


@given(y=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-(2**62), 2**62)))
def test_labels_far_apart_are_counted(y: np.ndarray) -> None:
    found = summarise(y, None)
    assert found.classes == tuple(np.unique(y).tolist())
    assert (np.asarray(found.classes)[codes(y, found.classes)] == y).all()


@given(words=st.lists(st.sampled_from(["a", "bb", "ç", ""]), min_size=1, max_size=30))
def test_text_is_sorted(words: list[str]) -> None:
    y = np.array(words)
    found = summarise(y, None)
    assert found.classes == tuple(sorted(set(words)))
    assert [found.classes[c] for c in codes(y, found.classes)] == words


def test_weights_are_summed_by_class() -> None:
    y, w = np.array([2.0, 5.0, 2.0]), np.array([0.5, 2.0, 0.25])
    assert summarise(y, w).weight_sums == (0.75, 2.0)


def test_codes_are_int32_and_two_numbers_are_0_and_1() -> None:
    found = codes(np.array([-1.0, 1.0, 1.0]), (-1, 1))
    assert found.dtype == np.int32
    assert found.tolist() == [0, 1, 1]
    assert codes(np.zeros(0), (0, 1)).dtype == np.int32


def test_whole_numbers_of_a_text_file_become_int() -> None:
    found = summarise(np.array([1.0, -1.0]), None, integers=True)
    assert found.classes == (-1, 1)
    assert all(isinstance(c, int) for c in found.classes)


@pytest.mark.parametrize("y", [[0.5, 1.5], [0.0, 0.5, 1.0], [1.0, 2.0, 2.5, 3.0]])
def test_continuous_labels_are_not_classes(y: list[float]) -> None:
    with pytest.raises(DataError, match="Unknown label type: continuous"):
        summarise(np.array(y), None)


@pytest.mark.parametrize("y,classes", [([3], (1, 2)), ([5], (1, 2, 4)), ([9], (1, 2, 4)), ([0], (1, 2, 4))])
def test_a_label_outside_the_classes_is_refused(y: list[int], classes: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"label {y[0]} is not among the classes 1, 2"):
        codes(np.array(y), classes)


def test_text_among_numbers_and_numbers_among_text_are_refused() -> None:
    with pytest.raises(DataError, match="'a' is not among"):
        codes(np.array(["a"]), (1, 2))
    with pytest.raises(DataError, match="1 is not among the classes 'a'"):
        codes(np.array([1]), ("a", "b"))
    with pytest.raises(DataError, match="'c' is not among"):
        codes(np.array(["a", "c"]), ("a", "b"))


def test_the_first_bad_target_is_found_and_large_sums_are_not_mistaken() -> None:
    assert first_bad(np.array([1.0, np.nan, np.inf])) == 1
    assert first_bad(np.array([1.0, 2.0, -np.inf])) == 2
    assert first_bad(np.array([1e308, 1e308, 1e308])) is None
    assert first_bad(np.array([1, 2])) is None
    assert first_bad(np.zeros(0)) is None
