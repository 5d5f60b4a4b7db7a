"""Kernels between rows, a block at a time: one matrix product, then a function of every number in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tutti._spec import Spec
from tutti.learners._pieces import PIECE, Pieces
from tutti.types import Array, Csr

Name = Literal["linear", "rbf", "poly", "sigmoid"]
_LEFT = 256  # rows of a block whose kernel is made, used and forgotten; PIECE of the other side


@dataclass(frozen=True)
class Kernel(Spec):
    """linear x.z; rbf exp(-gamma |x - z|^2); poly (gamma x.z + coef0)^degree; sigmoid tanh(gamma x.z + coef0)."""

    name: Name = "rbf"
    gamma: float = 1.0
    coef0: float = 0.0
    degree: int = 3

    def diagonal(self, points: Points) -> Array:
        """Return K(x, x) of all rows, float64."""
        if self.name == "rbf":
            return np.ones(points.n_rows)
        return self._of(points.squares.copy(), points.squares, points.squares)

    def block(self, left: Points, right: Points) -> Array:
        """Return K (rows of left, rows of right)."""
        return self._of(left.x @ right.x.T, left.squares[:, None], right.squares[None, :])

    def times(self, left: Points, right: Points, coefficients: Array, pieces: Pieces) -> Array:
        """Return K (left, right) @ coefficients, float64; the kernel is never stored whole."""
        found = np.zeros((left.n_rows, *coefficients.shape[1:]))

        def add(lo: int, hi: int) -> None:
            own = left.take(slice(lo, hi))
            for first in range(0, right.n_rows, PIECE):
                some = slice(first, first + PIECE)
                found[lo:hi] += self.block(own, right.take(some)).astype(np.float64, copy=False) @ coefficients[some]

        pieces.each(add, left.n_rows, _LEFT)
        return found

    def _of(self, k: Array, left: Array, right: Array) -> Array:
        real = k.dtype.type
        if self.name == "linear":
            return k
        if self.name == "rbf" and real is np.float32:
            from tutti.learners._kernels.rbf import rbf

            rbf(k, real(2 * self.gamma), *((self.gamma * a).astype(real).reshape(-1) for a in (left, right)))
            return k
        if self.name == "rbf":
            k *= real(2 * self.gamma)
            k -= (self.gamma * left).astype(real)
            k -= (self.gamma * right).astype(real)
            np.minimum(k, real(0), out=k)
            return np.exp(k, out=k)
        k *= real(self.gamma)
        k += real(self.coef0)
        if self.name == "sigmoid":
            return np.tanh(k, out=k)
        base = k.copy()
        k[...] = 1
        for _ in range(self.degree):
            k *= base
        return k


@dataclass(frozen=True)
class Points:
    """Rows in one type, with their squared lengths in float64."""

    x: Array
    squares: Array

    @property
    def n_rows(self) -> int:
        return len(self.squares)

    def take(self, rows: Any) -> Points:
        """Return some of the rows."""
        return Points(self.x[rows], self.squares[rows])


def points(x: Array, dtype: Any) -> Points:
    """Return rows in a type of float, with their lengths."""
    x = np.ascontiguousarray(x, dtype)
    return Points(x, np.einsum("ij,ij->i", x, x, dtype=np.float64))


def dense(x: Array | Csr, first: int = 0, last: int | None = None) -> Array:
    """Return rows first:last as an array."""
    if not isinstance(x, Csr):
        return x[first:last]
    ptr = x.indptr[first : x.shape[0] + 1 if last is None else last + 1]
    inside = slice(int(ptr[0]), int(ptr[-1]))
    found = np.zeros((len(ptr) - 1, x.n_features), x.values.dtype)
    found[np.repeat(np.arange(len(found)), np.diff(ptr)), x.indices[inside]] = x.values[inside]
    return found
