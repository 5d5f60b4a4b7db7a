"""What a forest holds of its nodes, and what is made of that when it is asked for."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from tutti.data import from_arrays
from tutti.learners import _trees
from tutti.learners._trees import STORED, Trees, Walker
from tutti.learners.forest import ForestLearner
from tutti.runtime.digest import model_sha256
from tutti.testing.tasks import perform_all

RNG = np.random.default_rng(0)
X = RNG.integers(0, 30, (2_000, 4)).astype(np.float64)
Z = X[:, 0] * X[:, 1] + 20 * X[:, 2] + 100 * RNG.standard_normal(2_000)
TWO, FOUR = (Z > 500).astype(int), np.digitize(Z, np.quantile(Z, [0.2, 0.5, 0.8]))
FORESTS: dict[str, dict[str, Any]] = {
    "two classes": {"y": TWO},
    "entropy": {"y": TWO, "criterion": "entropy"},
    "four classes": {"y": FOUR},
    "whole weights": {"y": FOUR, "weight": RNG.integers(1, 4, len(X)).astype(float)},
    "weights": {"y": TWO, "weight": RNG.random(len(X))},
    "weighted classes": {"y": TWO, "class_weight": (1.0, 0.3)},
    "targets": {"y": Z, "criterion": "squared_error"},
    "categories": {"y": TWO, "categorical": (0, 2)},
    "a leaf": {"y": TWO, "max_depth": 0},
}
BYTES = {"two classes": 23, "entropy": 31, "four classes": 31, "whole weights": 31, "targets": 35}


def made(kind: str) -> Trees:
    how = dict(FORESTS[kind])
    data = from_arrays(X, how.pop("y"), sample_weight=how.pop("weight", None))
    schema = data.schema("regression" if kind == "targets" else "classification")
    learner = ForestLearner(n_trees=5, n_shards=2, max_features=2, **how)
    return Trees.from_arrays(perform_all(learner, schema, {i: data.open(i, 2, schema) for i in range(2)}))


@pytest.mark.parametrize("kind", BYTES)
def test_a_node_takes_few_bytes(kind: str) -> None:
    trees = made(kind)
    assert sum(a.nbytes for a in trees.arrays().values()) <= BYTES[kind] * len(trees.feature) + 16 * len(trees.offset)


@pytest.mark.parametrize("kind", FORESTS)
def test_stored_trees_are_read_as_they_were(kind: str) -> None:
    trees = made(kind)
    stored = dict(trees.stored())
    assert {name.removeprefix("tree_"): a.dtype.name for name, a in stored.items()} == STORED
    again = Trees.from_stored(stored)
    for f in fields(Trees):
        np.testing.assert_array_equal(getattr(again, f.name), getattr(trees, f.name), strict=True)


@pytest.mark.parametrize("kind", FORESTS)
def test_a_hash_of_pieces_is_the_hash_of_whole_arrays(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = made(kind)
    right = model_sha256(dict(trees.stored()))
    monkeypatch.setattr(_trees, "_NODES_AT_ONCE", 2 * int(np.diff(trees.offset).max()))
    assert len(list(trees.groups())) > 1 or kind == "a leaf"
    assert model_sha256(trees.stored()) == right


@pytest.mark.parametrize("kind", ["entropy", "weights", "weighted classes", "categories"])
def test_trees_of_unlike_forms_are_joined(kind: str) -> None:
    first, second = made("two classes"), made(kind)
    both = second.joined(first).joined(second)
    for t, (one, own) in enumerate([(second, i) for i in range(5)] + [(first, i) for i in range(5)]):
        found, right = both.tree(t), one.tree(own)
        for name in set(STORED) - {"sets"}:
            np.testing.assert_array_equal(getattr(found, name), getattr(right, name), strict=True)
    at = both.set_at[both.offset[10] :]
    np.testing.assert_array_equal(both.sets[at[at >= 0]], second.sets[second.set_at[second.set_at >= 0]])
    np.testing.assert_array_equal(Walker(both.some(5, 10), np.float32).sums(X), Walker(first, np.float32).sums(X))


def test_rows_of_plain_numbers_need_no_nodes_by_values() -> None:
    walker = Walker(made("two classes"), np.float64)
    by_code = walker.sums(X)
    assert "_nodes" not in vars(walker)
    gone = np.where(np.arange(4) == 3, np.nan, X)
    walker.sums(gone)
    assert "_nodes" in vars(walker)
    np.testing.assert_array_equal(walker.sums(X), by_code)
