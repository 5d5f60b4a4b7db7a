"""Many trees as flat arrays: what a forest or a boosted model is, and how rows are sent down it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tutti.learners._bins import rounded_down
from tutti.learners._coded import Coded
from tutti.types import Array, Arrays

_ROWS_PER_THREAD = 8192
_FLAT = {
    "feature": np.int32, "cut": np.float64, "bin": np.uint8, "left": np.int32, "right": np.int32,
    "missing_left": np.uint8, "n_rows": np.int32, "weight": np.float64, "impurity": np.float64, "set_at": np.int32,
}  # fmt: skip


def packed(tree: Arrays) -> dict[str, Array]:
    """Return what a kernel left of a tree ("ints", "reals", "values", "sets") as a part that takes little room."""
    ints, reals = tree["ints"], tree["reals"]
    inner = ints[:, 0] >= 0
    out = {"feature": ints[:, 0].copy(), "n_rows": ints[:, 3].copy(), "sets": tree["sets"]}
    out |= {"right": ints[inner, 2], "bin": ints[inner, 4].astype(np.uint8), "cut": reals[inner, 0]}
    out["missing_left"] = ints[inner, 6].astype(np.uint8)
    if len(tree["sets"]):
        out["set_at"] = ints[:, 5].copy()
    impurity, weight, value = reals[:, 1].copy(), reals[:, 2].copy(), tree["values"]
    if value.shape[1] == 2 and weight.min() >= 1 and weight.max() < 1 << 31:
        short = {"weight": weight.astype(np.int32), "second": np.rint(value[:, 1] * weight).astype(np.int32)}
        again = _of_counts(**short)
        if all(np.array_equal(a, b) for a, b in zip(again, (weight, value, impurity), strict=True)):
            return {**out, **short}
    return {**out, "impurity": impurity, "weight": weight, "value": value}


def _of_counts(weight: Array, second: Array) -> tuple[Array, Array, Array]:
    """Return (weight, value, impurity) of nodes of two classes without weights, in 8 bytes, not 32."""
    value = np.stack([weight - second, second], axis=1) / weight[:, None]
    return weight.astype(np.float64), value, 1.0 - (value[:, 0] * value[:, 0] + value[:, 1] * value[:, 1])


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, one tree after the other, each depth first with the left child behind its parent.

    Parameters
    ----------
    offset : (n_trees + 1,) int64, where each tree begins.
    feature : int32, -1 for a leaf.   cut : float64; x <= cut goes left.   bin : uint8; code <= bin goes left.
    left, right : int32 children, counted inside the tree; a leaf is its own.
    missing_left : uint8, 1 where a missing value goes left.
    value : (n_nodes, n_outputs) float64.   n_rows : int32.   weight, impurity : float64.
    set_at : int32, row of ``sets`` (n_sets, 8) uint32 whose bits are the codes that go left; -1: a cut decides.
    """

    offset: Array
    feature: Array
    cut: Array
    bin: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array
    n_rows: Array
    weight: Array
    impurity: Array
    set_at: Array
    sets: Array

    @property
    def n_trees(self) -> int:
        return len(self.offset) - 1

    def arrays(self) -> dict[str, Array]:
        """Return the trees as arrays by name; `from_arrays` reads them."""
        return {f"tree_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Trees:
        return cls(**{f.name: arrays[f"tree_{f.name}"] for f in fields(cls)})

    @classmethod
    def of_parts(cls, parts: Sequence[Mapping[str, Array]], n_outputs: int) -> Trees:
        """Return the trees that `packed` made parts of, each number copied once."""
        offset = np.cumsum([0, *[len(p["feature"]) for p in parts]]).astype(np.int64)
        n_sets = np.cumsum([0, *[len(p["sets"]) for p in parts]]).tolist()
        n = int(offset[-1])
        out: dict[str, Array] = {name: np.zeros(n, dtype) for name, dtype in _FLAT.items()}
        out["value"], out["sets"] = np.empty((n, n_outputs)), np.empty((n_sets[-1], 8), np.uint32)
        for t, p in enumerate(parts):
            here = slice(offset[t], offset[t + 1])
            if "second" in p:
                names = ("weight", "value", "impurity")
                p = {**p, **dict(zip(names, _of_counts(p["weight"], p["second"]), strict=True))}
            for name in ("feature", "n_rows", "weight", "impurity", "value"):
                out[name][here] = p[name]
            number, inner = np.arange(len(p["feature"]), dtype=np.int32), p["feature"] >= 0
            out["left"][here], out["right"][here] = number + inner, number
            for name in ("right", "bin", "cut", "missing_left"):
                out[name][here][inner] = p[name]
            out["sets"][n_sets[t] : n_sets[t + 1]] = p["sets"]
            own = p.get("set_at")
            out["set_at"][here] = -1 if own is None else np.where(own >= 0, own + n_sets[t], -1)
        return cls(offset=offset, **out)

    def joined(self, other: Trees) -> Trees:
        """Return these trees followed by others."""
        both: dict[str, Array] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name == "offset":
                theirs = theirs[1:] + mine[-1]
            elif f.name == "set_at":
                theirs = np.where(theirs >= 0, theirs + len(self.sets), -1).astype(np.int32)
            both[f.name] = np.concatenate([mine, theirs])
        return Trees(**both)

    def tree(self, t: int) -> Trees:
        """Return one tree as trees of its own."""
        lo, hi = int(self.offset[t]), int(self.offset[t + 1])
        found = {f.name: getattr(self, f.name)[lo:hi] for f in fields(self) if f.name not in ("offset", "sets")}
        return Trees(offset=np.array([0, hi - lo]), sets=self.sets, **found)

    def depths(self) -> Array:
        """Return (n_nodes,) the depth of each node, 0 for the roots."""
        from tutti.learners._kernels.tree_prune import depths

        out = np.zeros(len(self.feature), np.int32)
        depths(self.offset, self.left, self.right, self.feature, out)
        return out


class Walker:
    """Trees in the form that rows are sent down in; made once, for one type of rows."""

    def __init__(self, trees: Trees, dtype: Any) -> None:
        n, leaf = len(trees.feature), trees.feature < 0
        start = np.repeat(trees.offset[:-1], np.diff(trees.offset))
        right = np.where(leaf, np.arange(n), trees.right + start)
        self.roots = np.ascontiguousarray(trees.offset[:-1])
        self.meta = ((np.maximum(trees.feature, 0).astype(np.int64) << 32) | right).view(np.uint64)
        self.cut = np.where(leaf, -np.inf, rounded_down(trees.cut, dtype)).astype(dtype)
        self.missing_left, self.set_at, self.sets = trees.missing_left, trees.set_at, trees.sets
        self._plain = not len(trees.sets)
        self._value = trees.value
        self._coded = Coded(trees, rounded_down(trees.cut, dtype)) if self._plain else None

    def sums(self, x: Array, threads: int = 1) -> Array:
        """Return (rows, n_outputs) sums over the trees of the values of the leaves that rows end in."""
        from tutti.learners._kernels.tree_predict import add_values

        add: Any = add_values

        out = np.zeros((len(x), self._value.shape[1]))
        coded = self._coded

        def work(lo: int, hi: int, plain: bool) -> None:
            if plain and coded is not None and coded.made:
                coded.add(x, lo, hi, out)
            else:
                add(x.reshape(-1), x.shape[1], lo, hi, *self._nodes(), plain, self._value, out)

        self._in_parts(work, x, threads)
        return out

    def apply(self, x: Array, threads: int = 1) -> Array:
        """Return (rows, n_trees) leaves, counted inside each tree."""
        from tutti.learners._kernels.tree_predict import apply

        find: Any = apply

        out = np.empty((len(x), len(self.roots)), np.int64)
        self._in_parts(
            lambda lo, hi, plain: find(x.reshape(-1), x.shape[1], lo, hi, *self._nodes(), plain, out), x, threads
        )
        return out

    def paths(self, x: Array) -> tuple[Array, Array]:
        """Return (indptr, indices) of the nodes that each row visits, nodes counted over all trees."""
        from tutti.learners._kernels.tree_predict import paths

        walk: Any = paths

        indptr = np.zeros(len(x) + 1, np.int64)
        walk(x, *self._nodes(), indptr, np.zeros(0, np.int64))
        indices = np.empty(indptr[-1], np.int64)
        walk(x, *self._nodes(), indptr, indices)
        return indptr, indices

    def _nodes(self) -> tuple[Array, ...]:
        return self.roots, self.meta, self.cut, self.missing_left, self.set_at, self.sets

    def _in_parts(self, work: Any, x: Array, threads: int) -> None:
        n = len(x)
        with np.errstate(invalid="ignore", over="ignore"):
            plain = self._plain and not bool(np.isnan(x.sum()))
        parts = max(1, min(threads, n // _ROWS_PER_THREAD))
        if parts == 1:
            work(0, n, plain)
            return
        edges = [n * p // parts for p in range(parts + 1)]
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(lambda lo, hi: work(lo, hi, plain), edges[:-1], edges[1:]))
