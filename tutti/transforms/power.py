"""PowerSGD: every matrix of an update as a product of two thin ones, which can be summed over the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.seeds import generator
from tutti.types import Array, Matrix


@dataclass(frozen=True)
class PowerSGD(Spec):
    """Send P = sum_s M_s Q and, with its columns made orthonormal, Q = sum_s M_s' P; the sum is taken as P Q'.

    One step of the power method a round, from the Q of the round before; two sums a round.  What is left out,
    M_s - P Q_s', stays with the shard and is added to its next update.  Arrays and parts of them that are no matrices,
    such as biases, and matrices for which it would not be less, travel as they are.

    Parameters
    ----------
    rank : columns of P and Q.

    Source: Vogels, Karimireddy, Jaggi (2019), "PowerSGD: practical low-rank gradient compression".

    Example
    -------
    >>> PowerSGD(rank=2).n_values([(0, 100, 50)])
    300
    """

    rank: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ParameterError("rank", self.rank, "write a whole number of at least 1, such as 2 or 4")

    def worth(self, matrices: Sequence[Matrix]) -> list[Matrix]:
        """Return the matrices (start, rows, columns) for which two thin ones are less."""
        return [m for m in matrices if self.rank * (m[1] + m[2]) < m[1] * m[2]]

    def n_values(self, matrices: Sequence[Matrix]) -> int:
        """Return the numbers of P and Q together."""
        return sum(self.rank * (rows + columns) for _, rows, columns in self.worth(matrices))

    def first(self, columns: int, dtype: np.dtype[Any], seed: int, number: int) -> Array:
        """Return the Q (columns, rank) with which a matrix begins."""
        found: Array = generator(seed, number, 0, "powersgd").standard_normal((columns, self.rank)).astype(dtype)
        return found

    def orthonormal(self, p: Array) -> Array:
        """Make the columns of P (rows, rank) orthonormal, in place and to the same bits on every rank."""
        from tutti.transforms._kernels import numbers

        numbers.orthonormal(p)
        return p
