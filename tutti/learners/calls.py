"""Tasks that are calls: whatever is done again and again with other arguments, such as the fits of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tutti._carried import Carried
from tutti._spec import Spec
from tutti.nesting import task as nested
from tutti.tasking import OnlyTasks, Rows
from tutti.types import Arrays, Cost, Kind, Progress, Schema


class Bench(Protocol):
    """Does call number ``i`` and returns what it found as bytes; may be asked twice, by several threads at once."""

    def __call__(self, i: int) -> bytes: ...


_READ: dict[int, tuple[Carried, Bench]] = {}
"""The bench that this process has read last: reading one anew for every task would cost more than small tasks."""


@dataclass(frozen=True)
class Calls(OnlyTasks, Spec):
    """Do calls by number and collect what they return.

    Parameters
    ----------
    bench : a `Bench`, or one that is `Carried` to other processes.
    costs : estimated cost of each call.
    name : what the calls are, for the plan.
    """

    bench: Any
    costs: tuple[float, ...]
    name: str = "calls"

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"part"})

    def prepare(self, schema: Schema) -> None:
        """Nothing is compiled."""

    def cost(self, schema: Schema) -> Cost:
        return Cost(update_bytes=0, passes=0.0)

    def outline(self, schema: Schema) -> Mapping[str, Sequence[float]]:
        return {self.name: self.costs}

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> Arrays:
        return {"answers": np.zeros(0, np.uint8), "ends": np.zeros(0, np.int64)}

    def tasks(self, shared: Arrays) -> Sequence[float]:
        return () if len(shared["ends"]) else self.costs

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        with nested():
            return {"answer": np.frombuffer(_bench(self.bench)(task), np.uint8)}

    def assemble(self, shared: Arrays, parts: Sequence[Arrays]) -> Arrays:
        _READ.clear()  # a worker that waits for its next run holds on to no rows of this one
        answers = [part["answer"] for part in parts]
        return {"answers": np.concatenate(answers), "ends": np.cumsum([len(a) for a in answers], dtype=np.int64)}

    def progress(self, shared: Arrays) -> Progress:
        return Progress(math.nan, math.inf, 0.0, bool(len(shared["ends"])), True)


def answers(arrays: Arrays) -> list[bytes]:
    """Return what the calls returned, by number."""
    ends = arrays["ends"].tolist()
    whole = arrays["answers"].tobytes()
    return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _bench(bench: Any) -> Bench:
    if not isinstance(bench, Carried):
        found: Bench = bench
        return found
    known = _READ.get(0)
    if known is None or known[0] is not bench:
        known = _READ[0] = (bench, bench.read())
    return known[1]
