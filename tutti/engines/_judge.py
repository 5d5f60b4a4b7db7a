"""Which rank is to blame, decided without touching a thread, process or clock: facts in, a verdict out.

Silence counts only while the judge is looking, and at most ``look_seconds`` per look: if the caller itself was frozen
(a suspended laptop, a stopped process group, a slow ``watch``), nobody is blamed for that time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Returned:
    """A rank came back with its value."""

    rank: int


@dataclass(frozen=True)
class Raised:
    """A rank raised; ``secondary`` if only because the run was stopped (`Aborted`)."""

    rank: int
    secondary: bool
    failure: Any


@dataclass(frozen=True)
class Exited:
    """The process of a rank ended: exit code, or minus the signal that killed it; None if nobody knows."""

    rank: int
    code: int | None


@dataclass(frozen=True)
class Sign:
    """A number of a rank that changes while it lives; ``excused`` while it waits for others or has not begun."""

    rank: int
    value: int
    excused: bool = False


Fact = Returned | Raised | Exited | Sign


@dataclass(frozen=True)
class Silent:
    """A rank gave no sign of life for ``seconds``."""

    rank: int
    seconds: float


@dataclass(frozen=True)
class Done:
    """Every rank came back, but for those that were lost and pardoned."""


Verdict = Raised | Exited | Silent | Done


@dataclass
class Judge:
    """Collects facts and says how the run ends.

    Parameters
    ----------
    size : number of ranks.
    timeout_seconds : silence that is forgiven.
    now : time of the first look.
    look_seconds : longest time between two looks that counts as silence.
    """

    size: int
    timeout_seconds: float
    now: float
    look_seconds: float = 1.0
    _signs: dict[int, int] = field(default_factory=dict)
    _silent: dict[int, float] = field(default_factory=dict)
    _returned: set[int] = field(default_factory=set)
    _lost: set[int] = field(default_factory=set)
    _faults: list[Raised | Exited] = field(default_factory=list)

    def hear(self, fact: Fact) -> None:
        """Take one fact."""
        if isinstance(fact, Sign):
            if fact.excused or self._signs.get(fact.rank) != fact.value:
                self._silent[fact.rank] = 0.0
            self._signs[fact.rank] = fact.value
        elif isinstance(fact, Returned):
            self._returned.add(fact.rank)
        elif fact.rank not in self._returned | self._lost:
            self._faults.append(fact)

    def pardon(self, rank: int, *, again: bool) -> bool:
        """Let the run go on without ``rank``, or with another process in its place; False if nobody else is there."""
        if not again and len(self._lost | {rank}) == self.size:
            return False
        self._faults = [f for f in self._faults if f.rank != rank]
        self._signs.pop(rank, None)
        self._silent.pop(rank, None)
        if not again:
            self._lost.add(rank)
        return True

    def rejoin(self, rank: int) -> None:
        """Expect a rank again that was pardoned: another process has taken its seat."""
        self._lost.discard(rank)

    def look(self, now: float, others_wait: bool = True) -> Verdict | None:
        """Return how the run ends, or None while it goes on.

        A rank that raised or died first is to blame; ranks that raised only because the run was stopped are blamed if
        nobody else is.  Silence is judged last, and only if somebody waits for the silent rank.
        """
        passed, self.now = min(max(now - self.now, 0.0), self.look_seconds), now
        for rank in self._signs:
            self._silent[rank] = self._silent.get(rank, 0.0) + passed
        guilty = [f for f in self._faults if isinstance(f, Exited) or not f.secondary]
        if guilty:
            return min(guilty, key=lambda f: f.rank)
        gone = len(self._returned) + len(self._lost)
        if gone == self.size:
            return Done()
        if self._faults and gone + len({f.rank for f in self._faults}) == self.size:
            return self._faults[0]
        if others_wait:
            silent = [r for r in self._signs if r not in self._returned and self._silent[r] > self.timeout_seconds]
            if silent:
                rank = max(silent, key=lambda r: self._silent[r])
                return Silent(rank, self._silent[rank])
        return None
