"""Support vector machines with a kernel: every pair of classes is a problem of its own, and every problem is tasks.

One copy of the rows that count, centred where the kernel does not see it and sorted by class, lies where all ranks see
it.  A problem that is small enough is one task; a larger one is a cascade (`tutti.learners._cascade`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tutti._spec import Spec
from tutti.errors import DataError
from tutti.learners._cascade import Found, Part, Solver
from tutti.learners._kernel_rows import Kernel, Name, dense
from tutti.learners._pieces import Pieces, alone
from tutti.protocols import ShardData
from tutti.tasking import OnlyTasks, Room, Rows
from tutti.types import Array, Arrays, Block, Cost, Kind, Progress, Schema

COUNT, ROWS, FOLDS, LEAVES, MERGE, CHECK, AGAIN, SUPPORT, DONE = range(9)
NAMES = ("count", "rows", "folds", "leaves", "merge", "check", "again", "support")
_SHARD = 1 << 40  # times the shard, plus the row in it: where a row came from
_MOST_ROUNDS = 100
_LISTS = ("ids", "beta", "f")


@dataclass(frozen=True)
class KernelProblem(Spec):
    """The dual of C-SVC for each pair of classes (``epsilon`` None), or of epsilon-SVR,

        max  sum_i t_i b_i - epsilon |b|_1 - 1/2 b'Kb,    sum b = 0,

    0 <= t_i b_i <= C_i with t_i = +-1 (epsilon absent), or |b_i| <= C_i;   C_i = C * class weight * sample weight.

    Parameters
    ----------
    gamma : a number, "scale" (1 / (d * variance of X)) or "auto" (1 / d).
    class_weight : one factor per class, in the order of ``Schema.classes``.
    """

    kernel: Name = "rbf"
    gamma: float | Literal["scale", "auto"] = "scale"
    coef0: float = 0.0
    degree: int = 3
    C: float = 1.0
    epsilon: float | None = None
    class_weight: tuple[float, ...] | None = None

    @property
    def loss(self) -> str:
        """What the primal problem sums up."""
        return "hinge" if self.epsilon is None else "epsilon-insensitive"


@dataclass(frozen=True)
class KernelMachine(OnlyTasks, Spec):
    """Kernel machines as tasks, exact to ``tol``: what is left of the gap of each problem over all its rows.

    Parameters
    ----------
    problem : what is solved.
    tol : most by which two rows of a problem may violate the optimality; libsvm's eps.
    max_iter : most steps of a task; -1: no limit.
    cache_bytes : of kernel rows that a task keeps.
    leaf_rows : rows above which a problem is a cascade.
    folds : above 0, decision values of held-out rows are found by so many folds, too, for probabilities.
    n_shards : of the job; the rows of each are counted and brought into place by a task.
    """

    problem: KernelProblem = field(default_factory=KernelProblem)
    tol: float = 1e-3
    max_iter: int = -1
    cache_bytes: int = 200 * 10**6
    leaf_rows: int = 32768
    folds: int = 0
    n_shards: int = 8

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"part"})

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels."""
        x, t = np.eye(3), np.array([1.0, -1.0, 1.0])
        part = Part(np.arange(3), t, np.ones(3), np.zeros(3), t.copy())
        for tol in (self.tol, 1e-12):  # the kernels of float32, and those of float64
            Solver(Kernel(), self.problem.epsilon, tol, 1 << 20, 10, Pieces(alone)).solve(x, part)

    def cost(self, schema: Schema) -> Cost:
        """Estimate: a tenth of each problem's kernel is computed."""
        values = 0.1 * sum(float(n) ** 2 for n in self._sizes(schema))
        flops = 2.0 * values * schema.n_features / max(schema.n_values, 1)
        return Cost(8 * schema.n_rows, passes=3.0, rounds=4, flops_per_value=flops)

    def outline(self, schema: Schema) -> Mapping[str, Sequence[float]]:
        """Return the stages that are certain."""
        shards = [schema.n_values / self.n_shards] * self.n_shards
        sizes = self._sizes(schema)
        leaves = [(n / self._leaves(n)) ** 2 for n in sizes for _ in range(self._leaves(n))]
        folds = {"folds": [(0.8 * n) ** 2 for n in sizes for _ in range(self.folds)]} if self.folds else {}
        return {"count": shards, "rows": shards, **folds, "leaves": leaves}

    def _sizes(self, schema: Schema) -> list[int]:
        counts = schema.class_counts or (schema.n_rows,)
        return [sum(counts[c] for c in pair) for pair in pairs(len(counts))]

    def _leaves(self, n: float) -> int:
        return 1 << max(math.ceil(math.log2(max(n, 1) / self.leaf_rows)), 0)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        """Return the shared state before the first stage."""
        k = len(schema.classes) if schema.classes is not None else 1
        n_pairs = len(pairs(k))
        return {
            "phase": np.array([COUNT, 0]),  # and the level of the tree, or the round
            "shape": np.array([schema.n_rows, schema.n_features, k]),
            "dtype": np.array([4 if schema.dtype == "float32" else 8]),
            **{name: np.zeros(n_pairs) for name in ("intercept", "objective", "steps", "converged", "open")},
        }

    def tasks(self, shared: Arrays) -> Sequence[float]:
        phase = int(shared["phase"][0])
        if phase in (COUNT, ROWS, SUPPORT):
            return [1.0] * self.n_shards
        if phase == DONE:
            return []
        return [cost for _, _, cost in self._work(shared)]

    def rooms(self, shared: Arrays) -> Mapping[str, Room]:
        if shared["phase"][0] != ROWS:
            return {}
        n, d = int(shared["starts"][-1]), int(shared["shape"][1])
        found = {name: Room((n,), "float64") for name in ("target", "bound")}
        return {**found, "x": Room((n, d), f"float{8 * int(shared['dtype'][0])}"), "origin": Room((n,), "int64")}

    def _work(self, shared: Arrays) -> list[tuple[int, int, float]]:
        """Return (problem, number inside it, cost) of each task of a stage on problems."""
        phase = int(shared["phase"][0])
        sizes, nodes = self._counts(shared), shared.get("nodes")
        found: list[tuple[int, int, float]] = []
        for p, n in enumerate(sizes):
            if phase == FOLDS:
                found += [(p, i, (0.8 * n) ** 2) for i in range(self.folds)]
            elif phase == LEAVES:
                found += [(p, i, (n / self._leaves(n)) ** 2) for i in range(self._leaves(n))]
            elif phase == MERGE:
                assert nodes is not None
                found += [(p, i, float(n)) for i in range(int(nodes[p]) // 2)]
            elif shared["open"][p]:
                found += [(p, i, float(n)) for i in range(self._leaves(n) if phase == CHECK else 1)]
        return found

    def _counts(self, shared: Arrays) -> list[int]:
        sizes = np.diff(shared["starts"])
        return [int(sum(sizes[c] for c in pair)) for pair in pairs(len(sizes))]

    # tasks

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        """Do one task of the stage."""
        phase = int(shared["phase"][0])
        if phase == COUNT:
            return self._count(shared, rows.shard(task))
        if phase == ROWS:
            self._fill(shared, task, rows)
            return {}
        if phase == SUPPORT:
            return self._origins(shared, task, rows)
        p, i, _ = self._work(shared)[task]
        with Pieces(rows.hands) as pieces:
            solver = self.solver(shared, rows, pieces)
            if phase == FOLDS:
                return self._fold(solver, shared, rows, p, i)
            if phase == CHECK:
                return self._checked(solver, shared, rows, p, i)
            if phase == MERGE:
                return _told(self._merged(solver, shared, rows, p, i))
            part = self._leaf(shared, rows, p, i) if phase == LEAVES else self._part(shared, rows, p, 0)
            return _told(_solved(solver, rows, part))

    def _count(self, shared: Arrays, data: ShardData) -> Arrays:
        k, d = int(shared["shape"][2]), int(shared["shape"][1])
        counts, total, moment = np.zeros(k, np.int64), np.zeros(d), np.zeros(3)
        for block in _blocks(data):
            counts += np.bincount(_codes(block, k)[self._bounds(block) > 0], minlength=k)
            moment = _joined(moment, _moment(data, block, total))
        return {"counts": counts, "total": total, "moment": moment}

    def _bounds(self, block: Block) -> Array:
        bounds = np.full(len(block.y), float(self.problem.C))
        if self.problem.class_weight is not None:
            bounds *= np.asarray(self.problem.class_weight)[block.y]
        return bounds if block.weight is None else bounds * block.weight

    def _fill(self, shared: Arrays, s: int, rows: Rows) -> None:
        k, at = int(shared["shape"][2]), shared["places"][s].copy()
        for block in _blocks(rows.shard(s)):
            x, bounds, codes = dense(block.x), self._bounds(block), _codes(block, k)
            for c in range(k):
                chosen = np.flatnonzero((codes == c) & (bounds > 0))
                place = slice(at[c], at[c] + len(chosen))
                rows.common("x")[place] = x[chosen] - shared["center"]
                rows.common("target")[place] = block.y[chosen]
                rows.common("bound")[place] = bounds[chosen]
                rows.common("origin")[place] = s * _SHARD + block.start + chosen
                at[c] += len(chosen)

    def _origins(self, shared: Arrays, s: int, rows: Rows) -> Arrays:
        """Return the support vectors of a shard as they came, their places in the rooms and their row numbers."""
        origin = rows.common("origin")[shared["support"]]
        mine = np.flatnonzero(origin // _SHARD == s)
        inside, data = origin[mine] % _SHARD, rows.shard(s)
        x, order = np.empty((len(mine), int(shared["shape"][1])), rows.common("x").dtype), np.argsort(inside)
        if len(mine):
            x[order] = rows_of(data, inside[order])
        return {"x": x, "which": mine, "row": np.array([data.place(int(r))[1] for r in inside], np.int64)}

    def solver(self, shared: Arrays, rows: Rows, pieces: Pieces) -> Solver:
        """Return what solves the problems, or parts of them."""
        p = self.problem
        kernel = Kernel(p.kernel, float(shared["gamma"][0]), float(p.coef0), int(p.degree))
        return Solver(kernel, p.epsilon, float(self.tol), int(self.cache_bytes), int(self.max_iter), pieces, rows.alive)

    def _whole(self, shared: Arrays, rows: Rows, p: int) -> Part:
        starts = shared["starts"]
        pair = pairs(len(starts) - 1)[p]
        ids = np.concatenate([np.arange(starts[c], starts[c + 1]) for c in pair])
        return self._at(rows, ids, pair, np.zeros(len(ids)), None)

    def _leaf(self, shared: Arrays, rows: Rows, p: int, i: int) -> Part:
        """Return every k-th row of a problem, of k leaves."""
        whole = self._whole(shared, rows, p)
        n_leaves = self._leaves(len(whole.ids))
        return whole if n_leaves == 1 else whole.only(np.arange(i, len(whole.ids), n_leaves))

    def _at(self, rows: Rows, ids: Array, pair: Sequence[int], beta: Array, f: Array | None) -> Part:
        target = rows.common("target")[ids]
        if self.problem.epsilon is None:
            target = np.where(target == pair[0], 1.0, -1.0)
        return Part(ids, target, rows.common("bound")[ids], beta, target.copy() if f is None else f)

    def _part(self, shared: Arrays, rows: Rows, p: int, i: int) -> Part:
        """Return the part that node i of a problem has come to."""
        where = slice(*shared["ends"][int(shared["firsts"][p]) + i :][:2])
        pair = pairs(len(shared["starts"]) - 1)[p]
        return self._at(rows, shared["ids"][where], pair, shared["beta"][where].copy(), shared["f"][where].copy())

    def _merged(self, solver: Solver, shared: Arrays, rows: Rows, p: int, i: int) -> Found:
        """Return the solution over the support vectors of two nodes, from the mean of theirs."""
        x = rows.common("x")
        left, right = (self._part(shared, rows, p, 2 * i + k) for k in (0, 1))
        f = [
            own.target - 0.5 * (own.target - own.f + solver.values(x[own.ids], x[other.ids], other.beta))
            for own, other in ((left, right), (right, left))
        ]
        ids = np.concatenate([left.ids, right.ids])
        order = np.argsort(ids, kind="stable")
        pair = pairs(len(shared["starts"]) - 1)[p]
        beta = 0.5 * np.concatenate([left.beta, right.beta])
        return _solved(solver, rows, self._at(rows, ids[order], pair, beta[order], np.concatenate(f)[order]))

    def _checked(self, solver: Solver, shared: Arrays, rows: Rows, p: int, i: int) -> Arrays:
        """Return the rows of a leaf that the solution leaves out though they violate its optimality."""
        root, x = self._part(shared, rows, p, 0), rows.common("x")
        support, leaf = root.support(), self._leaf(shared, rows, p, i)
        leaf = leaf.only(~np.isin(leaf.ids, root.ids))
        leaf = solver.spread(x[leaf.ids], leaf, x[support.ids], support.beta)
        worst = leaf.only(np.sort(solver.violators(leaf, solver.middle(root), max(len(support.ids) // 2, 1000))))
        return {"ids": worst.ids, "beta": worst.beta, "f": worst.f}

    def _fold(self, solver: Solver, shared: Arrays, rows: Rows, p: int, i: int) -> Arrays:
        """Return decision values of every k-th row of each class from the others."""
        whole, x = self._whole(shared, rows, p), rows.common("x")
        starts = shared["starts"]
        inside = np.concatenate([np.arange(starts[c + 1] - starts[c]) for c in pairs(len(starts) - 1)[p]])
        out = inside % self.folds == i
        found = _solved(solver, rows, whole.only(~out))
        support = found.part.support()
        values = solver.values(x[whole.ids[out]], x[support.ids], support.beta) + found.intercept
        return {"values": values, "which": np.flatnonzero(out)}

    # what comes of them

    def assemble(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        """Return the state of the next stage."""
        phase = int(shared["phase"][0])
        if phase == COUNT:
            return self._laid_out(shared, parts)
        if phase == ROWS:
            return {**shared, "phase": np.array([FOLDS if self.folds else LEAVES, 0])}
        if phase == FOLDS:
            return self._held(shared, parts)
        if phase == SUPPORT:
            return self._finished(shared, parts)
        if phase == CHECK:
            return self._reopened(shared, parts)
        return self._solutions(shared, parts)

    def _laid_out(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        d, counts = int(shared["shape"][1]), np.array([part["counts"] for part in parts])
        starts = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        places = starts[:-1] + np.cumsum(counts, axis=0) - counts
        moment = np.zeros(3)
        for part in parts:
            moment = _joined(moment, part["moment"])
        variance, center = moment[2] / max(moment[0], 1), sum(part["total"] for part in parts) / shared["shape"][0]
        g = self.problem.gamma
        gamma = (
            (1.0 / (d * variance) if variance > 0 else 1.0) if g == "scale" else 1.0 / d if g == "auto" else float(g)
        )
        return {
            **shared,
            "phase": np.array([ROWS, 0]),
            "starts": starts,
            "places": places,
            "gamma": np.array([gamma]),
            "class_weight": np.array(self.problem.class_weight or [1.0] * len(counts[0])),
            "center": center if self.problem.kernel == "rbf" else np.zeros(d),
        }

    def _held(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        held = {}
        for p, n in enumerate(self._counts(shared)):
            held[f"held_{p}"] = values = np.empty(n)
            for part in parts[p * self.folds : (p + 1) * self.folds]:
                values[part["which"]] = part["values"]
        return {**shared, **held, "phase": np.array([LEAVES, 0])}

    def _solutions(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        """Keep what the nodes of a level found; go up the tree, or on."""
        phase, level = shared["phase"].tolist()
        new = {name: shared[name].copy() for name in ("intercept", "objective", "steps", "converged", "open")}
        nodes: list[list[Arrays]] = [[] for _ in new["open"]]
        for (p, _, _), part in zip(self._work(shared), parts, strict=True):
            nodes[p].append({name: part[name] for name in _LISTS})
            intercept, objective, steps, converged = part["told"].tolist()
            new["intercept"][p], new["objective"][p], new["converged"][p] = intercept, objective, converged
            new["steps"][p] += steps
        for p, own in enumerate(nodes):
            if not own:
                nodes[p] = [self._kept(shared, p)]
        state = {**shared, **new, **_packed(nodes)}
        several = [len(own) > 1 for own in nodes]
        if any(several):
            return {**state, "phase": np.array([MERGE, level + 1])}
        if phase == LEAVES:
            return self._gathered(state)
        if phase == MERGE:
            state["open"] = np.array([float(self._leaves(n) > 1) for n in self._counts(shared)])
            level = 0
        return {**state, "phase": np.array([CHECK, level + 1])}

    def _kept(self, shared: Arrays, p: int) -> Arrays:
        where = slice(*shared["ends"][int(shared["firsts"][p]) :][:2])
        return {name: shared[name][where] for name in _LISTS}

    def _reopened(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        """Add what violates a solution to its set; it is solved again."""
        nodes = [[self._kept(shared, p)] for p in range(len(shared["open"]))]
        more: dict[int, list[Arrays]] = {}
        for (p, _, _), part in zip(self._work(shared), parts, strict=True):
            if len(part["ids"]):
                more.setdefault(p, []).append(part)
        for p, found in more.items():
            joined = {name: np.concatenate([nodes[p][0][name], *[part[name] for part in found]]) for name in _LISTS}
            order = np.argsort(joined["ids"], kind="stable")
            nodes[p] = [{name: array[order] for name, array in joined.items()}]
        state = {**shared, **_packed(nodes), "open": np.array([float(p in more) for p in range(len(nodes))])}
        level = int(shared["phase"][1])
        if not more or level > _MOST_ROUNDS:
            converged = shared["converged"] * (state["open"] == 0)
            return self._gathered({**state, "converged": converged})
        return {**state, "phase": np.array([AGAIN, level])}

    def _gathered(self, state: dict[str, Array]) -> Arrays:
        """Put the problems into one table, as libsvm has it: a class has a row for each of the others."""
        starts = state["starts"]
        k = len(starts) - 1
        support = np.unique(state["ids"][state["beta"] != 0])
        table = np.zeros((max(k - 1, 1), len(support)))
        owner = np.searchsorted(starts, support, side="right") - 1
        for p, pair in enumerate(pairs(k)):
            found = self._kept(state, p)
            where = np.searchsorted(support, found["ids"][found["beta"] != 0])
            row = np.zeros(len(where), np.int64)
            if len(pair) == 2:
                row = np.where(owner[where] == pair[0], pair[1] - 1, pair[0])
            table[row, where] = found["beta"][found["beta"] != 0]
        n_support = np.bincount(owner, minlength=k)
        gone = {name: array for name, array in state.items() if name not in (*_LISTS, "ends", "firsts", "nodes")}
        return {**gone, "phase": np.array([SUPPORT, 0]), "support": support, "dual": table, "n_support": n_support}

    def _finished(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        x = np.empty((len(shared["support"]), int(shared["shape"][1])), parts[0]["x"].dtype)
        row = np.empty(len(x), np.int64)
        for part in parts:
            x[part["which"]], row[part["which"]] = part["x"], part["row"]
        return {**shared, "phase": np.array([DONE, 0]), "vectors": x, "row": row}

    def progress(self, shared: Arrays) -> Progress:
        phase = int(shared["phase"][0])
        objective = float(shared["objective"].sum())
        converged = phase == DONE and bool(shared["converged"].all())
        return Progress(objective, math.inf, float(phase), phase == DONE, converged)


def pairs(k: int) -> list[tuple[int, ...]]:
    """Return the pairs of k classes; one problem without a pair for a regression."""
    return [(a, b) for a in range(k) for b in range(a + 1, k)] if k > 1 else [(0,)]


def _solved(solver: Solver, rows: Rows, part: Part) -> Found:
    """Return the solution over a part; its rows are copied unless they are neighbours."""
    ids = part.ids
    near = len(ids) and ids[-1] - ids[0] + 1 == len(ids)
    return solver.solve(rows.common("x")[slice(ids[0], ids[-1] + 1) if near else ids], part)


def _told(found: Found) -> Arrays:
    kept = found.part.support()
    told = np.array([found.intercept, found.objective, found.steps, found.converged])
    return {"ids": kept.ids, "beta": kept.beta, "f": kept.f, "told": told}


def _packed(nodes: Sequence[Sequence[Arrays]]) -> dict[str, Array]:
    """Return the lists of all nodes one after the other, where each ends, and which is the first of each problem."""
    flat = [node for own in nodes for node in own]
    counts = np.array([len(own) for own in nodes])
    found = {name: np.concatenate([node[name] for node in flat]) for name in _LISTS}
    ends = np.concatenate([[0], np.cumsum([len(node["ids"]) for node in flat])])
    return {**found, "ends": ends, "nodes": counts, "firsts": np.cumsum(counts) - counts}


def _joined(a: Array, b: Array) -> Array:
    """Return (n, mean, sum of squared distances from it) of two sets together."""
    n = a[0] + b[0]
    if not n:
        return a
    apart = b[1] - a[1]
    return np.array([n, a[1] + apart * b[0] / n, a[2] + b[2] + apart * apart * a[0] * b[0] / n])


def spread(shards: Sequence[ShardData], d: int) -> tuple[Array, float]:
    """Return the mean of each of ``d`` columns and the variance of all values."""
    total, moment = np.zeros(d), np.zeros(3)
    for data in shards:
        for block in _blocks(data):
            moment = _joined(moment, _moment(data, block, total))
    return total / max(moment[0] / d, 1), float(moment[2] / max(moment[0], 1))


def rows_of(data: ShardData, chosen: Array) -> Array:
    """Return some rows of a shard, by ascending number."""
    found = []
    for block in _blocks(data):
        here = chosen[(chosen >= block.start) & (chosen < block.start + len(block.y))]
        if len(here):
            found.append(dense(block.x)[here - block.start])
    return np.concatenate(found) if found else np.empty((0, 0))


def _moment(data: ShardData, block: Block, total: Array) -> Array:
    """Return (n, mean, sum of squared distances) of the values of a block, and add its columns to ``total``."""
    x = dense(block.x)
    _check(x, data, block)
    total += x.sum(axis=0, dtype=np.float64)
    mean = x.mean(dtype=np.float64)
    return np.array([x.size, mean, np.square(x - mean, dtype=np.float64).sum()])


def _blocks(data: ShardData) -> list[Block]:
    return [data.block(i) for i in range(len(data.bounds))]


def _codes(block: Block, k: int) -> Array:
    codes: Array = block.y if k > 1 else np.zeros(len(block.y), np.int64)
    return codes


def _check(x: Array, data: ShardData, block: Block) -> None:
    if np.isfinite(x).all():
        return
    row, column = map(int, np.argwhere(~np.isfinite(x))[0])
    path, line = data.place(block.start + row)
    word = "NaN" if np.isnan(x[row, column]) else "infinity"
    raise DataError(f"Input X contains {word}; impute or drop such rows first", path=path, row=line, column=column)
