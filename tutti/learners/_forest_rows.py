"""What the trees of a forest read: codes, targets as whole numbers, rules, scratch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.learners import _bins, _forest_draw
from tutti.learners._bins import Bins
from tutti.learners._trees import Trees
from tutti.protocols import ShardData
from tutti.tasking import Rows
from tutti.types import Array, Arrays, Block, Csr, Schema

_WEIGHT_BITS = 34
"""Sample weights of a regression share 62 bits with the targets."""


def stride(n_features: int) -> int:
    """Return the bytes of a row of codes, a multiple of 8."""
    return (n_features + 7) // 8 * 8


class _WithoutTargets:
    """A shard whose last columns are targets, seen without them."""

    def __init__(self, data: ShardData, n_targets: int) -> None:
        self._data, self._n = data, n_targets
        self.id, self.n_rows, self.bounds = data.id, data.n_rows, data.bounds

    def block(self, i: int) -> Block:
        block = self._data.block(i)
        assert not isinstance(block.x, Csr)
        return dataclasses.replace(block, x=block.x[:, : -self._n])

    def place(self, row: int) -> tuple[str | None, int]:
        return self._data.place(row)


def _targets(learner: Any, data: ShardData, i: int) -> Array:
    """Return (rows, n_targets) float64 targets of a block."""
    block = data.block(i)
    if learner.n_targets:
        assert not isinstance(block.x, Csr)
        return np.asarray(block.x[:, -learner.n_targets :], np.float64)
    return np.asarray(block.y, np.float64)[:, None]


def features(learner: Any, data: ShardData) -> ShardData:
    """Return the shard without the columns that are targets."""
    return _WithoutTargets(data, learner.n_targets) if learner.n_targets else data


def summary(learner: Any, schema: Schema, data: ShardData, first: int, seed: int) -> dict[str, Array]:
    """Return what bins and units of the targets need to know of a shard."""
    narrow = dataclasses.replace(schema, n_features=schema.n_features - learner.n_targets)
    found = _bins.summarise(narrow, features(learner, data), first, seed)
    n = max(learner.n_targets, 1)
    total, whole, sums, largest = 0.0, True, np.zeros(n), np.zeros(n)
    for i, (lo, hi) in enumerate(data.bounds):
        weight = data.block(i).weight
        w = np.ones(hi - lo) if weight is None else weight
        total += float(w.sum())
        whole = whole and (weight is None or bool((w == np.rint(w)).all()))
        if learner.regresses:
            y = _targets(learner, data, i)
            sums = sums + w @ y
            largest = np.maximum(largest, np.abs(y).max(axis=0, initial=0.0))
    if learner.balanced:
        found["classes"] = _forest_draw.class_counts(data, len(schema.classes or ()))
    return {**found, "total": np.array([total]), "whole": np.array([whole]), "sums": sums, "largest": largest}


def units(learner: Any, parts: Sequence[Arrays], n_outputs: int) -> dict[str, Array]:
    """Return (shift, scales): targets, their squares and weights become whole numbers, (y - shift) 2^scale, whose
    sums fit into 62 bits; weights that are whole numbers stay what they are."""
    total = sum(float(p["total"][0]) for p in parts)
    regression = learner.regresses
    bits, weight = _WEIGHT_BITS if regression and not learner.reweighs else 48, 0
    if learner.reweighs or not all(bool(p["whole"][0]) for p in parts):
        weight = max(0, min(40, bits - math.ceil(math.log2(max(total, 1e-300)))))
    if not regression:
        return {"scales": np.array([0, 0, weight], np.int64)}
    if learner.reweighs:  # indicators need no fractions, which leaves the bits to the weights
        return {"shift": np.zeros(n_outputs), "scales": np.array([0, 0, weight], np.int64)}
    shift = np.zeros(n_outputs)
    for p in parts:
        shift = shift + p["sums"]
    shift = shift / total if total > 0.0 and not learner.exact else np.zeros(n_outputs)
    largest = np.max([p["largest"] for p in parts], axis=0)
    widest = float((largest + np.abs(shift)).max())
    room = 59 - math.ceil(math.log2(max(total, 1.0) + 1.0)) - weight
    power = min(50, room) - math.ceil(math.log2(widest)) if widest > 0.0 else 0
    widest *= widest * n_outputs
    square = room - math.ceil(math.log2(widest)) if widest > 0.0 else 0
    return {"shift": shift, "scales": np.array([power, square, weight], np.int64)}


def encode(learner: Any, shared: Arrays, rows: Rows, task: int, first: int) -> None:
    """Write a shard's codes, targets and weights into the rooms."""
    data = rows.shard(task)
    bins, scale = Bins.from_arrays(shared), int(shared["scales"][2])
    narrow = features(learner, data)
    codes, by_row = rows.common("by_column"), rows.common("by_row")
    for i, (lo, hi) in enumerate(data.bounds):
        here = slice(first + lo, first + hi)
        block = narrow.block(i)
        bins.encode(block, codes, here.start, narrow)
        by_row[here, : bins.n_features] = codes[:, here].T
        by_row[here, bins.n_features :] = 0
        if rows.schema.weighted:
            rows.common("weight")[here] = _bins.whole_weights(block.weight, hi - lo, scale)
        if not learner.regresses:
            rows.common("label")[here] = block.y
            continue
        y = _targets(learner, data, i) - shared["shift"]
        power, square = (int(v) for v in shared["scales"][:2])
        if not np.isfinite(y).all():
            bad = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
            path, row = data.place(lo + bad)
            raise DataError("Input y contains NaN or infinity", path=path, row=row)
        rows.common("target")[here] = np.rint(np.ldexp(y, power))
        rows.common("square")[here] = np.rint(np.ldexp((y * y).sum(axis=1), square))


def table(learner: Any, shared: Arrays, rows: Rows) -> Any:
    """Return the rows as the kernels read them."""
    from tutti.learners._kernels.tree_split import Table

    regression = learner.regresses
    bins, nothing = Bins.from_arrays(shared), np.zeros(0, np.int64)
    by_row = rows.common("by_row")
    return Table(
        by_column=rows.common("by_column").reshape(-1),
        by_row=by_row.reshape(-1),
        words=by_row.reshape(-1).view(np.uint64),
        stride=by_row.shape[1],
        n_rows=len(by_row),
        n_features=bins.n_features,
        categorical=bins.categorical.astype(np.uint8),
        any_categorical=int(bins.categorical.any()),
        cuts=bins.cuts.copy(),
        cut_at=bins.cut_at.copy(),
        values=bins.values.copy(),
        value_at=bins.value_at.copy(),
        label=np.zeros(0, np.int32) if regression else rows.common("label"),
        target=rows.common("target").reshape(-1) if regression else nothing,
        square=rows.common("square") if regression else nothing,
        weight=rows.common("weight") if rows.schema.weighted else nothing,
    )


def rules(learner: Any, shared: Arrays) -> Any:
    """Return what the kernels are told of a good tree; weights and decreases are those of one row until `of_bag`."""
    from tutti.learners._kernels import tree_split as kernels

    regression = learner.regresses
    k = int(shared["sizes"][2])
    power, square, weight = (int(v) for v in shared["scales"])
    weights = np.ones(k) if learner.class_weight is None else np.asarray(learner.class_weight, np.float64)
    codes = {"gini": kernels.GINI, "entropy": kernels.ENTROPY, "squared_error": kernels.SQUARED}
    return kernels.Rules(
        kind=kernels.REGRESSION if regression else kernels.CLASSES,
        n_outputs=k,
        criterion=codes[learner.criterion],
        max_features=learner.max_features,
        max_depth=1 << 30 if learner.max_depth is None else learner.max_depth,
        min_split=learner.min_samples_split,
        min_leaf=learner.min_samples_leaf,
        min_weight=float(learner.min_weight_leaf),
        min_decrease=float(learner.min_impurity_decrease),
        class_weight=weights,
        unit=2.0**-weight,
        scale=2.0**-power,
        square_unit=2.0**-square,
        shift=np.array(shared["shift"]) if regression else np.zeros(k),
    )


def monotone(learner: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """Return what the kernels are told of monotone columns and of the bounds of a tree's root; None without any."""
    from tutti.learners._kernels.tree_monotone import Monotone

    if not any(learner.monotonic):
        return None
    return Monotone(np.array(learner.monotonic, np.int64), np.array([low, high, 0.0]))


def of_bag(learner: Any, table: Any, rules: Any, work: Any, n: int) -> Any:
    """Return the rules with what depends on the rows that a tree has drawn."""
    from tutti.learners._kernels import tree_spread

    stats = np.zeros(3 + rules.n_outputs, np.int64)
    tree_spread.add_stats(rules, table.target, table.square, table.weight, work.entries, 0, n, stats)
    return of_stats(learner, rules, stats)


def of_stats(learner: Any, rules: Any, stats: Array) -> Any:
    """Return the rules with what depends on the sums over all rows that a tree has drawn."""
    from tutti.learners._kernels import tree_split, tree_spread

    if learner.balanced_subsample and rules.kind == tree_split.CLASSES:
        sums = stats[1 : 1 + rules.n_outputs].astype(np.float64)
        present = max(int((sums > 0).sum()), 1)
        balanced = np.divide(sums.sum(), present * sums, out=np.ones(len(sums)), where=sums > 0)
        rules = rules._replace(class_weight=rules.class_weight * balanced)
    total = tree_spread.weight(rules, stats)
    return rules._replace(min_weight=rules.min_weight * total, min_decrease=rules.min_decrease * total)


def scratch(table: Any, rules: Any, local_rows: int) -> Any:
    """Return the memory that one thread needs to grow trees."""
    from tutti.learners._kernels import tree_split as kernels

    n, d, size = table.n_rows + 1, table.n_features, 3 + rules.n_outputs
    local, k = local_rows + 1, rules.n_outputs if rules.kind == kernels.REGRESSION else 0

    def whole(length: int) -> Array:
        return np.zeros(length, np.int64)

    codes = whole(local * table.stride // 8)
    return kernels.Work(
        entries=np.empty(n, np.int64),
        spare=np.empty(n, np.int64),
        local_entries=whole(local),
        local_codes=codes.view(np.uint8),
        local_words=codes.view(np.uint64),
        local_target=whole(local * k),
        local_square=whole(local),
        local_weight=whole(local),
        histogram=whole(5 * 256),
        small=whole(256),
        wide=whole(size * 256),
        prefix=whole(256),
        score=np.zeros(256),
        order=whole(257),
        share=np.zeros(257),
        left=whole(size),
        right=whole(size),
        rows=whole(kernels.SPARSE),
        payload=whole(kernels.SPARSE),
        permutation=np.arange(d, dtype=np.int64),
        swaps=whole(d),
        found=whole(8),
        best_order=whole(257),
    )


def votes(learner: Any, shared: Arrays, rows: Rows, first: int, last: int, number: int) -> dict[str, Array]:
    """Return (rows, n_outputs + 1) for the rows first..last of the rooms, ``number``.. of all: sums of the values of
    trees that have not drawn them, and how many these are."""
    from tutti.learners._kernels.tree_grow import times_drawn
    from tutti.learners._kernels.tree_predict import add_codes
    from tutti.learners.forest import poisson

    add: Any = add_codes
    trees, by_column = Trees.from_arrays(shared), rows.common("by_column")
    if learner.regresses:
        target = np.ldexp(rows.common("target").astype(np.float64), -int(shared["scales"][0])) + shared["shift"]
    else:
        target = rows.common("label")
    thresholds, n = poisson(learner.rate), last - first
    out = np.zeros((n, trees.n_outputs + 1))
    sums, times = np.zeros((n, trees.n_outputs)), np.empty(n, np.int64)
    codes = np.ascontiguousarray(by_column[:, first:last]).reshape(-1)
    sets = np.require(trees.sets, requirements="W")
    for t in range(trees.n_trees):
        key = learner.tree_key(shared, t - int(shared["sizes"][3]))
        if learner.balanced:
            times = _forest_draw.times_of(learner, shared, key, target[first:last], number)
        else:
            times_drawn(key, number, n, thresholds, times)
        left_out = np.flatnonzero(times == 0)
        one = trees.tree(t)
        nodes = (one.feature, one.left, one.right, one.bin, one.missing_left, one.set_at, sets, one.value)
        writable = [np.require(a, requirements="W") for a in nodes]  # one compiled form, also of arrays that are lent
        add(codes, n, left_out, *writable, sums)
        out[left_out, -1] += 1.0
    out[:, :-1] = sums
    return {"votes": out, "target": target[first:last].copy()}


def warm_up(learner: Any, schema: Schema) -> None:
    """Compile or load the kernels on a handful of rows."""
    from tutti.learners._forest_warm import run

    run(learner, schema)
