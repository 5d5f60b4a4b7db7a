"""Boosted trees as flat arrays, one tree after the other: what is saved, compared and predicted with.

Node p of tree t is at offset[t] + p; its children are left[p] and left[p] + 1; feature -1 marks a leaf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tutti.learners._bins import Bins, rounded_down
from tutti.learners._boosting_tree import Grown
from tutti.learners._kernels import boost, boost_predict
from tutti.types import Array, Arrays

_FIELDS: dict[str, Any] = {
    "feature": np.int32,
    "bin": np.uint8,
    "cut": np.float64,
    "left": np.int32,
    "missing_left": np.bool_,
    "set_at": np.int32,
    "value": np.float64,
    "gain": np.float64,
    "weight": np.float64,
    "n_rows": np.int64,
}
"""Arrays with one entry per node: ``weight`` is the sum of hessians, ``n_rows`` that of rows."""
_NONE = np.zeros(0, np.int64)
_CHUNK = 1 << 15  # rows of codes that are turned into numbers at a time


@dataclass
class Model:
    """Trees while they are grown."""

    bins: Bins
    n_outputs: int
    base: Array = field(default_factory=lambda: np.zeros(1))
    trees: list[dict[str, Array]] = field(default_factory=list)
    sets: list[Array] = field(default_factory=list)
    grown: list[tuple[Array, ...]] = field(default_factory=list)

    @property
    def n_trees(self) -> int:
        return len(self.trees) + len(self.grown)

    def add(self, grown: Grown, values: Array, n_rows: Array, weight: Array) -> None:
        """Take a tree; ``values``, ``n_rows`` and ``weight`` are those of its leaves.

        What can wait is done at the end: threads take turns at Python.
        """
        inner = grown.ints[:, boost.LEFT] >= 0
        sets = np.flatnonzero(inner & (grown.ints[:, boost.CATEGORICAL] != 0)) if self.bins.categorical.any() else _NONE
        gains = np.where(inner, grown.reals[:, boost.GAIN], 0.0)
        self.grown.append(
            (grown.ints[:, : boost.SLOT].copy(), gains, sets, grown.go[sets], grown.leaves, values, n_rows, weight)
        )

    def _finish(self) -> None:
        """Make trees of what `add` has taken."""
        for ints, gains, set_nodes, tables, leaves, values, n_rows, weight in self.grown:
            tree = {name: np.zeros(len(ints), dtype) for name, dtype in _FIELDS.items()}
            inner = ints[:, boost.LEFT] >= 0
            feature, code = ints[:, boost.FEATURE], ints[:, boost.BIN]
            ordered = np.flatnonzero(inner & (ints[:, boost.CATEGORICAL] == 0))
            tree["feature"][:] = np.where(inner, feature, -1)
            tree["left"][:], tree["gain"][:] = ints[:, boost.LEFT], gains
            tree["missing_left"][:] = inner & (ints[:, boost.MISSING_LEFT] != 0)
            tree["bin"][ordered] = code[ordered]
            at = self.bins.cut_at[feature[ordered]] + code[ordered] - 1
            beyond = at >= self.bins.cut_at[feature[ordered] + 1]  # all values go left, missing ones right
            tree["cut"][ordered] = np.where(beyond, np.inf, np.append(self.bins.cuts, np.inf)[at])
            tree["set_at"][:] = -1
            tree["set_at"][set_nodes] = len(self.sets) + np.arange(len(set_nodes))
            self.sets.extend(np.packbits(tables, axis=1, bitorder="little").view("<u4"))
            tree["value"][leaves], tree["n_rows"][leaves], tree["weight"][leaves] = values, n_rows, weight
            boost_predict.add_up(tree["left"], tree["n_rows"], tree["weight"])
            self.trees.append(tree)
        self.grown.clear()

    def arrays(self) -> dict[str, Array]:
        """Return the model as flat arrays."""
        self._finish()
        sizes = [len(t["feature"]) for t in self.trees]
        found = {
            name: np.concatenate([t[name] for t in self.trees]) if self.trees else np.zeros(0, dtype)
            for name, dtype in _FIELDS.items()
        }
        sets = np.stack(self.sets) if self.sets else np.zeros((0, 8), np.uint32)
        offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return {**found, "offset": offset, "sets": sets, "base": self.base}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Model:
        """Return the model that `arrays` wrote down, to be grown further."""
        offset = arrays["offset"]
        trees = [
            {name: np.array(arrays[name][lo:hi]) for name in _FIELDS}
            for lo, hi in zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True)
        ]
        base = np.array(arrays["base"])
        return cls(Bins.from_arrays(arrays), len(base), base, trees, list(np.array(arrays["sets"])))


@dataclass(frozen=True)
class Forest:
    """Flat trees that predict.

    Parameters
    ----------
    arrays : what `Model.arrays` returned.
    """

    arrays: Arrays

    @classmethod
    def of(cls, arrays: Arrays) -> Forest:
        return cls({name: np.asarray(arrays[name]) for name in (*_FIELDS, "offset", "sets", "base")})

    @property
    def n_trees(self) -> int:
        return len(self.arrays["offset"]) - 1

    @property
    def n_outputs(self) -> int:
        return len(self.arrays["base"])

    @cached_property
    def _packed(self) -> tuple[Array, Array]:
        a = self.arrays
        nodes, depth = np.zeros(len(a["feature"]), np.int64), np.zeros(self.n_trees, np.int64)
        boost_predict.pack(a["offset"], a["feature"], a["left"], a["missing_left"], nodes, depth)
        return nodes, depth

    @cached_property
    def _cuts(self) -> dict[str, Array]:
        """The cuts in the types that rows come in; a leaf keeps every row to itself."""
        wide = np.where(self.arrays["feature"] < 0, np.inf, self.arrays["cut"])
        return {"float64": wide, "float32": rounded_down(wide, np.float32)}

    def _steps(self, dtype: Any) -> tuple[Array, ...]:
        a, (nodes, depth) = self.arrays, self._packed
        set_at = a["set_at"] if len(a["sets"]) else a["set_at"][:0]
        return a["offset"], depth, nodes, self._cuts[str(dtype)], a["sets"], set_at

    def add(self, x: Array, f: Array, start: int, stop: int, first: int, last: int) -> None:
        """Add trees first..last - 1 to f (n, n_outputs) for rows start..stop - 1 of x."""
        steps: Any = (x, start, stop, first, last, *self._steps(x.dtype), self.arrays["value"], f)
        boost_predict.add(*steps)

    def apply(self, x: Array, out: Array) -> None:
        """out (n, n_trees) = the leaf of each tree that each row falls into."""
        steps: Any = (x, 0, len(x), *self._steps(x.dtype), out)
        boost_predict.apply(*steps)

    def add_codes(self, columns: Array, f: Array) -> None:
        """Add all trees to f (n_outputs, n) for rows given as codes (n_features, n)."""
        a = self.arrays
        boost_predict.add_codes(
            columns, a["offset"], a["feature"], a["bin"], a["left"], a["missing_left"], a["set_at"], a["sets"],
            a["value"], f,
        )  # fmt: skip

    def add_coded_rows(self, codes: Array, f: Array, first: int, last: int) -> None:
        """Add trees first..last - 1 to f (n_outputs, n) for rows of codes (n, n_features), the quick way of `add`."""
        a, (nodes, depth) = self.arrays, self._packed
        cuts = np.where(a["feature"] < 0, np.inf, a["bin"]).astype(np.float32)
        set_at = a["set_at"] if len(a["sets"]) else a["set_at"][:0]
        for lo in range(0, len(codes), _CHUNK):
            here = codes[lo : lo + _CHUNK]
            x = np.where(here == 0, np.float32(np.nan), here.astype(np.float32))
            scores = np.ascontiguousarray(f[:, lo : lo + _CHUNK].T)
            steps: Any = (x, 0, len(x), first, last, a["offset"], depth, nodes, cuts, a["sets"], set_at)
            rest: Any = (a["value"], scores)
            boost_predict.add(*steps, *rest)
            f[:, lo : lo + _CHUNK] = scores.T
