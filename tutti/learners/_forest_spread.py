"""A forest whose rows stay where they are: the program of one of several parts that see no common memory.

Nodes of many rows are split level by level on the sum of all parts' histograms, exact because they are whole numbers.
A node of few rows is sent to one part, which grows the whole subtree without asking anyone.  The trees are those of the
tasks, bit for bit: same kernels, same keys, rows in the same order.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutti._parcel import payload, value_of
from tutti.errors import Regrouped
from tutti.learners import _forest_draw, _forest_labels, _forest_rows
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Schema

Talk = Generator[bytes, list[Any], Any]
BATCH = 4
"""Trees that are grown at the same time: their messages travel together."""


@dataclass
class Node:
    """A node above the subtrees: known to all parts, with each part's own range of entries."""

    tree: int
    key: Any
    depth: int
    lo: int
    hi: int
    stats: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    ints: Array = field(default_factory=lambda: np.zeros((1, 7), np.int32))
    reals: Array = field(default_factory=lambda: np.zeros((1, 3)))
    values: Array = field(default_factory=lambda: np.zeros((1, 1)))
    words: Array = field(default_factory=lambda: np.zeros((0, 8), np.uint32))
    children: list[Node] = field(default_factory=list)
    found: Array | None = None
    order: Array | None = None
    sent: int = -1
    bounds: tuple[float, float] = (-np.inf, np.inf)
    middle: float = 0.0


@dataclass
class Tree:
    """A tree in the making: this part's drawn rows, and the rules that follow from all of them."""

    entries: Array
    rules: Any
    root: Node
    weight: Array


class LocalRows:
    """The `tutti.tasking.Rows` of the shards of one part, with rooms for their rows alone."""

    def __init__(self, schema: Schema, data: Mapping[int, ShardData]) -> None:
        self.schema, self.n_shards, self._data = schema, len(data), data
        self.rooms: dict[str, Array] = {}

    def shard(self, i: int) -> ShardData:
        return self._data[i]

    def common(self, name: str) -> Array:
        return self.rooms[name]


def _told(value: Mapping[str, Any]) -> Talk:
    """Send a value to all; return the values of all parts."""
    answers = yield b"".join(bytes(p) for p in payload(dict(value)))
    return [value_of(a) for a in answers]


def _summed(array: Array) -> Talk:
    """Return the sum of all parts' whole numbers."""
    parts = yield from _told({"a": array})
    total = np.array(parts[0]["a"])
    for part in parts[1:]:
        total += part["a"]
    return total


def _by_shard(own: Mapping[int, Arrays]) -> Talk:
    """Return what all parts have of each shard, in the order of the shards."""
    parts = yield from _told({str(s): dict(found) for s, found in own.items()})
    both = {int(s): found for part in parts for s, found in part.items()}
    return [both[s] for s in sorted(both)]


def spread(
    learner: Any, schema: Schema, data: Mapping[int, ShardData], seed: int, start: Arrays | None, rank: int, size: int
) -> Talk:
    """Grow the forest on the rows of the shards ``data``; yields bytes for all parts and is sent those of all."""
    shared = learner.init(schema, seed=seed, start=start)
    own = sorted(data)
    counts = yield from _by_shard({s: {"n": np.array([data[s].n_rows])} for s in own})
    starts = np.cumsum([0] + [int(c["n"][0]) for c in counts])
    summaries = {s: _forest_rows.summary(learner, schema, data[s], int(starts[s]), seed) for s in own}
    binned = learner.assemble(shared, (yield from _by_shard(summaries)))
    held = _Held(learner, schema, binned, data, starts)
    shared = learner.assemble(binned, [])
    part = Part(learner, shared, held.rows, held.numbers, rank, size)
    trees: list[Arrays] = []
    while len(trees) < learner.n_trees:
        try:
            trees += yield from part.grow(range(len(trees), min(len(trees) + BATCH, learner.n_trees)))
        except Regrouped as news:
            held = _Held(learner, schema, binned, news.shards, starts)
            part = Part(learner, shared, held.rows, held.numbers, news.part, news.parts)
    shared = learner.assemble(shared, trees)
    if not learner.oob:
        return shared
    while True:
        try:
            return learner.assemble(shared, (yield from _by_shard(held.votes(shared))))
        except Regrouped as news:
            held = _Held(learner, schema, binned, news.shards, starts)


class _Held:
    """The rows of the shards that a part holds, one shard after the other, as codes.

    Parameters
    ----------
    shared : with the bins.   starts : number of the first row of each shard.
    """

    def __init__(
        self, learner: Any, schema: Schema, shared: Arrays, data: Mapping[int, ShardData], starts: Array
    ) -> None:
        self._learner, self._data, self._starts = learner, data, starts
        own = sorted(data)
        counts = [data[s].n_rows for s in own]
        rows: Any = LocalRows(schema, data)
        for name, room in learner.rooms(shared).items():
            shape = (room.shape[0], sum(counts)) if name == "by_column" else (sum(counts), *room.shape[1:])
            rows.rooms[name] = np.zeros(shape, room.dtype)
        self._places = dict(zip(own, np.cumsum([0, *counts]).tolist(), strict=False))
        for s in own:
            _forest_rows.encode(learner, shared, rows, s, self._places[s])
        self.rows = rows
        self.numbers = np.concatenate(
            [np.arange(starts[s], starts[s] + data[s].n_rows) for s in own] or [np.zeros(0, np.int64)]
        )

    def votes(self, shared: Arrays) -> dict[int, Arrays]:
        """Return what the trees say of the rows that they have not drawn, by shard."""
        found: dict[int, Arrays] = {}
        for s, at in self._places.items():
            stop = at + self._data[s].n_rows
            found[s] = _forest_rows.votes(self._learner, shared, self.rows, at, stop, int(self._starts[s]))
        return found


class Part:
    """One part's rows, and the growth of a few trees at a time."""

    def __init__(self, learner: Any, shared: Arrays, rows: Any, numbers: Array, rank: int, size: int) -> None:
        self._learner, self._shared, self._numbers = learner, shared, numbers
        self._rank, self._size = rank, size
        self._table = _forest_rows.table(learner, shared, rows)
        self._rules = _forest_rows.rules(learner, shared)
        self._monotone = _forest_rows.monotone(learner)
        self._few = max(4096, int(shared["sizes"][0]) // 64)
        self._work = _forest_rows.scratch(self._table, self._rules, 1)
        whole = self._table._replace(n_rows=self._few)
        self._below = _forest_rows.scratch(whole, self._rules, self._few)
        self._width = (1 if self._rules.kind == 0 else 3) + self._rules.n_outputs
        self._size_of_bin = (1 if self._rules.kind == 0 else 2) + self._rules.n_outputs

    def grow(self, numbers: range) -> Talk:
        """Return the arrays of some trees."""
        trees = yield from self._drawn(numbers)
        level, sent = [t.root for t in trees], 0
        subtrees: dict[int, Arrays] = {}
        while level:
            yield from self._sum_up(level, trees)
            big: list[Node] = []
            few: list[Node] = []
            for node in level:
                if self._may_split(node, trees[node.tree].rules):
                    (few if node.stats[0] <= self._few else big).append(node)
            for node in few:
                node.sent, sent = sent, sent + 1
            yield from self._send(few, trees, subtrees)
            yield from self._split(big, trees)
            level = [child for node in big for child in node.children]
        parts = yield from _told({str(i): dict(found) for i, found in subtrees.items()})
        both = {int(i): found for part in parts for i, found in part.items()}
        return [self._put_together(t.root, both) for t in trees]

    def _drawn(self, numbers: range) -> Talk:
        """Return the trees with their rows drawn."""
        bags = [self._bag(number, once=False) for number in numbers]
        counts = yield from _summed(np.array([len(b) for b in bags], np.int64))
        bags = [b if c else self._bag(number, once=True) for b, c, number in zip(bags, counts, numbers, strict=True)]
        weight = [self._table.weight] * len(bags)
        sums = yield from self._of_all_rows(bags, weight)
        if self._learner.reweighs:
            weight = yield from self._reweighed(bags, sums)
            sums = yield from self._of_all_rows(bags, weight)
        trees = []
        for i, (number, bag) in enumerate(zip(numbers, bags, strict=True)):
            rules = _forest_rows.of_stats(self._learner, self._rules, sums[i])
            key = self._learner.tree_key(self._shared, number, "nodes")
            trees.append(Tree(bag, rules, Node(i, key, 0, 0, len(bag)), weight[i]))
        return trees

    def _of_all_rows(self, bags: list[Array], weight: list[Array]) -> Talk:
        """Return the sums over all parts' rows of each tree."""
        own = [self._stats(b, 0, len(b), self._rules, w) for b, w in zip(bags, weight, strict=True)]
        return (yield from _summed(np.array(own)))

    def _reweighed(self, bags: list[Array], sums: Array) -> Talk:
        """Return the weights of this part's rows in each tree."""
        t, found = self._table, []
        for bag, stats in zip(bags, sums, strict=True):
            each, rows = _forest_labels.factors(self._learner, stats), bag & 0xFFFFFFFF
            found.append(_forest_labels.products(self._learner, each, t.target, self._rules.scale, rows))
        parts = yield from _told({"top": np.array([p.max(initial=0.0) for p in found])})
        tops = np.max([p["top"] for p in parts], axis=0)
        return [
            _forest_labels.weights(self._rules, t.weight, t.n_rows, bag & 0xFFFFFFFF, product, float(top))
            for bag, product, top in zip(bags, found, tops, strict=True)
        ]

    def _bag(self, number: int, once: bool) -> Array:
        from tutti.learners._kernels.tree_grow import times_drawn
        from tutti.learners.forest import poisson

        n, thresholds = len(self._numbers), poisson(self._learner.rate)
        times = np.ones(n, np.int64)
        if len(thresholds) and not once:
            key = self._learner.tree_key(self._shared, number)
            cuts = np.flatnonzero(np.diff(self._numbers) != 1) + 1  # runs of neighbours
            for lo, hi in zip([0, *cuts], [*cuts, n], strict=True):
                if hi > lo and self._learner.balanced:
                    label, first = self._table.label[lo:hi], int(self._numbers[lo])
                    times[lo:hi] = _forest_draw.times_of(self._learner, self._shared, key, label, first)
                elif hi > lo:
                    times_drawn(key, int(self._numbers[lo]), hi - lo, thresholds, times[lo:hi])
        entries = np.arange(n, dtype=np.int64) | (times << 32)
        if len(self._table.label):
            entries |= self._table.label.astype(np.int64) << 48
        taken = times > 0
        if len(self._table.weight):
            taken &= self._table.weight > 0
        found: Array = entries[taken]
        return found

    def _stats(self, entries: Array, lo: int, hi: int, rules: Any, weight: Array) -> Array:
        from tutti.learners._kernels.tree_spread import add_stats

        t, out = self._table, np.zeros(self._width, np.int64)
        add_stats(rules, t.target, t.square, weight, entries, lo, hi, out)
        return out

    def _sum_up(self, level: list[Node], trees: list[Tree]) -> Talk:
        """Give the nodes of a level their sums over all parts, and write down what they are."""
        from tutti.learners._kernels.tree_spread import into_bounds, write_node

        of = [trees[v.tree] for v in level]
        own = [self._stats(t.entries, v.lo, v.hi, t.rules, t.weight) for v, t in zip(level, of, strict=True)]
        sums = yield from _summed(np.array(own))
        spans = yield from self._spans(level, trees)
        for i, node in enumerate(level):
            node.stats = sums[i]
            node.values = np.zeros((1, self._rules.n_outputs))
            write_node(trees[node.tree].rules, node.stats, 0, node.ints, node.reals, node.values)
            if self._monotone is not None:
                into_bounds(self._rules, node.values[0], *node.bounds)
            if spans is not None and (spans[i, 0] == -spans[i, 1]).all():
                node.depth = 1 << 30  # all targets are equal

    def _spans(self, level: list[Node], trees: list[Tree]) -> Talk:
        """Return (nodes, 2, n_outputs) greatest targets and minus the least ones; None for classes."""
        k = self._rules.n_outputs
        if self._rules.kind == 0:
            return None
        out = np.full((len(level), 2, k), np.iinfo(np.int64).min)
        targets = self._table.target.reshape(-1, k)
        for i, node in enumerate(level):
            if node.hi > node.lo:
                y = targets[trees[node.tree].entries[node.lo : node.hi] & 0xFFFFFFFF]
                out[i] = y.max(axis=0), (-y).max(axis=0)
        parts = yield from _told({"a": out})
        return np.max([p["a"] for p in parts], axis=0)

    def _may_split(self, node: Node, rules: Any) -> bool:
        from tutti.learners._kernels.tree_spread import weight

        n = node.stats[0]
        if node.depth >= rules.max_depth or n < rules.min_split or n < 2 * rules.min_leaf:
            return False
        if rules.min_weight > 0.0 and weight(rules, node.stats) < 2.0 * rules.min_weight:
            return False
        return rules.kind != 0 or bool((node.stats[1:] > 0).sum() > 1)

    def _send(self, few: list[Node], trees: list[Tree], subtrees: dict[int, Arrays]) -> Talk:
        """Send the rows of small nodes to their owners, who grow what is below."""
        t, k = self._table, self._rules.n_outputs
        message: dict[str, Any] = {}
        for node in few:
            entries = trees[node.tree].entries[node.lo : node.hi]
            rows = entries & 0xFFFFFFFF
            here: dict[str, Any] = {"number": self._numbers[rows], "upper": entries >> 32}
            here["codes"] = t.by_row.reshape(-1, t.stride)[rows]
            if len(t.target):
                here["target"], here["square"] = t.target.reshape(-1, k)[rows], t.square[rows]
            if len(weight := trees[node.tree].weight):
                here["weight"] = weight[rows]
            message[str(node.sent)] = here
        if not few:
            return
        parts = yield from _told(message)
        for node in few:
            if node.sent % self._size == self._rank:
                pieces = [part[str(node.sent)] for part in parts]
                whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
                subtrees[node.sent] = self._subtree(node, trees[node.tree].rules, whole)

    def _subtree(self, node: Node, rules: Any, whole: dict[str, Array]) -> Arrays:
        from tutti.learners._kernels.tree_grow import grow

        order = np.argsort(whole["number"], kind="stable")
        whole = {name: np.ascontiguousarray(a[order]) for name, a in whole.items()}
        n, codes, work = len(order), whole["codes"], self._below
        work.entries[:n] = np.arange(n) | (whole["upper"] << 32)
        nothing = np.zeros(0, np.int64)
        table = self._table._replace(
            by_column=np.ascontiguousarray(codes.T[: self._table.n_features]).reshape(-1),
            by_row=codes.reshape(-1),
            words=codes.reshape(-1).view(np.uint64),
            n_rows=n,
            target=whole["target"].reshape(-1) if "target" in whole else nothing,
            square=whole.get("square", nothing),
            weight=whole.get("weight", nothing),
        )
        rules = rules._replace(max_depth=rules.max_depth - node.depth)
        monotone = _forest_rows.monotone(self._learner, *node.bounds)
        ints, reals, values, sets = grow(table, rules, work, n, node.key, 2048, monotone)
        return {"ints": ints, "reals": reals, "values": values, "sets": sets}

    def _split(self, big: list[Node], trees: list[Tree]) -> Talk:
        """Find the splits of large nodes on summed histograms, and part this part's rows by them."""
        from tutti.learners._kernels.tree_spread import drawn, enough

        d, most = self._table.n_features, self._rules.max_features
        pending, best, at = list(range(len(big))), [-np.inf] * len(big), [0] * len(big)
        orders = [drawn(v.key, d, d) for v in big]
        useful = [False] * len(big)
        while pending:
            wants = [(i, int(f)) for i in pending for f in orders[i][at[i] : max(most, at[i] + 1)]]
            h = yield from _summed(self._histograms([(big[i], f) for i, f in wants], trees))
            for row, (i, f) in enumerate(wants):
                best[i], constant = self._judge(h[row], big[i], f, trees[big[i].tree].rules, best[i])
                useful[i] = useful[i] or not constant
            for i in pending:
                at[i] = max(most, at[i] + 1)
            pending = [i for i in pending if not useful[i] and at[i] < d]
        for i, node in enumerate(big):
            if enough(trees[node.tree].rules, best[i], node.stats):
                self._part_rows(node, trees[node.tree])
        counts = yield from _summed(np.array([[c.hi - c.lo for c in v.children] or [0, 0] for v in big], np.int64))
        for node, (left, right) in zip(big, counts, strict=True):
            if node.children and node.found is not None and node.found[4] == 0:
                self._missing_to(node, bool(left > right))

    def _histograms(self, wants: list[tuple[Node, int]], trees: list[Tree]) -> Array:
        from tutti.learners._kernels.tree_spread import count

        t, out = self._table, np.zeros((len(wants), 256 * self._size_of_bin), np.int64)
        for row, (v, f) in enumerate(wants):
            entries, rules, weight = trees[v.tree].entries, trees[v.tree].rules, trees[v.tree].weight
            offset = f * t.n_rows
            count(
                t.label,
                t.target,
                weight,
                t.by_column,
                1,
                offset,
                entries,
                v.lo,
                v.hi,
                rules,
                out[row],
                self._size_of_bin,
            )
        return out

    def _judge(self, h: Array, node: Node, feature: int, rules: Any, best: float) -> tuple[float, bool]:
        from tutti.learners._kernels.tree_spread import judge

        t, work, monotone = self._table, self._work, self._monotone
        if monotone is not None:
            monotone.bounds[:2] = node.bounds
        found, constant = judge(t, rules, work, h, self._size_of_bin, node.stats, feature, best, monotone)
        if found > best:
            node.found, node.order = work.found.copy(), work.best_order.copy()
            node.middle = 0.0 if monotone is None else float(monotone.bounds[2])
        return found, constant

    def _part_rows(self, node: Node, tree: Tree) -> None:
        from tutti.learners._kernels.tree_spread import (
            child_bounds,
            child_key,
            partition,
            partition_set,
            split_sign,
            write_split,
        )

        t, work = self._table, self._work
        assert node.found is not None
        assert node.order is not None
        work.found[:], work.best_order[:] = node.found, node.order
        sets, n_sets = write_split(t, work, 0, node.ints, node.reals, np.zeros((1, 8), np.uint32), 0)
        node.words = sets[:n_sets]
        offset, entries, ints = int(node.ints[0, 0]) * t.n_rows, tree.entries, node.ints[0]
        if n_sets:
            mid = partition_set(t.by_column, 1, offset, node.words[0], entries, node.lo, node.hi, work.spare)
        else:
            cut, low = int(ints[4]), bool(ints[6])
            mid = partition(t.by_column, 1, offset, cut, low, entries, node.lo, node.hi, work.spare)
        keys = [child_key(np.uint64(node.key), np.uint64(side)) for side in (1, 2)]
        ranges = ((node.lo, mid), (mid, node.hi))
        node.children = [
            Node(node.tree, np.uint64(k), node.depth + 1, a, b) for k, (a, b) in zip(keys, ranges, strict=True)
        ]
        if self._monotone is not None:
            sign = split_sign(node.found, self._monotone)
            for side, child in enumerate(node.children):
                child.bounds = child_bounds(sign, *node.bounds, node.middle, side)

    def _missing_to(self, node: Node, left: bool) -> None:
        from tutti.learners._kernels.tree_spread import set_of

        node.ints[0, 6] = left
        if len(node.words) and node.found is not None and node.order is not None:
            set_of(node.order, int(node.found[5]), int(node.found[6]), left, node.words[0])

    def _put_together(self, root: Node, subtrees: Mapping[int, Arrays]) -> Arrays:
        """Return one tree's arrays, depth first."""
        ints: list[Array] = []
        parts: dict[str, list[Array]] = {"reals": [], "values": [], "sets": []}
        n, n_sets = 0, 0
        stack = [(root, -1, 0)]
        while stack:
            node, parent, side = stack.pop()
            if parent >= 0:
                ints[parent][0, 1 + side] = n
            if node.sent >= 0:
                below = subtrees[node.sent]
                found = {name: np.array(below[name]) for name in ("ints", "reals", "values", "sets")}
                found["ints"][:, 1:3] += n
            else:
                found = {"ints": node.ints, "reals": node.reals, "values": node.values, "sets": node.words}
                found["ints"][:, 1:3] = n
            found["ints"][:, 5] = np.where(found["ints"][:, 5] >= 0, found["ints"][:, 5] + n_sets, -1)
            ints.append(found["ints"])
            for name, list_ in parts.items():
                list_.append(found[name])
            here = len(ints) - 1
            n, n_sets = n + len(found["ints"]), n_sets + len(found["sets"])
            if node.children:
                stack += [(node.children[1], here, 1), (node.children[0], here, 0)]
        whole = {name: np.concatenate(list_) for name, list_ in parts.items()}
        tree: Arrays = self._learner.pruned({"ints": np.concatenate(ints), **whole})
        return tree
