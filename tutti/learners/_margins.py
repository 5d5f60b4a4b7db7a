"""Sums over the rows of a shard at one point of a linear model: losses, gradients, curvatures, in one pass.

One output goes through a fused kernel (margin, link and gradient while a chunk lies in the second cache); many outputs
share one load of the rows, by matrix products on chunks of about 1 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.learners._certificate import DOUBLE, SINGLE, n_sides
from tutti.learners._finite import check_finite
from tutti.learners._groups import Groups
from tutti.learners._problem import LinearProblem
from tutti.protocols import ShardData
from tutti.types import Array, Block, Csr, Schema

_BYTES = 1 << 20
_SIZE = 256


@dataclass(frozen=True)
class Rows:
    """Rows of one block: all of them, or the runs of ``size`` rows from each of ``starts``."""

    block: Block
    starts: Array | None = None
    size: int = _SIZE

    def chunks(self) -> Array:
        """Return the first rows of the chunks."""
        return np.arange(0, len(self.block.y), self.size) if self.starts is None else self.starts

    @property
    def n_rows(self) -> int:
        n = len(self.block.y)
        return n if self.starts is None else int(np.minimum(self.starts + self.size, n).sum() - self.starts.sum())


@dataclass(frozen=True)
class Request:
    """What a pass collects besides losses and gradients.

    Parameters
    ----------
    hessian : one flag per group of outputs that step together (multinomial: one group); empty for none.
    constants : True for the sums that do not depend on the weights (multinomial, squared).
    widths : (2, K) smoothings of the hinge and windows of its curvature.
    """

    hessian: tuple[bool, ...] = ()
    constants: bool = False
    widths: Array | None = None


def arithmetic(problem: LinearProblem, schema: Schema, tol: float) -> type[np.floating[Any]]:
    """Return the type of weights and margins: float32 where the data is and ``tol`` stays far above its rounding."""
    single = schema.dtype == "float32" and tol >= 1e-5 and problem.loss != "squared"
    return np.float32 if single else np.float64


def precision_of(real: Any) -> float:
    """Return the relative rounding of sums in this arithmetic (see `_certificate`)."""
    return SINGLE if real == np.float32 else DOUBLE


def _class_table(problem: LinearProblem, n_outputs: int) -> Array:
    """Return C_i of a row with sample weight 1, by class code (a regression reads the first entry)."""
    c = problem.C if math.isfinite(problem.C) else 1.0
    table = np.full(max(n_outputs, 2), c)
    return table if problem.class_weight is None else table * np.asarray(problem.class_weight)


def all_rows(data: ShardData) -> Iterator[Rows]:
    """Return every row of the shard, block by block."""
    for i in range(len(data.bounds)):
        yield Rows(data.block(i))


def collect(
    problem: LinearProblem,
    data: ShardData,
    rows: Iterable[Rows],
    point: tuple[Array, Array],
    real: Any,
    request: Request = Request(),
) -> dict[str, Array]:
    """Sum over ``rows`` at ``point`` = (coef (d, K), intercept (K,)) in the arithmetic ``real``.

    Returns the sums that `_certificate.bounds` reads, float64, plus for margin losses ``smooth`` (2, K) (the smoothed
    loss) and ``hess`` (groups asked for, D, D).
    """
    d, n_outputs = point[0].shape
    kind = problem.loss
    sides = n_sides(problem)
    total = _Totals(
        v=np.zeros((sides, d, n_outputs)),
        sums=np.zeros((n_outputs, 2, 4)),
        hess=np.zeros((sum(request.hessian), *(Groups(problem, d, n_outputs).size,) * 2)),
        constant=np.zeros((d, n_outputs)) if request.constants else np.zeros((0, 0)),
        constant_c=np.zeros(n_outputs),
    )
    table = _class_table(problem, n_outputs)
    one = _Pass(problem, table, point[0].astype(real), point[1].astype(real), real, request)
    fused = n_outputs == 1 and kind != "multinomial"
    for part in rows:
        part = Rows(_block(part.block.x, part.block.y, part.block.weight, part.block.start), part.starts, part.size)
        seen = one.one_output(part, total) if fused else one.many_outputs(part, total)
        check_finite(seen, part.block.x, part.block.start, data)
    return total.named(kind, request)


@dataclass
class _Totals:
    v: Array
    sums: Array
    hess: Array
    constant: Array
    constant_c: Array

    def named(self, kind: str, request: Request) -> dict[str, Array]:
        loss, a, smooth, extra = (np.ascontiguousarray(self.sums[:, :, i].T) for i in range(4))
        if kind == "multinomial":
            found = {"loss": loss[1, :1], "a": a[1], "v": self.v[0]}
            if request.constants:
                found |= {"class_x": self.constant, "class_c": self.constant_c}
        elif kind == "squared":
            found = {"loss": loss[1], "a": a[1], "v": self.v[0], "c": extra[1]}
            if request.constants:
                found |= {"x": self.constant}
        else:
            found = {"loss": loss, "a": a, "smooth": smooth, "curve": extra, "v": self.v}
        if request.hessian:
            found["hess"] = self.hess
        return found


@dataclass
class _Pass:
    problem: LinearProblem
    table: Array
    w: Array
    b: Array
    real: Any
    request: Request

    @property
    def has_intercept(self) -> bool:
        return self.problem.intercept != "none"

    def widths(self) -> Array:
        widths = self.request.widths
        return np.ones((2, self.w.shape[1]), self.real) if widths is None else widths.astype(self.real)

    def one_output(self, rows: Rows, total: _Totals) -> float:
        """Fused pass of a single output; returns the sum of margins."""
        from tutti.learners._kernels.links import LOSSES

        block, starts = rows.block, rows.chunks()
        sample = np.empty(0) if block.weight is None else block.weight
        curvature = np.empty(rows.n_rows if self.request.hessian else 0, self.real)
        v = np.zeros(total.v.shape[:2])
        arguments = (
            *(block.y, self.table, sample, np.ascontiguousarray(self.w[:, 0]), self.b[0], LOSSES[self.problem.loss]),
            *(np.ascontiguousarray(self.widths()[:, 0]), starts, rows.size, v, total.sums[0], curvature),
        )
        if isinstance(block.x, Csr):
            from tutti.learners._kernels.csr import csr_pass

            seen = csr_pass(block.x.indptr, block.x.indices, block.x.values, *arguments)
        else:
            from tutti.learners._kernels.dense import dense_pass

            seen = dense_pass(block.x, *arguments)
        total.v[:, :, 0] += v
        if self.request.hessian:
            add_hessian(block.x, curvature, self.has_intercept, total.hess[0], starts, rows.size)
        if self.request.constants:
            c = self.problem.row_weights(block)
            scatter(block.x, c[None].astype(self.real), total.constant)
        return float(seen)

    def many_outputs(self, rows: Rows, total: _Totals) -> float:
        """Chunks of rows against all outputs at once; returns the sum of margins."""
        from tutti.learners._kernels.dense import links
        from tutti.learners._kernels.links import LOSSES

        seen = 0.0
        n_outputs = self.w.shape[1]
        for block in pieces(rows, self.w.shape[0], self.real):
            z = margins_of(block.x, self.w, self.b)
            g = np.empty_like(z)
            if self.problem.loss == "multinomial":
                seen += float(z.sum())
                self._softmax(block, z, g, total)
            else:
                curvature = np.empty((n_outputs, len(block.y)) if self.request.hessian else (0, 0), self.real)
                sample = np.empty(0) if block.weight is None else block.weight
                seen += links(
                    *(z, block.y, self.table, sample, LOSSES[self.problem.loss], self.widths()),
                    *(g, curvature, total.sums),
                )
                for slot, o in enumerate(np.flatnonzero(self.request.hessian)):
                    add_hessian(block.x, curvature[o], self.has_intercept, total.hess[slot])
            scatter_sides(block, g, total.v)
        return seen

    def _softmax(self, block: Block, z: Array, g: Array, total: _Totals) -> None:
        """g = C (e_y - p), the multinomial loss, and its Hessian sum_i C_i (diag(p) - p p') (x) x x'."""
        c = self.problem.row_weights(block).astype(self.real)
        index = np.arange(len(block.y))
        own = z[block.y, index]
        z -= z.max(axis=0) if len(z) else z
        own_shifted = z[block.y, index]
        np.exp(z, out=z)
        mass = z.sum(axis=0)
        loss = np.log(mass) - own_shifted
        z /= mass
        np.multiply(z, -c, out=g)
        g[block.y, index] += c
        total.sums[0, 1, 0] += float(np.where(c > 0, c * loss, 0.0).sum(dtype=np.float64)) if len(own) else 0.0
        total.sums[:, 1, 1] += g.sum(axis=1, dtype=np.float64)
        if self.request.hessian:
            self._add_softmax_hessian(block.x, z, c, total.hess[0])
        if self.request.constants:
            mine = np.zeros_like(g)
            mine[block.y, index] = c
            scatter(block.x, mine, total.constant)
            total.constant_c += mine.sum(axis=1, dtype=np.float64)

    def _add_softmax_hessian(self, x: Array | Csr, p: Array, c: Array, hess: Array) -> None:
        size = len(hess) // len(p)
        step = max(_BYTES // (8 * len(hess)), 16)
        for lo in range(0, len(c), step):
            hi = min(lo + step, len(c))
            rows = np.ones((hi - lo, size), self.real)
            rows[:, : self.w.shape[0]] = _dense_rows(x, lo, hi)
            weight = np.sqrt(c[lo:hi])
            joint = ((p[:, lo:hi] * weight).T[:, :, None] * rows[:, None, :]).reshape(hi - lo, len(hess))
            hess -= joint.T @ joint
            for o in range(len(p)):
                one = rows * (np.sqrt(p[o, lo:hi]) * weight)[:, None]
                hess[o * size : (o + 1) * size, o * size : (o + 1) * size] += one.T @ one


def pieces(rows: Rows, d: int, real: Any) -> Iterator[Block]:
    """Cut rows into blocks of about 1 MiB of the arithmetic's type; runs of a sample are joined."""
    block = rows.block
    per = max(_BYTES // (np.dtype(real).itemsize * max(d, 1)), 64)
    if isinstance(block.x, Csr):
        per = max(_BYTES * len(block.y) // (12 * max(len(block.x.values), 1)), 64)
    runs = [(int(s), min(int(s) + rows.size, len(block.y))) for s in rows.starts] if rows.starts is not None else None
    if runs is None:
        runs = [(lo, min(lo + per, len(block.y))) for lo in range(0, len(block.y), per)]
    elif not isinstance(block.x, Csr):
        group = max(per // rows.size, 1)
        for i in range(0, len(runs), group):
            parts = [_slice(block, lo, hi, real) for lo, hi in runs[i : i + group]]
            yield _join(parts)
        return
    for lo, hi in runs:
        yield _slice(block, lo, hi, real)


def _slice(block: Block, lo: int, hi: int, real: Any) -> Block:
    weight = None if block.weight is None else block.weight[lo:hi]
    if isinstance(block.x, Csr):
        x: Any = Csr(block.x.indptr[lo : hi + 1], block.x.indices, block.x.values, block.x.n_features)
    else:
        x = block.x[lo:hi].astype(real, copy=False)
    return _block(x, block.y[lo:hi], weight, block.start + lo)


def _join(parts: Sequence[Block]) -> Block:
    weights = [p.weight for p in parts if p.weight is not None]
    x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
    return _block(x, y, np.concatenate(weights) if weights else None, parts[0].start)


def _block(x: Any, y: Array, weight: Array | None, start: int) -> Block:
    """Return read-only views: one compiled kernel then serves mapped files, shared memory and plain arrays."""
    if isinstance(x, Csr):
        x = Csr(frozen(x.indptr), frozen(x.indices), frozen(x.values), x.n_features)
    else:
        x = frozen(x)
    return Block(x, frozen(y), None if weight is None else frozen(weight), start)


def frozen(array: Array) -> Array:
    """Return a read-only view."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def margins_of(x: Array | Csr, w: Array, b: Array) -> Array:
    """Return (X W + b)', (K, rows)."""
    if isinstance(x, Csr):
        from tutti.learners._kernels.csr import csr_margins

        z = np.empty((w.shape[1], len(x.indptr) - 1), w.dtype)
        csr_margins(x.indptr, x.indices, x.values, w, b, z)
        return z
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and inf in X are reported with their place instead
        return np.asarray(w.T @ x.T + b[:, None])


def scatter(x: Array | Csr, g: Array, v: Array) -> None:
    """v (d, K) += X' g', with g (K, rows)."""
    if isinstance(x, Csr):
        from tutti.learners._kernels.csr import csr_scatter

        csr_scatter(x.indptr, x.indices, x.values, g, v)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            v += (g @ x).T


def scatter_sides(block: Block, g: Array, v: Array) -> None:
    """Add X' g', g (K, rows), to v (S, d, K): the sum, or for S = 2 the rows with y = -1 and y = +1 of each output."""
    if len(v) == 1:
        scatter(block.x, g, v[0])
        return
    if len(g) == 1:
        positive = block.y == 1
        scatter(block.x, np.where(positive, 0, g), v[0])
        scatter(block.x, np.where(positive, g, 0), v[1])
        return
    own = np.zeros_like(v[0])
    if isinstance(block.x, Csr):
        from tutti.learners._kernels.csr import csr_own_side

        csr_own_side(block.x.indptr, block.x.indices, block.x.values, block.y, g, own)
    else:
        from tutti.learners._kernels.dense import own_side

        own_side(block.x, block.y, g, own)
    v[1] += own
    v[0] -= own
    scatter(block.x, g, v[0])


def add_hessian(
    x: Array | Csr, curvature: Array, intercept: bool, hess: Array, starts: Array | None = None, size: int = _SIZE
) -> None:
    """hess (D, D) += sum_i r_i (x_i, 1)(x_i, 1)' over the runs of ``size`` rows from ``starts``, or over all rows."""
    starts = np.arange(0, len(curvature), size) if starts is None else starts
    if isinstance(x, Csr):
        from tutti.learners._kernels.csr import csr_hessian

        lower = np.zeros_like(hess)
        csr_hessian(x.indptr, x.indices, x.values, starts, size, curvature, intercept, lower)
        hess += lower + np.tril(lower, -1).T
        return
    from tutti.learners._kernels.dense import scaled_rows

    room = np.empty((max(_BYTES // (8 * len(hess)), size), len(hess)), curvature.dtype)
    chunk = at = 0
    while chunk < len(starts):
        chunk, at, n = scaled_rows(x, starts, size, curvature, chunk, at, intercept, room)
        hess += room[:n].T @ room[:n]


def _dense_rows(x: Array | Csr, lo: int, hi: int) -> Array:
    if isinstance(x, Csr):
        from tutti.learners._kernels.csr import csr_dense

        out = np.empty((hi - lo, x.n_features), x.values.dtype)
        csr_dense(x.indptr[lo : hi + 1], x.indices, x.values, out)
        return out
    return x[lo:hi]


def warm_up(problem: LinearProblem, schema: Schema, real: Any, hessian: bool = False) -> None:
    """Compile or load every kernel that `collect` needs for this kind of data, on two rows of it."""
    n_outputs = problem.n_outputs(schema)
    groups = Groups(problem, 1, n_outputs).n_groups
    request = Request((True,) * groups if hessian else (), constants=problem.loss in ("multinomial", "squared"))
    point = np.zeros((1, n_outputs)), np.zeros(n_outputs)
    collect(problem, Nowhere(), [two_rows(schema)], point, real, request)


def two_rows(schema: Schema) -> Rows:
    """Return two rows of one feature, of the types that the data has."""
    y = np.array([0.0, 1.0]) if schema.classes is None else np.array([0, 1], np.int32)
    x: Any = np.zeros((2, 1), schema.dtype)
    if schema.sparse:
        x = Csr(np.array([0, 1, 2], np.int64), np.zeros(2, np.int32), np.zeros(2, schema.dtype), 1)
    return Rows(Block(x, y, np.ones(2) if schema.weighted else None, 0))


class Nowhere:
    """The shard of a warm-up: it has no rows that could be wrong."""

    id, n_rows, bounds = 0, 0, ()

    def block(self, i: int) -> Block:
        raise IndexError(i)

    def place(self, row: int) -> tuple[str | None, int]:
        return None, row
