"""Kernels between rows, a block at a time: one matrix product, then a function of every number in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tutti._spec import Spec
from tutti.learners._pieces import PIECE, Pieces, even
from tutti.types import Array, Csr

Name = Literal["linear", "rbf", "poly", "sigmoid"]


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
        found = np.empty((left.n_rows, *coefficients.shape[1:]))

        def fill(lo: int, hi: int) -> None:
            found[lo:hi] = self.sums(left.take(slice(lo, hi)), right, coefficients)

        pieces.each(fill, left.n_rows, share(left.n_rows, left.x.dtype))
        return found

    def sums(self, left: Points, right: Points, coefficients: Array) -> Array:
        """Return K (left, right) @ coefficients of a few rows, float64; a piece of ``right`` after the other."""
        found = np.zeros((left.n_rows, math.prod(coefficients.shape[1:])))
        one = self.name == "rbf" and left.x.dtype == np.float32 and found.shape[1] == 1
        for first in range(0, right.n_rows, PIECE):
            some, own = right.take(slice(first, first + PIECE)), coefficients[first : first + PIECE]
            if one:
                self._add_rbf(left, some, own.reshape(-1), found[:, 0])
                continue
            own = own.reshape(len(own), -1)
            used = own.any(axis=0)  # support vectors of a class are nothing to the pairs of others
            found[:, used] += self.block(left, some).astype(np.float64, copy=False) @ own[:, used]
        return found.reshape(left.n_rows, *coefficients.shape[1:])

    def _add_rbf(self, left: Points, right: Points, coefficients: Array, sums: Array) -> None:
        from tutti.learners._kernels.rbf import rbf_sums

        rbf_sums(left.x @ right.x.T, *self._scaled(left.squares, right.squares), coefficients, sums)

    def _scaled(self, left: Array, right: Array) -> tuple[Any, Array, Array]:
        """Return what the compiled rbf kernel of float32 takes."""
        own, other = ((self.gamma * a).astype(np.float32).reshape(-1) for a in (left, right))
        return np.float32(2 * self.gamma), own, other

    def _of(self, k: Array, left: Array, right: Array) -> Array:
        real = k.dtype.type
        if self.name == "linear":
            return k
        if self.name == "rbf" and real is np.float32:
            from tutti.learners._kernels.rbf import rbf

            rbf(k, *self._scaled(left, right))
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


def share(n: int, dtype: Any) -> int:
    """Return how many of n rows a thread takes at a time for `Kernel.sums`."""
    return even(n, PIECE * 4 // np.dtype(dtype).itemsize)


def points(x: Array, dtype: Any) -> Points:
    """Return rows in a type of float, with their lengths."""
    x = np.ascontiguousarray(x, dtype)
    if x.dtype != np.float32:
        return Points(x, np.einsum("ij,ij->i", x, x, dtype=np.float64))
    from tutti.learners._kernels.rbf import squares

    found = Points(x, np.empty(len(x)))
    squares(found.x, found.squares)
    return found


def dense(x: Array | Csr, first: int = 0, last: int | None = None) -> Array:
    """Return rows first:last as an array."""
    if not isinstance(x, Csr):
        return x[first:last]
    ptr = x.indptr[first : x.shape[0] + 1 if last is None else last + 1]
    inside = slice(int(ptr[0]), int(ptr[-1]))
    found = np.zeros((len(ptr) - 1, x.n_features), x.values.dtype)
    found[np.repeat(np.arange(len(found)), np.diff(ptr)), x.indices[inside]] = x.values[inside]
    return found
