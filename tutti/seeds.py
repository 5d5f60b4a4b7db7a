"""Random numbers that depend on what is computed, never on who computes it.

Every stream is keyed by (run, shard, step, purpose) and drawn from a counter-based generator (Philox), so any worker
draws the same numbers for the same shard and step, in any order and without talking to the others.

Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    """splitmix64's finaliser: a bijection of 64 bits that spreads every input bit over all output bits."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def seed(run: int, shard: int = 0, step: int = 0, purpose: str = "") -> int:
    """Return the 64-bit seed of (run, shard, step, purpose).

    Example
    -------
    >>> seed(1, shard=2, step=3) == seed(1, shard=2, step=3)
    True
    >>> seed(1, shard=2, step=3) == seed(1, shard=3, step=2)
    False
    """
    x = _mix(run & _MASK)
    for part in (shard, step, int.from_bytes(purpose.encode()[:8], "little")):
        x = _mix((0xD1342543DE82EF95 * x + part) & _MASK)  # the odd factor keeps run == shard from cancelling
    return x


def generator(run: int, shard: int = 0, step: int = 0, purpose: str = "") -> np.random.Generator:
    """Return numpy's Philox generator keyed by (run, shard, step, purpose)."""
    return np.random.Generator(np.random.Philox(key=seed(run, shard, step, purpose)))


def run_seed(random_state: object) -> int:
    """Turn scikit-learn's ``random_state`` (None, int, RandomState, Generator) into the seed of a run.

    None means 0: a fit is repeatable unless the caller brings a random source of their own.
    """
    if random_state is None:
        return 0
    if isinstance(random_state, int | np.integer):
        return int(random_state) & _MASK
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(0, 2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(0, 2**63 - 1))
    from tutti.errors import ParameterError

    raise ParameterError("random_state", random_state, "write None, an int, or a numpy generator")
