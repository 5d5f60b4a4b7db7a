"""A linear learner on features of rows that stand for a kernel: made block by block, kept as far as memory allows.

    fourier    z(x) = sqrt(2 / D) cos(W'x + u), W ~ N(0, 2 gamma), u ~ U(0, 2 pi): the mean of z(x).z(y) is rbf
    nystroem   z(x) = K(x, L) K(L, L)^(-1/2) for D rows L: z(x).z(y) = K(x, y) on L

Source: Rahimi, Recht (2007), "Random features for large-scale kernel machines"; Williams, Seeger (2001), "Using the
Nystroem method to speed up kernel machines".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.learners._kernel_rows import Kernel, dense, points
from tutti.protocols import Learner, ShardData
from tutti.seeds import generator
from tutti.types import Array, Arrays, Block, Cost, Kind, Order, Progress, Proposal, Schema, Update

_BLOCK_ROWS = 2048
_SMALL = 1e-10  # of the largest eigenvalue of K(L, L), below which a direction counts nothing


@dataclass(frozen=True)
class Features(Spec):
    """What makes features of rows.

    Parameters
    ----------
    kernel : that they stand for.
    left, right : fourier: W (d, D) and u (D,); nystroem: L - center (m, d) and K(L, L)^(-1/2) (m, D).
    center : (d,) taken from rows before.
    fourier : which of the two.
    """

    kernel: Kernel
    left: Array
    right: Array
    center: Array
    fourier: bool

    @property
    def n_components(self) -> int:
        """Number of features made."""
        return int(self.right.shape[-1])

    def of(self, rows: Array) -> Array:
        """Return the features of rows, in their type."""
        moved = rows - self.center.astype(rows.dtype)
        if not self.fourier:
            k = self.kernel.block(points(moved, rows.dtype), points(self.left, rows.dtype))
            made: Array = k @ self.right.astype(rows.dtype)
            return made
        z = moved @ self.left.astype(rows.dtype)
        z += self.right.astype(rows.dtype)
        np.cos(z, out=z)
        z *= rows.dtype.type(np.sqrt(2.0 / self.n_components))
        found: Array = z
        return found


def fourier(kernel: Kernel, center: Array, n_components: int, seed: int) -> Features:
    """Return random features of an rbf kernel."""
    r = generator(seed, purpose="fourier")
    left = r.standard_normal((len(center), n_components)) * np.sqrt(2 * kernel.gamma)
    return Features(kernel, left, r.uniform(0, 2 * np.pi, n_components), center, True)


def nystroem(kernel: Kernel, center: Array, landmarks: Array) -> Features:
    """Return features that follow from some of the rows."""
    left = landmarks - center
    values, vectors = np.linalg.eigh(kernel.block(points(left, np.float64), points(left, np.float64)))
    size = np.abs(values)
    counts = size > _SMALL * size.max()
    return Features(kernel, left, vectors[:, counts] / np.sqrt(size[counts]), center, False)


class FeaturedShard:
    """The rows of a shard as features, in blocks of at most 2048 rows: made anew whenever they are read, or kept.

    Parameters
    ----------
    data : rows.   features : what is made of them.
    kept : where the features of the first blocks stay, by block; they are the same bits as if made anew.
    most : bytes of features in ``kept``.
    """

    def __init__(
        self, data: ShardData, features: Features, kept: dict[int, Array] | None = None, most: int = 0
    ) -> None:
        self._data, self._features = data, features
        self._kept, self._most = {} if kept is None else kept, most
        self.id, self.n_rows, self.place = data.id, data.n_rows, data.place
        self._parts = [
            (i, lo, min(lo + _BLOCK_ROWS, last - first))
            for i, (first, last) in enumerate(data.bounds)
            for lo in range(0, last - first, _BLOCK_ROWS)
        ]

    @property
    def bounds(self) -> Sequence[tuple[int, int]]:
        starts = [first for first, _ in self._data.bounds]
        return [(starts[i] + lo, starts[i] + hi) for i, lo, hi in self._parts]

    def block(self, i: int) -> Block:
        """Return a block of features."""
        whole, lo, hi = self._parts[i]
        block = self._data.block(whole)
        weight = None if block.weight is None else block.weight[lo:hi]
        made = self._kept.get(i)
        if made is None:
            made = self._features.of(dense(block.x, lo, hi))
            until = sum(last - first for _, first, last in self._parts[: i + 1])
            if until * self._features.n_components * made.itemsize <= self._most:
                self._kept[i] = made
        return Block(made, block.y[lo:hi], weight, block.start + lo)


@dataclass(frozen=True)
class _Private:
    """What is private to the learner, and the features of a shard that are kept; these follow from its rows."""

    own: Any
    kept: dict[int, Array]


@dataclass(frozen=True)
class Featured(Spec):
    """A learner whose rows are features of the rows it is given.

    Parameters
    ----------
    learner : of dense rows.   features : what makes them.
    kept_bytes : of features that a shard keeps at most; what is beyond is made anew in every pass.
    """

    learner: Learner
    features: Features
    kept_bytes: int = 0

    @property
    def problem(self) -> Any:
        """What the learner minimises."""
        return getattr(self.learner, "problem", None)

    @property
    def tol(self) -> float:
        """The learner's."""
        return float(getattr(self.learner, "tol", 0.0))

    @property
    def offers(self) -> frozenset[Kind]:
        return self.learner.offers

    def prepare(self, schema: Schema) -> None:
        """Compile or load what the learner needs."""
        self.learner.prepare(self.schema(schema))

    def cost(self, schema: Schema) -> Cost:
        """Return the learner's cost; a value of a row is used for every feature."""
        found = self.learner.cost(self.schema(schema))
        flops = found.flops_per_value + 2.0 * self.features.n_components
        return replace(found, flops_per_value=flops, private_bytes=found.private_bytes + self.kept_bytes)

    def schema(self, schema: Schema) -> Schema:
        """Return the schema of the features."""
        return featured_schema(schema, self.features.n_components)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        return self.learner.init(self.schema(schema), seed=seed, start=start)

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return _Private(self.learner.adopt(self.schema(schema), FeaturedShard(data, self.features)), {})

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        """Return the learner's proposal on the features of a shard."""
        shard = FeaturedShard(data, self.features, private.kept, self.kept_bytes)
        found = self.learner.propose(shared, private.own, shard, order)
        return replace(found, private=_Private(found.private, private.kept))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        return self.learner.apply(shared, merged, scale)

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        own = replace(proposal, private=proposal.private.own)
        return _Private(self.learner.commit(private.own, own, scale), private.kept)

    def progress(self, shared: Arrays) -> Progress:
        return self.learner.progress(shared)


def featured_schema(schema: Schema, n_components: int) -> Schema:
    """Return the schema of rows with so many dense features."""
    n = schema.n_rows * n_components
    width = 4 if schema.dtype == "float32" else 8
    return replace(schema, n_features=n_components, sparse=False, n_values=n, n_bytes=width * n, feature_names=None)
