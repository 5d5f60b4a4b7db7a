"""A served learner whose every update leaves an exact mark, and faults that it meets on its way.

Key j of n counts the items that were applied to it, key n + j adds their numbers: sums of integers, in any order.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.comm.tcp import calls
from tutti.protocols import ShardData
from tutti.types import Array, Arrays, Cost, Kind, Order, Progress, Proposal, Push, Schema, Update

STEP, JUDGED, DUE, PUSHED, EARLY = range(5)


class Breaking:
    """Breaks a connection before every so many looks at it; says so with one byte in a file."""

    def __init__(self, note: str, every: int, n: int) -> None:
        self._draw, self._every, self._note, self._n = random.Random(os.getpid()), every, note, n

    def caller(self, caller: Any) -> Any:
        if caller.channel is not None and self._draw.randrange(self._every) == 0 and self._told():
            caller.break_connection()
        return _PUMP(caller)

    def answerer(self, answerer: Any, seconds: float) -> Any:
        channels = list(answerer._channels.values())
        if channels and self._draw.randrange(self._every) == 0 and self._told():
            answerer._close(self._draw.choice(channels)[0])
        return _WAIT(answerer, seconds)

    def _told(self) -> bool:
        if os.path.exists(self._note) and os.path.getsize(self._note) >= self._n:
            return False
        with open(self._note, "ab") as file:
            file.write(b".")
        return True


_PUMP, _WAIT = calls.Caller.pump, calls.Answerer.wait


@dataclass(frozen=True)
class Counting(Spec):
    """Applies items for some epochs.

    Parameters
    ----------
    n : half the keys.   epochs, steps : so many steps make an epoch, after which all meet.
    staleness : what must never be exceeded; checked where weights are read and where pushes arrive.
    fault : "kill" or "stop", of the first ``times`` processes that come ``after`` times to ``at``: "work", "move 1" (of
        range 1) or "judge".
    also : as ``after``, for one process at "work"; 0: none.
    here : the process that is never struck.   note : where strikes and breaks are noted.
    breaks : connections are broken until there were so many; 0: never.
    delay : seconds of a step on average, exponentially distributed.
    """

    n: int = 64
    epochs: int = 2
    steps: int = 20
    staleness: float = float("inf")
    judges: bool = True
    fault: str = ""
    at: str = "work"
    after: int = 10
    times: int = 1
    also: int = 0
    here: int = 0
    note: str = ""
    breaks: int = 0
    delay: float = 0.0

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"gradient", "summary"})

    def prepare(self, schema: Schema) -> None:
        pass

    def cost(self, schema: Schema) -> Cost:
        return Cost(update_bytes=16 * self.n, rounds=self.epochs * self.steps)

    def init(self, schema: Schema, *, seed: int, start: Arrays | None = None) -> dict[str, Array]:
        if self.breaks and os.getpid() != self.here:
            breaking = Breaking(self.note + ".breaks", 20, self.breaks)
            calls.Caller.pump = lambda caller: breaking.caller(caller)  # type: ignore[method-assign]
            calls.Answerer.wait = lambda a, seconds: breaking.answerer(a, seconds)  # type: ignore[method-assign]
        return {"keys": np.zeros(2 * self.n), "counts": np.zeros(5, np.int64), "parts": np.ones(1, np.int64)}

    def adopt(self, schema: Schema, data: ShardData) -> Any:
        return None

    def unservable(self) -> str | None:
        return None

    def ranges(self, shared: Arrays, n: int) -> list[tuple[int, int]]:
        cuts = sorted({2 * self.n * i // n // 8 * 8 for i in range(n + 1)})
        return list(pairwise(cuts))

    def serve(
        self,
        shared: Arrays,
        ranges: Sequence[tuple[int, int]],
        keys_in: Callable[[int], Array],
        sums_in: Callable[[int], Array],
        join: bool = False,
    ) -> Arrays:
        found = {name: sums_in(a.nbytes).view(a.dtype) for name, a in shared.items() if name != "keys"}
        found["keys"] = keys_in(shared["keys"].nbytes).view(np.float64)
        found["ranges"] = np.array(ranges)
        for name in shared:
            found[name][:] = shared[name]
        return found

    def keys(self, shared: Arrays) -> Array:
        return shared["keys"]

    def part(self, shared: Arrays, i: int) -> list[Array]:
        return [shared["keys"][slice(*shared["ranges"][i])]]

    def aside(self, shared: Arrays) -> list[Array]:
        return []

    def work(
        self, shared: Arrays, private: Mapping[int, Any], data: Mapping[int, ShardData], orders: Mapping[int, Order]
    ) -> Push:
        order = next(iter(orders.values()))
        self._strike("work")
        if self.delay:
            time.sleep(random.Random().expovariate(1 / self.delay))
        early = 0.0
        if self.staleness != float("inf"):
            early = float(shared["keys"][: self.n].min() < (order.step - self.staleness) * shared["parts"][0])
        keys = np.ones(2 * self.n)
        keys[self.n :] = 1000 * order.step + min(orders)
        return Push(order.step, 1.0, keys, {"early": np.array([early])})

    def move(self, shared: Arrays, push: Push, i: int, share: float) -> None:
        self._strike(f"move {i}")
        lo, hi = shared["ranges"][i]
        shared["keys"][lo:hi] += push.keys[lo:hi]

    def tally(self, shared: Arrays, push: Push, parts: int) -> None:
        counts = shared["counts"]
        shared["parts"][0] = parts
        counts[PUSHED] += 1
        counts[EARLY] += int(push.sums["early"][0])
        counts[STEP] = counts[PUSHED] // parts
        if push.step > counts[STEP] + self.staleness:
            counts[EARLY] += 1

    def next_pause(self, shared: Arrays, every: int | None) -> int:
        return (int(shared["counts"][STEP]) // self.steps + 1) * self.steps

    def reached(self, shared: Arrays, step: int) -> None:
        counts = shared["counts"]
        counts[STEP] = max(counts[STEP], step)
        counts[DUE] = self.judges and counts[STEP] // self.steps > counts[JUDGED]

    def propose(self, shared: Arrays, private: Any, data: ShardData, order: Order) -> Proposal:
        self._strike("judge")
        return Proposal(Update("summary", {"low": shared["keys"][: self.n].min(keepdims=True), "n": np.ones(1)}))

    def apply(self, shared: Arrays, merged: Update, scale: float) -> Arrays:
        shared["counts"][JUDGED] += 1
        shared["counts"][DUE] = 0
        return shared

    def commit(self, private: Any, proposal: Proposal, scale: float) -> Any:
        return private

    def progress(self, shared: Arrays) -> Progress:
        done = bool(shared["counts"][STEP] >= self.epochs * self.steps) and not self.due(shared)
        return Progress(0.0, 0.0, float(shared["counts"][STEP]), done, done)

    def due(self, shared: Arrays) -> bool:
        return bool(shared["counts"][DUE])

    def tells(self, shared: Arrays) -> bool:
        return int(shared["counts"][STEP]) % self.steps == 0 and not self.due(shared)

    def milestone(self, shared: Arrays) -> tuple[int, bool]:
        return int(shared["counts"][STEP]), False

    def snapshot(self, shared: Arrays) -> Arrays:
        return {name: np.array(shared[name]) for name in ("keys", "counts", "parts")}

    def result(self, shared: Arrays) -> Arrays:
        return self.snapshot(shared)

    def _strike(self, at: str) -> None:
        """Kill or stop this process at its ``after``-th call, as long as it is among the first to come there."""
        after, times = (self.after, self.times) if at == self.at else (self.also * (at == "work"), 1)
        if not self.fault or not after or os.getpid() == self.here:
            return
        _CALLS[self.note, at] = _CALLS.get((self.note, at), 0) + 1
        if _CALLS[self.note, at] != after:
            return
        for k in range(times):
            try:
                os.close(os.open(f"{self.note}.{at}.{k}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL if self.fault == "kill" else signal.SIGSTOP)


_CALLS: dict[tuple[str, str], int] = {}
