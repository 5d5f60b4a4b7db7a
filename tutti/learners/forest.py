"""Random forests: trees as tasks over one binned copy of the rows, the same bits whoever grows them.

Shards summarise their columns, then write their codes and targets into rooms that all workers see; each tree is a task
that reads them all.  A tree draws its rows and features with bits keyed by (seed, tree, row or node), and histograms
are sums of whole numbers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import DataError
from tutti.learners import _bins, _forest_draw, _forest_labels, _forest_rows
from tutti.learners._bins import Bins
from tutti.learners._trees import Trees, packed
from tutti.protocols import ShardData
from tutti.seeds import seed as derive
from tutti.tasking import Lent, OnlyTasks, Room, Rows
from tutti.types import Array, Arrays, Cost, Kind, Progress, Schema

SUMMARY, CODES, TREES, VOTES, DONE = range(5)
_LOCAL_ROWS = 2048
_kept = threading.local()


@dataclass(frozen=True)
class ForestLearner(OnlyTasks, Spec):
    """Bagged trees on binned columns.

    Parameters
    ----------
    n_trees : trees to grow, besides those of ``start``.
    criterion : "gini", "entropy", or "squared_error".
    max_depth, max_leaf_nodes : None for no bound.
    min_samples_split, min_samples_leaf : rows of a node, each counted once.
    min_weight_leaf : least weight of a leaf, as a share of all.
    max_features : features that are drawn for a node.
    min_impurity_decrease, ccp_alpha : as in scikit-learn.
    rate : expected number of times that a row is drawn for a tree; 0: every row once.
    balanced : each class is drawn from as often as the rarest has rows, times ``rate``.
    class_weight : one factor per class; ``balanced_subsample`` sets it per tree from the rows drawn.
    categorical : numbers of the columns whose values are names.
    n_targets : the last columns of the rows are targets, instead of y; 0: y is the target.
    exact : targets are 0 or 1 and stay what they are.   n_classes : how many of them belong to each of several labels.
    n_shards : shards of the job.
    oob : also collect what the trees say of rows that they have not drawn.
    monotonic : 1 (rises), -1 (falls) or 0 of each column; empty: 0.  Of one target, or of the second of two classes.
    """

    n_trees: int = 100
    criterion: str = "gini"
    max_depth: int | None = None
    max_leaf_nodes: int | None = None
    min_samples_split: int = 2
    min_samples_leaf: int = 1
    min_weight_leaf: float = 0.0
    max_features: int = 1
    min_impurity_decrease: float = 0.0
    ccp_alpha: float = 0.0
    rate: float = 1.0
    balanced: bool = False
    class_weight: tuple[float, ...] | None = None
    balanced_subsample: bool = False
    categorical: tuple[int, ...] = ()
    n_targets: int = 0
    exact: bool = False
    n_shards: int = 8
    oob: bool = False
    monotonic: tuple[int, ...] = ()
    n_classes: tuple[int, ...] = ()

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"part"})

    @property
    def regresses(self) -> bool:
        """True if rows have numbers as targets, which indicators of classes are, too."""
        return self.criterion == "squared_error" or self.exact

    @property
    def reweighs(self) -> bool:
        """True if rows have weights of their own in each tree."""
        return self.balanced_subsample and self.exact

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels."""
        _forest_rows.warm_up(self, schema)

    def cost(self, schema: Schema) -> Cost:
        """Estimate memory: two copies of the codes, the model, and the scratch of a worker."""
        codes = schema.n_rows * (2 * schema.n_features + 12)
        return Cost(8 * self._nodes(schema), private_bytes=(codes + 24 * schema.n_rows) // self.n_shards, rounds=3)

    def _nodes(self, schema: Schema) -> int:
        most = 2 * schema.n_rows // max(self.min_samples_leaf, 1)
        if self.max_depth is not None and self.max_depth < 40:
            most = min(most, 2 ** (self.max_depth + 1))
        return most * self.n_trees

    def outline(self, schema: Schema) -> Mapping[str, Sequence[float]]:
        """Return the stages: summaries and codes of shards, trees, and the votes of shards with ``oob``."""
        each = [schema.n_rows * schema.n_features / self.n_shards] * self.n_shards
        stages = {"summaries": each, "codes": each, "trees": [float(schema.n_rows)] * self.n_trees}
        return {**stages, "votes": each} if self.oob else stages

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        k = self.n_outputs(schema)
        trees = Trees.of_parts([], k) if start is None else Trees.from_arrays(start)
        whole = np.array(
            [schema.n_rows, schema.n_features - self.n_targets, k, trees.n_trees, schema.weighted], np.int64
        )
        return {"stage": np.array([SUMMARY]), "seed": np.array([seed], np.uint64), "sizes": whole, **trees.arrays()}

    def n_outputs(self, schema: Schema) -> int:
        """Return the width of a leaf's value: classes, or targets."""
        return len(schema.classes) if schema.classes is not None else max(self.n_targets, 1)

    def tasks(self, shared: Arrays) -> Sequence[float]:
        """Return the costs of the tasks of the coming stage."""
        stage = int(shared["stage"][0])
        if stage == TREES:
            return [1.0] * self.n_trees
        return [] if stage == DONE else [1.0] * self.n_shards

    def rooms(self, shared: Arrays) -> Mapping[str, Room]:
        """Return the rooms of codes and targets."""
        if shared["stage"][0] != CODES:
            return {}
        n, d, k = (int(v) for v in shared["sizes"][:3])
        rooms = {"by_column": Room((d, n), "uint8"), "by_row": Room((n, _forest_rows.stride(d)), "uint8")}
        if self.regresses:
            rooms |= {"target": Room((n, k), "int64"), "square": Room((n,), "int64")}
        else:
            rooms["label"] = Room((n,), "int32")
        return {**rooms, "weight": Room((n,), "int64")} if shared["sizes"][4] else rooms

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        """Summarise or encode a shard, grow a tree, or collect the votes for a shard's rows."""
        stage = int(shared["stage"][0])
        if stage == TREES:
            return self._tree(shared, task, rows)
        starts = np.cumsum([0] + [rows.shard(i).n_rows for i in range(rows.n_shards)])
        first = int(starts[task])
        if stage == SUMMARY:
            return _forest_rows.summary(self, rows.schema, rows.shard(task), first, int(shared["seed"][0]))
        if stage == CODES:
            _forest_rows.encode(self, shared, rows, task, first)
            return {"n": np.array([rows.shard(task).n_rows])}
        return _forest_rows.votes(self, shared, rows, first, int(starts[task + 1]), first)

    def assemble(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        """Put the bins, or the model, together."""
        stage = int(shared["stage"][0])
        if stage == SUMMARY:
            d, k = (int(v) for v in shared["sizes"][1:3])
            categorical = np.zeros(d, bool)
            categorical[list(self.categorical)] = True
            bins = _bins.merge(parts, categorical)
            units = _forest_rows.units(self, parts, k)
            if not sum(float(p["total"][0]) for p in parts) > 0.0:
                raise DataError("sample_weight is zero for every row: nothing would be learned")
            places = _forest_draw.places(parts) if self.balanced else {}
            return {**shared, "stage": np.array([CODES]), **bins.arrays(), **units, **places}
        if stage == CODES:
            return {**shared, "stage": np.array([TREES])}
        if stage == VOTES:
            votes = np.concatenate([p["votes"] for p in parts])
            target = np.concatenate([p["target"] for p in parts])
            return {**shared, "stage": np.array([DONE]), "votes": votes, "oob_target": target}
        vars(_kept).clear()  # the scratch of this thread is as large as the rows
        grown = _put_together(parts, int(shared["sizes"][2]))
        trees = Trees.from_arrays(shared)
        trees = grown if not trees.n_trees else trees.joined(grown)
        return {**shared, **trees.arrays(), "stage": np.array([VOTES if self.oob else DONE])}

    def progress(self, shared: Arrays) -> Progress:
        """Return how many trees there are."""
        done = bool(shared["stage"][0] == DONE)
        return Progress(math.nan, math.inf, float(shared["stage"][0]), done, done)

    def _tree(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        from tutti.learners._kernels import tree_best_first, tree_grow

        table = _forest_rows.table(self, shared, rows)
        rules = _forest_rows.rules(self, shared)
        work = _scratch(table, rules)
        key, nodes = self.tree_key(shared, task), self.tree_key(shared, task, "nodes")
        if self.balanced:
            n = _forest_draw.draw(self, shared, table, key, work.entries)
        else:
            n = tree_grow.draw(table, rules, key, poisson(self.rate), work.entries)
        if self.reweighs:
            table = _forest_labels.reweighed(self, table, rules, work.entries[:n])
        if self.balanced_subsample or rules.min_weight > 0.0 or rules.min_decrease > 0.0 or self.ccp_alpha > 0.0:
            rules = _forest_rows.of_bag(self, table, rules, work, n)
        monotone = _forest_rows.monotone(self)
        if self.max_leaf_nodes is None:
            ints, reals, values, sets = tree_grow.grow(table, rules, work, n, nodes, _LOCAL_ROWS, monotone)
        else:
            most = self.max_leaf_nodes
            ints, reals, values, sets = tree_best_first.grow_best(table, rules, work, n, nodes, most, monotone)
        return self.pruned({"ints": ints, "reals": reals, "values": values, "sets": sets})

    def pruned(self, tree: Arrays) -> Arrays:
        """Return the part of a tree without the links that are weaker than ``ccp_alpha``."""
        from tutti.learners._kernels import tree_prune

        if self.ccp_alpha <= 0.0:
            return packed(tree)
        ints, reals = tree["ints"], tree["reals"]
        risk, keep = reals[:, 2] * reals[:, 1] / reals[0, 2], np.empty(len(ints), np.uint8)
        feature, left, right = (np.ascontiguousarray(ints[:, c]) for c in (0, 1, 2))
        tree_prune.pruned(left, right, feature, risk, self.ccp_alpha, keep)
        ints, reals, values = tree_prune.compact(ints, reals, tree["values"], keep)
        return packed({**tree, "ints": ints, "reals": reals, "values": values})

    def unspreadable(self) -> str | None:
        """Return why rows cannot stay with the workers that hold them, None if they can."""
        return None if self.max_leaf_nodes is None else "max_leaf_nodes needs all rows of a tree in one place"

    def spread(
        self, schema: Schema, data: Mapping[int, ShardData], seed: int, start: Arrays | None, rank: int, size: int
    ) -> Generator[bytes, list[Any], Arrays]:
        """Grow the forest on rows that stay where they are; see `_forest_spread`."""
        from tutti.learners._forest_spread import spread

        return spread(self, schema, data, seed, start, rank, size)

    def tree_key(self, shared: Arrays, task: int, purpose: str = "rows") -> np.uint64:
        """Return the key of a tree, with which its rows or the features of its "nodes" are drawn."""
        number = int(shared["sizes"][3]) + task
        return np.uint64(derive(int(shared["seed"][0]), shard=number, purpose=purpose))


def poisson(rate: float) -> Array:
    """Return P(drawn <= k) 2^32 for k = 0.. where it is below 1, as whole numbers; empty for rate 0."""
    if rate <= 0.0:
        return np.zeros(0, np.int64)
    out, term, total = [], math.exp(-rate), 0.0
    for k in range(60):
        total += term
        term *= rate / (k + 1)
        out.append(min(round(total * 2.0**32), 1 << 32))
        if k >= 6 and total > 1.0 - 1e-11:
            break
    return np.array(out, np.int64)


def _put_together(parts: Sequence[Arrays], n_outputs: int) -> Trees:
    """Return the trees; ranks of one process get the same arrays, and the parts go while these are filled."""
    if not isinstance(parts, Lent):
        return Trees.of_parts(parts, n_outputs)
    found: Trees = parts.once(lambda: Trees.of_parts(parts, n_outputs, parts.read))
    return found


def _scratch(table: Any, rules: Any) -> Any:
    """Return the scratch of this thread, made anew only for larger data."""
    wants = (table.n_rows, table.n_features, table.stride, rules.n_outputs, rules.kind)
    if getattr(_kept, "wants", None) != wants:
        _kept.work, _kept.wants = _forest_rows.scratch(table, rules, _LOCAL_ROWS), wants
    return _kept.work


def bins_of(shared: Arrays) -> Bins:
    """Return the bins of a fitted forest."""
    return Bins.from_arrays(shared)
