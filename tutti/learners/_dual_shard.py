"""What a shard keeps for dual coordinate ascent, and the two things it can be asked for.

``a`` and ``price`` (= C l*(-a / C) of the logistic loss) are private state; ``a_new`` and ``price_new`` are what the
last proposal would make of them; the order of a local epoch and the sums are scratch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti import seeds
from tutti.errors import DataError
from tutti.learners._certificate import Bounds, bounds
from tutti.learners._dual_squared import squared_bounds
from tutti.learners._problem import LinearProblem
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Block, Csr, Order, Proposal, Schema, Update

CHUNK = 64  # neighbouring rows visited in one go: the hardware prefetches them
SAMPLE = 4096  # rows of a shard that its features' second moments are taken from

Visits = list[tuple[int, Array, int]]
"""What a proposal went over: (block, order of its chunks, rows per chunk)."""


def kernels() -> Any:
    """Return the compiled loops that do not look at rows."""
    from tutti.learners._kernels import dual_steps

    return dual_steps


def row_kernels(sparse: bool) -> Any:
    """Return the compiled loops for this kind of rows."""
    if sparse:
        from tutti.learners._kernels import dual_csr

        return dual_csr
    from tutti.learners._kernels import dual_dense

    return dual_dense


@dataclass
class Rows:
    """One block: its rows as the kernels want them, and its part of the private state."""

    x: Any
    y: Array
    c: Array
    q: Array
    a: Array
    price: Array
    rest: Array
    a_new: Array
    price_new: Array
    rest_new: Array


@dataclass
class Metric:
    """The curvature a shard expects from all shards, feature by feature; see `dual_steps.stiffness`.

    Rows in CSR are kept once more with scaled values, which saves a gather in the inner loop: ``factor`` (d,) scales
    their columns.  The local model u begins as ``w * scale`` and comes back as ``(u - w * scale) * back``.
    """

    key: tuple[float, float]
    factor: Array
    scale: Array
    back: Array


@dataclass
class Shard:
    """Dual variables (rows, K) of a shard, with what the kernels need to know of its rows.

    ``rest`` (rows,): how often a row that stays at its bound is to be skipped (hinge and squared hinge).
    ``metric``, ``q`` (rows,) the squared norms of the rows under it, ``rows`` (where the shard is one block) and
    ``plan`` follow from the shard and the order alone; they are made where first needed.
    """

    module: Any
    loss: int
    a: Array
    price: Array
    rest: Array
    a_new: Array
    price_new: Array
    rest_new: Array
    c: Array
    y: Array
    q: Array
    moments: Array
    mean_response: float
    bounds: Sequence[tuple[int, int]]
    sums: Array
    b: Array
    metric: Metric | None = None
    rows: Rows | None = None
    plan: tuple[int, int, list[Visits]] = (-1, 0, [])


def adopt(problem: LinearProblem, schema: Schema, dtype: np.dtype[Any], data: ShardData) -> Shard:
    """Read the shard once: check its values, keep labels and weights; all dual variables are 0."""
    n, k, d = data.n_rows, problem.n_outputs(schema), schema.n_features
    prices = (n, k) if problem.loss == "logistic" else (0, k)
    rests = n if problem.loss in ("hinge", "squared_hinge") else 0
    shard = Shard(
        module=row_kernels(schema.sparse),
        loss=kernels().CODES[problem.loss],
        a=np.zeros((n, k), dtype),
        price=np.zeros(prices, dtype),
        rest=np.zeros(rests, np.uint8),
        a_new=np.zeros((n, k), dtype),
        price_new=np.zeros(prices, dtype),
        rest_new=np.zeros(rests, np.uint8),
        c=np.empty(n, dtype),
        y=np.empty(n, dtype if k == 1 else np.int32),
        q=np.empty(n, dtype),
        moments=np.zeros(d, dtype),
        mean_response=0.0,
        bounds=list(data.bounds),
        sums=np.zeros((k, kernels().N_SUMS)),
        b=np.zeros(k, dtype),
    )
    for i, (start, stop) in enumerate(shard.bounds):
        block = data.block(i)
        x = kernel_rows(block.x)
        c, norms = shard.c[start:stop], shard.q[start:stop]
        c[:] = problem.row_weights(block)
        if problem.loss == "squared" or k > 1:
            shard.y[start:stop] = block.y
        else:
            shard.y[start:stop] = problem.signs(block.y, 1)[:, 0]
        bad = shard.module.square_norms(x, stop - start, norms)
        if bad >= 0:
            raise _bad_value(block, bad, data, dtype)
        h = _responses(problem, c, norms) / dtype.type(max(n, 1))
        shard.mean_response += float(h.sum(dtype=np.float64))
        shard.module.moments(x, h, max(n // SAMPLE, 1), shard.moments)
    return shard


def _responses(problem: LinearProblem, c: Array, norms: Array) -> Array:
    """Return h_i, about how far a visit moves the dual variable of a row when its margin moves by one."""
    curved = {"logistic": 0.25, "hinge": 1.0, "squared_hinge": 2.0, "squared": 1.0}[problem.loss] * c
    own = 3.0 * norms if problem.loss == "hinge" else norms
    return (curved / (1.0 + curved * own)).astype(c.dtype)


def _metric(shard: Shard, n_shards: float, merges: float) -> Metric:
    """Return the metric for so many shards and merges per epoch; made once, from the shard alone."""
    if shard.metric is None or shard.metric.key != (n_shards, merges):
        metric = np.empty(len(shard.moments), shard.a.dtype)
        kernels().stiffness(shard.moments, len(shard.c) / merges, n_shards, metric)
        if shard.module is row_kernels(True):
            root = np.sqrt(metric)
            shard.metric = Metric((n_shards, merges), root, 1.0 / root, 1.0 / root)
        else:
            shard.metric = Metric((n_shards, merges), metric, np.ones_like(metric), 1.0 / metric)
        shard.rows = None
    return shard.metric


def kernel_rows(x: Array | Csr) -> Any:
    """Return rows as the kernels want them; unsigned indices need no test for being negative."""
    if not isinstance(x, Csr):
        return np.ascontiguousarray(x)
    indices = np.ascontiguousarray(x.indices, dtype=np.int32).view(np.uint32)
    fits = len(x.values) < 2**32 - 8
    return x.indptr.astype(np.uint32) if fits else np.ascontiguousarray(x.indptr, np.int64), indices, x.values


def _rows(shard: Shard, i: int, x: Any) -> Rows:
    start, stop = shard.bounds[i]
    one = shard.a.shape[1] == 1

    def cut(array: Array) -> Array:
        part = array[start:stop]
        return part.reshape(-1) if one else part

    return Rows(
        x=x,
        y=shard.y[start:stop],
        c=shard.c[start:stop],
        q=shard.q[start:stop],
        a=cut(shard.a),
        price=cut(shard.price),
        rest=shard.rest[start:stop],
        a_new=cut(shard.a_new),
        price_new=cut(shard.price_new),
        rest_new=shard.rest_new[start:stop],
    )


def _bad_value(block: Block, row: int, data: ShardData, dtype: np.dtype[Any]) -> DataError:
    if isinstance(block.x, Csr):
        start, stop = int(block.x.indptr[row]), int(block.x.indptr[row + 1])
        values, columns = block.x.values[start:stop], block.x.indices[start:stop]
    else:
        values, columns = block.x[row], np.arange(block.x.shape[1])
    bad = np.flatnonzero(~np.isfinite(values))
    at = int(bad[0]) if len(bad) else int(np.argmax(np.abs(values)))
    path, line = data.place(block.start + row)
    message = f"Input X contains infinity or a value too large for dtype({str(dtype)!r})."
    if len(bad) and np.isnan(values[at]):
        message = "Input X contains NaN."
    return DataError(message, path=path, row=line, column=int(columns[at]))


def _block_rows(shard: Shard, metric: Metric, data: ShardData, i: int) -> Rows:
    """Return the rows of block i under the metric, made anew where the shard does not lie in memory."""
    if shard.rows is not None:
        return shard.rows
    x, q = kernel_rows(data.block(i).x), shard.q[slice(*shard.bounds[i])]
    floor = np.finfo(q.dtype).tiny
    if isinstance(x, tuple):
        room = np.empty(len(x[2]), q.dtype)  # numpy's memory comes in huge pages: compiled code's does not
        x = shard.module.scaled(x, metric.factor, floor, q, room)
    else:
        shard.module.weighted_norms(x, metric.factor, floor, q)
    rows = _rows(shard, i, x)
    if len(shard.bounds) == 1:
        shard.rows = rows
    return rows


def visits(shard: Shard, order: Order) -> Visits:
    """Return what part (i, k) of this epoch goes over: a slice of the shuffled chunks, or whole shuffled blocks."""
    part, parts = order.part
    epoch, cut, plan = shard.plan
    if (epoch, cut) != (order.epoch, parts):
        plan = _plan_epoch(shard.bounds, seeds.generator(order.seed, order.shard, order.epoch, "dual"), parts)
        shard.plan = order.epoch, parts, plan
    return plan[part]


def _plan_epoch(bounds: Sequence[tuple[int, int]], random: np.random.Generator, parts: int) -> list[Visits]:
    def chunks(i: int, cuts: int) -> tuple[Array, int]:
        n = bounds[i][1] - bounds[i][0]
        chunk = min(CHUNK, max(n // (8 * cuts), 1))
        return random.permutation(-(-n // chunk)).astype(np.int64), chunk

    if len(bounds) == 1:
        ids, chunk = chunks(0, parts)
        return [[(0, piece, chunk)] for piece in np.array_split(ids, parts)]
    blocks = random.permutation(len(bounds))
    orders = {int(i): chunks(int(i), 1) for i in blocks}
    return [[(int(i), *orders[int(i)]) for i in piece] for piece in np.array_split(blocks, parts)]


def local_epoch(
    problem: LinearProblem, shared: Arrays, shard: Shard, data: ShardData, order: Order, kappa: float
) -> Proposal:
    """Ascend the local dual on one part of the rows.

    Update: ``dw`` (d, K); ``rise`` (K,) of the dual at w, without the curvature of dw; ``a`` (2, K) change of the sums
    of the dual variables by side; ``seen`` (5,): gaps and losses met, rows covered and visited, their h_i.
    """
    steps, hints = kernels(), order.hints
    w, b, one = shared["w"], shared["b"], len(shard.b) == 1
    n_shards = hints.get("n_shards", 1.0)
    metric = _metric(shard, n_shards, hints.get("merges", float(order.part[1])))
    sigma = w.dtype.type(hints.get("sigma", 1.0))
    out = order.out
    if out is None:
        k = len(b)
        shapes = {"dw": w.shape, "rise": (k,), "a": (2, k), "seen": (5,)}
        out = {name: np.empty(shape, w.dtype) for name, shape in shapes.items()}
    u = out["dw"]
    steps.begin(w, b, metric.scale, u, shard.b, shard.sums)
    todo = visits(shard, order)
    for i, ids, chunk in todo:
        if len(ids) == 0:
            continue
        r = _block_rows(shard, metric, data, i)
        extra = () if isinstance(r.x, tuple) else (metric.factor,)
        ascend = shard.module.ascend_one if one else shard.module.ascend_many
        ascend(
            r.x, r.y, r.c, r.q, r.a, r.price, r.rest, r.a_new, r.price_new, r.rest_new, shard.loss, ids, chunk, *extra,
            sigma, kappa, u.reshape(-1) if one else u, shard.b, shard.sums[0] if one else shard.sums,
        )  # fmt: skip
    steps.finish(
        w, b, metric.scale, metric.back, sigma, shard.mean_response,
        u, shard.sums, out["rise"], out["a"], out["seen"],
    )  # fmt: skip
    return Proposal(Update("dual", out), todo)


def keep(shard: Shard, todo: Visits, scale: Any) -> None:
    """Commit: move the visited dual variables ``scale`` of the way."""
    steps = kernels()
    eta = np.ascontiguousarray(np.broadcast_to(np.asarray(scale, np.float64), shard.a.shape[1]))
    for i, ids, chunk in todo:
        rows = slice(*shard.bounds[i])
        steps.keep(
            shard.loss, ids, chunk, shard.c[rows], eta, shard.a[rows], shard.a_new[rows],
            shard.price[rows], shard.price_new[rows], shard.rest[rows], shard.rest_new[rows],
        )  # fmt: skip


def summary(problem: LinearProblem, shared: Arrays, shard: Shard, data: ShardData, order: Order) -> Proposal:
    """Return the float64 sums of a certificate of the mean point against the dual variables.

    See `_certificate.bounds` for what they are.
    """
    w, b = shared["mean"], shared["mean_b"]
    d, k = w.shape
    squared_free = problem.loss == "squared" and problem.intercept == "free"
    out = dict(order.out or {"v": np.empty((_sides(problem), d, k))})
    v, sums = out["v"], np.zeros((5, 2, k))
    v[:] = 0.0
    extra = {"x": np.zeros((d, 1)), "c": np.zeros(2)}
    for i, (start, stop) in enumerate(shard.bounds):
        if stop == start:
            continue
        r = _rows(shard, i, kernel_rows(data.block(i).x))
        if k == 1:
            shard.module.certify_one(r.x, r.y, r.c, r.a, shard.loss, w.reshape(-1), b, v, sums)
        else:
            shard.module.certify_many(r.x, r.y, r.c, r.a, shard.loss, w, b, v, sums)
        if squared_free:
            c = r.c.astype(np.float64)
            extra["c"] += c.sum(), c @ r.y
            shard.module.add_weighted(r.x, c, extra["x"])
    arrays = {"v": v, "loss": sums[0], "a": sums[1], "phi": sums[2], "slope": sums[3], "curve": sums[4]}
    return Proposal(Update("summary", {**arrays, **(extra if squared_free else {})}))


def _sides(problem: LinearProblem) -> int:
    return 1 if problem.intercept == "none" or problem.loss == "squared" else 2


def judge(problem: LinearProblem, coef: Array, intercept: Array, sums: Arrays) -> Bounds:
    """Return primal value and dual bound from the merged sums of `summary`.

    With a regularised intercept, sum_i y_i a_i is all but 0 at the optimum, and a small excess costs s^2 / 2 times its
    square; taking it away as a free intercept asks for gives a point that is feasible too, and better at first.
    """
    if problem.loss == "squared":
        return squared_bounds(problem, coef, intercept, sums)
    found = bounds(problem, coef, intercept, sums)
    if problem.intercept == "regularised":
        balanced = bounds(dataclasses.replace(problem, intercept="free"), coef, intercept, sums)
        found = found._replace(dual=np.maximum(found.dual, balanced.dual))
    return found


def compile_kernels(problem: LinearProblem, schema: Schema, dtype: np.dtype[Any]) -> None:
    """Run every kernel once on two rows, so that it is compiled or loaded."""
    k = problem.n_outputs(schema)
    values = np.ones((2, 1), schema.dtype)
    x: Any = values
    if schema.sparse:
        x = Csr(np.arange(3), np.zeros(2, np.int32), values[:, 0], 1)
    y = np.array([0.0, 1.0]) if problem.loss == "squared" else np.array([0, 1], np.int32)
    tiny = _Two(Block(x, y, None, 0))
    shard = adopt(problem, schema, dtype, tiny)
    shared = {"w": np.zeros((1, k), dtype), "b": np.zeros(k), "mean": np.zeros((1, k), dtype), "mean_b": np.zeros(k)}
    proposal = local_epoch(problem, shared, shard, tiny, Order(0, "dual", 0, 0), 0.0)
    keep(shard, proposal.private, 1.0)
    summary(problem, shared, shard, tiny, Order(0, "summary", 0, 0))
    dw = read_only(proposal.update.arrays["dw"])
    kernels().advance(shared["w"], dw, read_only(np.zeros(k)), shared["mean"], 1.0)
    kernels().squares(dw)


def read_only(a: Array) -> Array:
    """Return the same numbers as what is only read, whoever made them: kernels are compiled for each of the two."""
    view = a.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class _Two:
    """Two rows, as a shard."""

    rows: Block
    id: int = 0
    n_rows: int = 2
    bounds: Sequence[tuple[int, int]] = ((0, 2),)

    def block(self, i: int) -> Block:
        return self.rows

    def place(self, row: int) -> tuple[str | None, int]:
        return None, row
