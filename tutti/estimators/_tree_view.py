"""One tree of a forest, with the names that scikit-learn gives its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tutti.estimators._forest_multi import by_label, named
from tutti.learners._trees import Trees, Walker
from tutti.types import Array


class Structure:
    """The nodes of a tree: scikit-learn's arrays, as views where they can be."""

    def __init__(self, trees: Trees, classes: Any = None, unit: float = 1.0) -> None:
        leaf = trees.feature < 0
        self.node_count = len(leaf)
        self.children_left = np.where(leaf, -1, trees.left)
        self.children_right = np.where(leaf, -1, trees.right)
        self.feature = np.where(leaf, -2, trees.feature)
        self.threshold = np.where(leaf, -2.0, trees.cut)
        self.impurity, self.n_node_samples = trees.impurity * unit, trees.n_rows
        self.weighted_n_node_samples = trees.weight
        self.missing_go_to_left = trees.missing_left
        self.value = values_of(trees, classes)
        self.max_depth = int(trees.depths().max())
        self.n_leaves = int(leaf.sum())


def values_of(trees: Trees, classes: Any) -> Array:
    """Return scikit-learn's (n_nodes, n_outputs, most classes) values of a classification."""
    if not isinstance(classes, list):
        return trees.value[:, None, :]
    sizes = [len(c) for c in classes]
    out = np.zeros((len(trees.value), len(sizes), max(sizes)))
    for o, part in enumerate(np.split(trees.value, np.cumsum(sizes)[:-1], axis=1)):
        out[:, o, : sizes[o]] = part
    return out


class Member:
    """One tree of a fitted forest."""

    def __init__(self, forest: Any, trees: Trees) -> None:
        self._forest, self._trees = forest, trees

    @property
    def tree_(self) -> Structure:
        """The nodes."""
        return Structure(self._trees, getattr(self._forest, "classes_", None), self._forest._impurity_unit)

    def get_depth(self) -> int:
        """Return the depth of the tree, 0 for a single leaf."""
        return self.tree_.max_depth

    def get_n_leaves(self) -> int:
        """Return the number of leaves."""
        return int((self._trees.feature < 0).sum())

    def apply(self, X: Any) -> Array:
        """Return (n_rows,) the leaf that each row ends in."""
        return np.concatenate([Walker(self._trees, x.dtype).apply(x)[:, 0] for x in self._forest._rows_of(X)])

    def predict_proba(self, X: Any) -> Any:
        """Return (n_rows, n_classes) shares of classes in the leaf of each row; a list of them for several labels."""
        values, classes = self._values(X), getattr(self._forest, "classes_", None)
        return by_label(values, classes) if isinstance(classes, list) else values

    def _values(self, X: Any) -> Array:
        return np.concatenate([Walker(self._trees, x.dtype).sums(x) for x in self._forest._rows_of(X)])

    def predict(self, X: Any) -> Array:
        """Return what this tree alone predicts."""
        values = self._values(X)
        classes = getattr(self._forest, "classes_", None)
        if isinstance(classes, list):
            return named(values, classes)
        if classes is not None:
            found: Array = classes[values.argmax(axis=1)]
            return found
        return values[:, 0] if values.shape[1] == 1 else values


class Members(Sequence[Member]):
    """All trees of a fitted forest, made when they are asked for."""

    def __init__(self, forest: Any) -> None:
        self._forest = forest

    def __len__(self) -> int:
        return int(self._forest.trees_.n_trees)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"tree {i} of {n}")
        return Member(self._forest, self._forest.trees_.tree(i % n))

    def __iter__(self) -> Iterator[Member]:
        return (self[i] for i in range(len(self)))
