"""Trees: the best split by brute force, growth as scikit-learn's, and the contract of tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tutti.data import from_arrays
from tutti.learners._kernels.tree_grow import times_drawn
from tutti.learners._trees import Trees, Walker, packed
from tutti.learners.forest import ForestLearner, poisson
from tutti.testing.tasks import check_tasked, perform_all
from tutti.types import Array

RNG = np.random.default_rng(0)


def grown(x: Array, y: Array, weight: Array | None = None, seed: int = 0, **params: object) -> Trees:
    task = "classification" if params.get("criterion", "gini") != "squared_error" else "regression"
    data = from_arrays(x, y, sample_weight=weight)
    schema = data.schema(task)
    how = {"n_trees": 1, "n_shards": 2, "rate": 0.0, "max_features": x.shape[1], **params}
    learner = ForestLearner(**how)  # type: ignore[arg-type]
    shards = {i: data.open(i, learner.n_shards, schema) for i in range(learner.n_shards)}
    return Trees.from_arrays(perform_all(learner, schema, shards, seed=seed))


def impurity(y: Array, w: Array, criterion: str) -> float:
    """Weight times impurity."""
    total = w.sum()
    if criterion == "squared_error":
        return float(w @ (y - w @ y / total) ** 2)
    p = np.array([w[y == c].sum() for c in np.unique(y)]) / total
    p = p[p > 0]
    return float(total * (1 - (p**2).sum() if criterion == "gini" else -(p * np.log2(p)).sum()))


def best_by_force(x: Array, y: Array, w: Array, criterion: str, min_leaf: int) -> float:
    """Least weight times impurity after a split, missing values on either side."""
    best = np.inf
    for j in range(x.shape[1]):
        column, gone = x[:, j], np.isnan(x[:, j])
        for cut in [*np.unique(column[~gone]), np.inf]:
            for missing_left in (False, True) if gone.any() else (False,):
                left = (column <= cut) & ~gone | (gone & missing_left)
                if min(left.sum(), (~left).sum()) >= max(min_leaf, 1):
                    parts = (impurity(y[s], w[s], criterion) for s in (left, ~left))
                    best = min(best, sum(parts))
    return best


@pytest.mark.thorough
@pytest.mark.parametrize("criterion", ["gini", "entropy", "squared_error"])
@pytest.mark.parametrize("n_classes", [2, 4])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_stump_has_the_best_split_of_all(criterion: str, n_classes: int, data: st.DataObject) -> None:
    n, d = data.draw(st.integers(4, 30)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    x = rng.integers(0, data.draw(st.integers(2, 12)), (n, d)).astype(float)
    if data.draw(st.booleans()):
        x[rng.random((n, d)) < 0.2] = np.nan
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n)])[:n].astype(float)
    weight = rng.integers(1, 4, n).astype(float) if data.draw(st.booleans()) else None
    min_leaf = data.draw(st.integers(1, 3))
    w = np.ones(n) if weight is None else weight
    labels = y if criterion == "squared_error" else y.astype(int)
    trees = grown(x, labels, weight, criterion=criterion, max_depth=1, min_samples_leaf=min_leaf)
    best = best_by_force(x, y, w, criterion, min_leaf)
    if len(trees.feature) == 1:
        assert best == np.inf
        return
    after = float((trees.weight * trees.impurity)[1:].sum())
    assert after == pytest.approx(best, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("criterion", ["gini", "entropy"])
@pytest.mark.parametrize("min_leaf", [1, 7])
def test_a_tree_on_few_values_is_scikit_learns(criterion: str, min_leaf: int) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = np.round(x / x.max(axis=0) * 200)
    ours = grown(x, y, criterion=criterion, max_depth=3, min_samples_leaf=min_leaf)
    theirs = DecisionTreeClassifier(criterion=criterion, max_depth=3, min_samples_leaf=min_leaf, random_state=0).fit(
        x, y
    )
    inner = ours.feature >= 0
    assert len(ours.feature) == theirs.tree_.node_count
    np.testing.assert_array_equal(ours.n_rows, theirs.tree_.n_node_samples)
    np.testing.assert_allclose(ours.impurity, theirs.tree_.impurity, rtol=1e-9, atol=1e-12)
    same = ours.feature[inner] == theirs.tree_.feature[inner]
    assert same.mean() > 0.7  # two columns may split the rows alike
    np.testing.assert_allclose(ours.cut[inner][same], theirs.tree_.threshold[inner][same])


def test_a_regression_tree_on_few_values_is_scikit_learns() -> None:
    x = RNG.integers(0, 100, (800, 4)).astype(np.float32)
    y = x[:, 0] * 0.3 + np.sin(x[:, 1]) * 20 + RNG.standard_normal(800)
    ours = grown(x, y, criterion="squared_error", max_depth=5)
    theirs = DecisionTreeRegressor(max_depth=5, random_state=0).fit(x, y)
    assert len(ours.feature) == theirs.tree_.node_count
    np.testing.assert_allclose(Walker(ours, np.float32).sums(x)[:, 0], theirs.predict(x), rtol=1e-9)


def test_a_deep_tree_knows_its_rows() -> None:
    x, y = load_digits(return_X_y=True)
    trees = grown(x, y)
    found = Walker(trees, np.float64).sums(x)
    np.testing.assert_array_equal(found.argmax(axis=1), y)
    assert abs(len(trees.feature) - DecisionTreeClassifier(random_state=0).fit(x, y).tree_.node_count) < 40


@pytest.mark.parametrize("criterion", ["gini", "squared_error"])
def test_a_whole_weight_counts_like_repeated_rows(criterion: str) -> None:
    x = RNG.standard_normal((400, 3))
    y = (x[:, 0] * x[:, 1] > 0).astype(int) if criterion == "gini" else x[:, 0] * x[:, 1]
    w = RNG.integers(0, 4, 400)
    a = grown(np.repeat(x, w, axis=0), np.repeat(y, w), criterion=criterion, max_depth=6)
    b = grown(x, y, w.astype(float), criterion=criterion, max_depth=6)
    np.testing.assert_array_equal(a.feature, b.feature)
    np.testing.assert_array_equal(a.cut, b.cut)
    np.testing.assert_allclose(a.value, b.value, rtol=1e-6, atol=1e-9)


def test_the_best_leaf_is_split_first() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    for leaves in (2, 5, 9):
        ours = grown(x, y, max_leaf_nodes=leaves)
        assert (ours.feature < 0).sum() == leaves
        theirs = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(np.round(x, 12), y)
        left = float((ours.weight * ours.impurity)[ours.feature < 0].sum())
        tree = theirs.tree_
        right = float((tree.weighted_n_node_samples * tree.impurity)[tree.children_left < 0].sum())
        assert left <= 1.1 * right + 1e-9


def test_no_bound_on_leaves_gives_the_tree_that_grows_depth_first() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    a, b = grown(x, y), grown(x, y, max_leaf_nodes=10_000)
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(array, b.arrays()[name])


@pytest.mark.parametrize("alpha", [0.002, 0.01, 0.05])
def test_pruning_leaves_what_scikit_learn_leaves(alpha: float) -> None:
    x = RNG.integers(0, 60, (500, 3)).astype(float)
    y = (x[:, 0] + x[:, 1] + 10 * RNG.standard_normal(500) > 60).astype(int)
    ours = grown(x, y, ccp_alpha=alpha, max_depth=8)
    theirs = DecisionTreeClassifier(ccp_alpha=alpha, max_depth=8, random_state=0).fit(x, y)
    assert abs(len(ours.feature) - theirs.tree_.node_count) <= 4
    np.testing.assert_allclose(ours.impurity[:3], theirs.tree_.impurity[:3])


def test_float32_rows_go_where_float64_rows_go() -> None:
    x = RNG.standard_normal((3001, 5)).astype(np.float32)
    x[::3] = np.round(x[::3])  # zeros of both signs
    x[::7] *= np.float32(1e-30)
    trees = grown(x, (x[:, 0] * x[:, 1] > x[:, 2]).astype(int), n_trees=3, rate=1.0)
    narrow, wide = Walker(trees, np.float32), Walker(trees, np.float64)
    np.testing.assert_array_equal(narrow.sums(x), wide.sums(x.astype(np.float64)))
    np.testing.assert_array_equal(narrow.apply(x), wide.apply(x.astype(np.float64)))
    values = trees.value[narrow.apply(x) + trees.offset[:-1]].sum(axis=1)
    np.testing.assert_allclose(narrow.sums(x), values)


@pytest.mark.thorough
@pytest.mark.parametrize(("n_values", "n_classes", "depth"), [(0, 2, 3), (0, 2, None), (0, 5, None), (3000, 2, None)])
@pytest.mark.parametrize("n_rows", [1, 31, 600])
def test_rows_as_codes_end_where_rows_as_numbers_do(
    n_values: int, n_classes: int, depth: int | None, n_rows: int
) -> None:
    x = RNG.standard_normal((4000, 5)).astype(np.float32)
    if n_values:  # more cuts of a column than a byte counts: between each two of 250 values in every node
        x = RNG.choice(np.sort(RNG.standard_normal(250)), x.shape).astype(np.float32)
    y = (np.abs(x[:, 0] * x[:, 1] + x[:, 2]) * n_classes).astype(int) % n_classes
    trees = grown(x, y, n_trees=20, max_depth=depth, rate=1.0)
    walker = Walker(trees, np.float32)
    new = RNG.standard_normal((n_rows, 5)).astype(np.float32)
    values = np.zeros((n_rows, n_classes))
    leaves = walker.apply(new)  # goes down by numbers
    for t in range(20):
        values += trees.value[trees.offset[t] + leaves[:, t]]
    np.testing.assert_array_equal(walker.sums(new), values)


def test_two_classes_travel_as_counts() -> None:
    x = RNG.standard_normal((500, 3))
    tree = grown(x, (x[:, 0] * x[:, 1] > 0).astype(int)).tree(0)
    reals = np.stack([tree.cut, tree.impurity, tree.weight], axis=1)
    ints = np.zeros((len(tree.feature), 7), np.int32)
    ints[:, 0], ints[:, 2], ints[:, 3] = tree.feature, tree.right, tree.n_rows
    part = packed({"ints": ints, "reals": reals, "values": tree.value, "sets": tree.sets})
    assert len(part["own_counts"]) == len(tree.feature)
    assert len(part["own_value"]) == len(part["own_impurity"]) == 0
    again = Trees.of_parts([part], 2)
    for name in ("weight", "impurity", "value"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name))


def test_categories_are_split_as_sets() -> None:
    x = RNG.integers(0, 40, (2000, 1)).astype(float)
    y = (x[:, 0].astype(int) * 7 % 11 < 5).astype(int)
    trees = grown(x, y, categorical=(0,), max_depth=1)
    assert len(trees.feature) == 3
    assert trees.impurity[1:].tolist() == [0.0, 0.0]
    codes = np.unique(x[:, 0], return_inverse=True)[1][:, None] + 1.0
    np.testing.assert_array_equal(Walker(trees, np.float64).sums(codes).argmax(axis=1), y)


def test_rows_are_drawn_as_often_as_poisson_says() -> None:
    times = np.empty(200_000, np.int64)
    times_drawn(np.uint64(99), 0, len(times), poisson(1.0), times)
    share = np.bincount(times, minlength=8)[:6] / len(times)
    np.testing.assert_allclose(share, [0.3679, 0.3679, 0.1839, 0.0613, 0.0153, 0.0031], atol=0.004)
    later = np.empty(100, np.int64)
    times_drawn(np.uint64(99), 500, 100, poisson(1.0), later)
    np.testing.assert_array_equal(later, times[500:600])


@pytest.mark.parametrize("criterion", ["gini", "squared_error"])
def test_a_forest_keeps_the_contract_of_tasks(criterion: str) -> None:
    x = RNG.standard_normal((300, 4))
    y = (x[:, 0] > 0).astype(int) if criterion == "gini" else x[:, 0]
    data = from_arrays(x, y)
    schema = data.schema("classification" if criterion == "gini" else "regression")
    learner = ForestLearner(n_trees=5, criterion=criterion, max_features=2, n_shards=3, oob=True)
    check_tasked(learner, schema, {i: data.open(i, 3, schema) for i in range(3)})
