"""Many trees as flat arrays: what a forest is, and how rows are sent down it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from tutti.learners._bins import rounded_down
from tutti.learners._coded import Coded
from tutti.types import Array, Arrays

_ROWS_PER_THREAD = 8192
_NODES_AT_ONCE = 1 << 17
STORED = {
    "offset": "int64", "feature": "int32", "cut": "float64", "bin": "uint8", "left": "int32", "right": "int32",
    "missing_left": "uint8", "value": "float64", "n_rows": "int32", "weight": "float64", "impurity": "float64",
    "set_at": "int32", "sets": "uint32",
}  # fmt: skip
"""The arrays that trees are stored and hashed as, and their types."""


def packed(tree: Arrays) -> dict[str, Array]:
    """Return what a kernel left of a tree ("ints", "reals", "values", "sets") as what `Trees` holds of it."""
    ints, reals = tree["ints"], tree["reals"]
    inner = ints[:, 0] >= 0
    return {
        "feature": ints[:, 0].copy(),
        "n_rows": ints[:, 3].copy(),
        "inner_right": ints[inner, 2],
        "inner_bin": ints[inner, 4].astype(np.uint8),
        "inner_cut": reals[inner, 0],
        "inner_missing_left": ints[inner, 6].astype(np.uint8),
        "own_set_at": ints[: len(ints) if len(tree["sets"]) else 0, 5].copy(),
        "sets": tree["sets"],
        **_shortened(reals[:, 2], tree["values"], reals[:, 1]),
    }


def _shortened(weight: Array, value: Array, impurity: Array) -> dict[str, Array]:
    """Return what is held of nodes: whole numbers, and nothing that follows from them to the last bit."""
    n, k = value.shape
    out = {"own_weight": weight.copy(), "own_value": value, "own_impurity": impurity.copy()}
    out["own_counts"] = np.empty((0, k - 1), np.int32)
    if n and weight.min() >= 1 and weight.max() < 1 << 31 and _same(np.rint(weight), weight):
        out["own_weight"] = weight.astype(np.int32)
        with np.errstate(invalid="ignore", over="ignore"):  # targets of a regression may be of any size
            counts = np.rint(value[:, 1:] * weight[:, None]).astype(np.int32)
        if k > 1 and _same(_shares(out["own_weight"], counts), value):
            out["own_counts"], out["own_value"] = counts, np.empty((0, k))
    with np.errstate(over="ignore"):
        if n and _same(_gini(value), impurity):
            out["own_impurity"] = np.empty(0)
    return out


def _same(a: Array, b: Array) -> bool:
    """Return whether float64 arrays are the same to the last bit, the sign of a zero included."""
    return np.array_equal(np.ascontiguousarray(a).view(np.int64), np.ascontiguousarray(b).view(np.int64))


def _shares(weight: Array, counts: Array) -> Array:
    """Return (n, n_classes) shares of the classes, of which all but the first are counted."""
    out = np.empty((len(weight), counts.shape[1] + 1))
    np.divide(weight - counts.sum(axis=1, dtype=np.int32), weight, out=out[:, 0])
    for k in range(1, out.shape[1]):
        np.divide(counts[:, k - 1], weight, out=out[:, k])
    return out


def _gini(value: Array) -> Array:
    """Return 1 - sum of squares, added up in the order in which the kernel does it."""
    total = np.zeros(len(value))
    for k in range(value.shape[1]):
        total += value[:, k] * value[:, k]
    return 1.0 - total


@dataclass(frozen=True)
class Trees:
    """The nodes of all trees, one tree after the other, each depth first with the left child behind its parent.

    Held is what does not follow from the rest; `left`, `right`, `cut`, `bin`, `missing_left`, `set_at`, `weight`,
    `value` and `impurity` are arrays of all nodes that are made when they are asked for.

    Parameters
    ----------
    offset, inner_offset : (n_trees + 1,) int64, where the nodes and the inner nodes of each tree begin.
    feature : int32, -1 for a leaf.   n_rows : int32.
    inner_cut : float64, of inner nodes; x <= cut goes left.   inner_bin : uint8; code <= bin goes left.
    inner_right : int32 right child, counted inside the tree.   inner_missing_left : uint8, 1: a missing one goes left.
    own_set_at : int32, row of ``sets`` (n_sets, 8) uint32 whose bits are the codes that go left; -1: a cut decides;
        empty if there are no sets.
    own_weight : int32 where all are whole numbers, else float64.
    own_counts : (n_nodes, n_outputs - 1) int32 weights of all classes but the first; empty if ``own_value`` is not.
    own_value : (n_nodes, n_outputs) float64, or (0, n_outputs).
    own_impurity : float64, or empty: it is Gini's of the value.
    """

    offset: Array
    inner_offset: Array
    feature: Array
    n_rows: Array
    inner_cut: Array
    inner_bin: Array
    inner_right: Array
    inner_missing_left: Array
    own_set_at: Array
    sets: Array
    own_weight: Array
    own_counts: Array
    own_value: Array
    own_impurity: Array

    @property
    def n_trees(self) -> int:
        return len(self.offset) - 1

    @property
    def n_outputs(self) -> int:
        return int(self.own_value.shape[1])

    @property
    def left(self) -> Array:
        """(n_nodes,) int32 left children, counted inside the tree; a leaf is its own."""
        return self._number() + (self.feature >= 0)

    @property
    def right(self) -> Array:
        """(n_nodes,) int32 right children, counted inside the tree; a leaf is its own."""
        out = self._number()
        out[self.feature >= 0] = self.inner_right
        return out

    @property
    def cut(self) -> Array:
        """(n_nodes,) float64, 0 for leaves."""
        return self._of_all(self.inner_cut)

    @property
    def bin(self) -> Array:
        """(n_nodes,) uint8, 0 for leaves."""
        return self._of_all(self.inner_bin)

    @property
    def missing_left(self) -> Array:
        """(n_nodes,) uint8, 0 for leaves."""
        return self._of_all(self.inner_missing_left)

    @property
    def set_at(self) -> Array:
        """(n_nodes,) int32, -1 where a cut decides."""
        return self.own_set_at if len(self.own_set_at) else np.full(len(self.feature), -1, np.int32)

    @property
    def weight(self) -> Array:
        """(n_nodes,) float64."""
        return self.own_weight.astype(np.float64, copy=False)

    @property
    def value(self) -> Array:
        """(n_nodes, n_outputs) float64."""
        return _shares(self.own_weight, self.own_counts) if len(self.own_counts) else self.own_value

    @property
    def impurity(self) -> Array:
        """(n_nodes,) float64."""
        return self.own_impurity if len(self.own_impurity) else _gini(self.value)

    def arrays(self) -> dict[str, Array]:
        """Return what is held as arrays by name; `from_arrays` reads them."""
        return {f"tree_{f.name}": getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Trees:
        return cls(**{f.name: arrays[f"tree_{f.name}"] for f in fields(cls)})

    def stored(self) -> Mapping[str, Array]:
        """Return the arrays of a stored model by name, each made when it is asked for."""
        return _Stored(self)

    @classmethod
    def from_stored(cls, arrays: Arrays) -> Trees:
        """Return the trees that `stored` wrote down."""
        found = {name: arrays[f"tree_{name}"] for name in STORED}
        inner, offset = found["feature"] >= 0, found["offset"]
        held = {f"inner_{name}": found[name][inner] for name in ("cut", "bin", "right", "missing_left")}
        held |= _shortened(found["weight"], found["value"], found["impurity"])
        held |= {name: found[name] for name in ("offset", "feature", "n_rows", "sets")}
        held["own_set_at"] = found["set_at"][: None if len(found["sets"]) else 0]
        return cls(inner_offset=np.concatenate([[0], np.cumsum(inner)])[offset].astype(np.int64), **held)

    @classmethod
    def of_parts(cls, parts: Sequence[Arrays], n_outputs: int, read: Callable[[int], None] | None = None) -> Trees:
        """Return the trees that `packed` made parts of, each number copied once; ``read(i)``: part i has been."""
        sizes, inner = ([len(p[name]) for p in parts] for name in ("feature", "inner_cut"))
        offset, inner_offset = (np.cumsum([0, *n], dtype=np.int64) for n in (sizes, inner))
        return cls(offset=offset, inner_offset=inner_offset, **_one_after_the_other(parts, n_outputs, read))

    def joined(self, other: Trees) -> Trees:
        """Return these trees followed by others."""
        both = [{f.name: getattr(trees, f.name) for f in fields(self)} for trees in (self, other)]
        offsets = {
            name: np.concatenate([both[0][name], both[0][name][-1] + both[1][name][1:]])
            for name in ("offset", "inner_offset")
        }
        return Trees(**offsets, **_one_after_the_other(both, self.n_outputs))

    def tree(self, t: int) -> Trees:
        """Return one tree as trees of its own."""
        return self.some(t, t + 1)

    def some(self, first: int, last: int) -> Trees:
        """Return the trees first..last, which are views."""
        nodes, inner = self.offset[first : last + 1], self.inner_offset[first : last + 1]
        found = {"offset": nodes - nodes[0], "inner_offset": inner - inner[0], "sets": self.sets}
        for f in fields(self):
            if f.name not in found:
                at = inner if f.name.startswith("inner") else nodes
                found[f.name] = getattr(self, f.name)[at[0] : at[-1]]
        return Trees(**found)

    def groups(self) -> Iterator[tuple[int, Trees]]:
        """Yield (number of the first tree, a few trees): what is made of all their nodes takes little memory."""
        first = 0
        while first < self.n_trees:
            most = self.offset[first] + _NODES_AT_ONCE
            last = max(int(np.searchsorted(self.offset, most, side="right")) - 1, first + 1)
            yield first, self.some(first, last)
            first = last

    def depths(self) -> Array:
        """Return (n_nodes,) the depth of each node, 0 for the roots."""
        from tutti.learners._kernels.tree_prune import depths

        out = np.zeros(len(self.feature), np.int32)
        depths(self.offset, self.inner_right, self.feature, out)
        return out

    def _number(self) -> Array:
        """Return (n_nodes,) int32 the number of each node inside its tree."""
        number = np.arange(len(self.feature), dtype=np.int32)
        number -= np.repeat(self.offset[:-1], np.diff(self.offset)).astype(np.int32)
        return number

    def _of_all(self, inner: Array) -> Array:
        out = np.zeros(len(self.feature), inner.dtype)
        out[self.feature >= 0] = inner
        return out


def _one_after_the_other(
    parts: Sequence[Arrays], n_outputs: int, read: Callable[[int], None] | None = None
) -> dict[str, Array]:
    """Return what `Trees` holds, but for the offsets; what one part has to write out is written out for all."""
    n, n_inner, n_sets = (sum(len(p[name]) for p in parts) for name in ("feature", "inner_cut", "sets"))
    counted = all(len(p["own_counts"]) for p in parts)
    follows = not any(len(p["own_impurity"]) for p in parts)
    whole = all(p["own_weight"].dtype == np.int32 for p in parts)
    out = _one_block(
        feature=((n,), "i4"),
        n_rows=((n,), "i4"),
        inner_cut=((n_inner,), "f8"),
        inner_bin=((n_inner,), "u1"),
        inner_right=((n_inner,), "i4"),
        inner_missing_left=((n_inner,), "u1"),
        own_set_at=((n if n_sets else 0,), "i4"),
        sets=((n_sets, 8), "u4"),
        own_weight=((n,), "i4" if whole else "f8"),
        own_counts=((n if counted else 0, n_outputs - 1), "i4"),
        own_value=((0 if counted else n, n_outputs), "f8"),
        own_impurity=((0 if follows else n,), "f8"),
    )
    at = dict.fromkeys(out, 0)
    for i, part in enumerate(parts):
        written = dict(part)
        if n_sets:
            own = part["own_set_at"] if len(part["own_set_at"]) else np.full(len(part["feature"]), -1)
            written["own_set_at"] = np.where(own >= 0, own + at["sets"], -1)
        if len(part["own_counts"]) and not counted:
            written["own_counts"], written["own_value"] = part["own_counts"][:0], _value_of(part)
        if not len(part["own_impurity"]) and not follows:
            written["own_impurity"] = _gini(_value_of(part))
        for name, array in out.items():
            stop = at[name] + len(written[name])
            array[at[name] : stop] = written[name]
            at[name] = stop
        if read is not None:
            read(i)
    return out


def _one_block(**arrays: tuple[tuple[int, ...], str]) -> dict[str, Array]:
    """Return arrays of these shapes and types in one block of memory: a large one goes back to the system at once."""
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays.values()]
    ends = np.cumsum([-(-n // 64) * 64 for n in sizes])
    block = np.empty(int(ends[-1]), np.uint8)
    begins = [0, *ends[:-1].tolist()]
    places = zip(arrays.items(), begins, sizes, strict=True)
    return {name: block[at : at + n].view(dtype).reshape(shape) for (name, (shape, dtype)), at, n in places}


def _value_of(part: Arrays) -> Array:
    return _shares(part["own_weight"], part["own_counts"]) if len(part["own_counts"]) else part["own_value"]


class _Stored(Mapping[str, Array]):
    """`Trees.stored`; what is made of the nodes can be had piece by piece, see `tutti.runtime.digest`."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees

    def __getitem__(self, name: str) -> Array:
        if name.removeprefix("tree_") not in STORED:
            raise KeyError(name)
        found: Array = getattr(self._trees, name.removeprefix("tree_"))
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        t = self._trees
        nodes = {"offset": t.offset.shape, "sets": t.sets.shape, "value": (len(t.feature), t.n_outputs)}
        return nodes.get(name.removeprefix("tree_"), t.feature.shape)

    def pieces(self, name: str) -> Iterator[Array]:
        whole = name in ("tree_offset", "tree_sets")
        return iter([self[name]]) if whole else (_Stored(some)[name] for _, some in self._trees.groups())

    def __iter__(self) -> Iterator[str]:
        return (f"tree_{name}" for name in STORED)

    def __len__(self) -> int:
        return len(STORED)


class Walker:
    """Trees in the form that rows are sent down in; made once, for one type of rows."""

    def __init__(self, trees: Trees, dtype: Any, threads: int = 1) -> None:
        self._trees, self._cut = trees, rounded_down(trees.inner_cut, dtype)
        self._plain = not len(trees.sets)
        coded = Coded(trees, self._cut, threads) if self._plain else None
        self._coded = coded if coded is not None and coded.made else None

    @cached_property
    def _nodes(self) -> tuple[Array, ...]:
        """What rows by their values read; not made if codes are enough."""
        t = self._trees
        leaf, roots = t.feature < 0, np.ascontiguousarray(t.offset[:-1])
        meta = t.right + np.repeat(roots, np.diff(t.offset))
        meta |= np.maximum(t.feature, 0).astype(np.int64) << 32
        cut = np.full(len(leaf), -np.inf, self._cut.dtype)
        cut[~leaf] = self._cut
        return roots, meta.view(np.uint64), cut, t.missing_left, t.set_at, t.sets

    @cached_property
    def _value(self) -> Array:
        return self._trees.value

    def sums(self, x: Array, threads: int = 1) -> Array:
        """Return (rows, n_outputs) sums over the trees of the values of the leaves that rows end in."""
        from tutti.learners._kernels.tree_predict import add_values

        add: Any = add_values

        out = np.zeros((len(x), self._trees.n_outputs))
        plain, coded = self._is_plain(x), self._coded
        if plain and coded is not None:
            self._in_parts(lambda lo, hi: coded.add(x, lo, hi, out), x, threads)
            return out
        nodes, value, d = self._nodes, self._value, x.shape[1]
        self._in_parts(lambda lo, hi: add(x.reshape(-1), d, lo, hi, *nodes, plain, value, out), x, threads)
        return out

    def apply(self, x: Array, threads: int = 1) -> Array:
        """Return (rows, n_trees) leaves, counted inside each tree."""
        from tutti.learners._kernels.tree_predict import apply

        find: Any = apply

        out = np.empty((len(x), self._trees.n_trees), np.int64)
        plain, nodes, d = self._is_plain(x), self._nodes, x.shape[1]
        self._in_parts(lambda lo, hi: find(x.reshape(-1), d, lo, hi, *nodes, plain, out), x, threads)
        return out

    def paths(self, x: Array) -> tuple[Array, Array]:
        """Return (indptr, indices) of the nodes that each row visits, nodes counted over all trees."""
        from tutti.learners._kernels.tree_predict import paths

        walk: Any = paths

        indptr = np.zeros(len(x) + 1, np.int64)
        walk(x, *self._nodes, indptr, np.zeros(0, np.int64))
        indices = np.empty(indptr[-1], np.int64)
        walk(x, *self._nodes, indptr, indices)
        return indptr, indices

    def _is_plain(self, x: Array) -> bool:
        with np.errstate(invalid="ignore", over="ignore"):
            return self._plain and not bool(np.isnan(x.sum()))

    def _in_parts(self, work: Any, x: Array, threads: int) -> None:
        n = len(x)
        parts = max(1, min(threads, n // _ROWS_PER_THREAD))
        if parts == 1:
            work(0, n)
            return
        edges = [n * p // parts for p in range(parts + 1)]
        with ThreadPoolExecutor(parts) as pool:
            list(pool.map(work, edges[:-1], edges[1:]))
