"""The program of a rank whose learner leaves the rows where they are."""

from __future__ import annotations

from typing import Any

from tutti.errors import Regrouped
from tutti.protocols import Worker
from tutti.strategies._counted import speaks
from tutti.tasking import Spreading
from tutti.types import Arrays, Round

_PIECE = 1 << 22


def run_spread(worker: Worker, learner: Spreading) -> Arrays:
    """Carry what the learner's parts tell each other until the model is there."""
    worker.withstand()
    program = learner.spread(worker.schema, worker.shards, worker.seed, worker.start, worker.seat.rank, worker.size)
    step, answers, news = 0, None, None
    while True:
        try:
            with worker.phase("compute"):
                if news is not None:
                    own = program.throw(news)
                else:
                    own = next(program) if answers is None else program.send(answers)
        except StopIteration as done:
            shared: Arrays = done.value
            break
        except Regrouped as error:  # it came before there was anything to go on from
            program = learner.spread(worker.schema, error.shards, worker.seed, worker.start, error.part, error.parts)
            answers = news = None
            continue
        step += 1
        worker.at_step(step)
        try:
            answers, news = exchanged(worker, own), None
        except Regrouped as error:
            news = error
    if speaks(worker):
        p = learner.progress(shared)
        worker.emit(Round(step, 0.0, p.objective, p.gap, p.passes, "part", p.metrics))
    return shared


def exchanged(worker: Worker, own: bytes) -> list[Any]:
    """Return the bytes of all ranks, sent in pieces, for communicators may keep the room that they once needed."""
    longest = max(int.from_bytes(n) for n in worker.all_gather(len(own).to_bytes(8)))
    found = [bytearray() for _ in range(worker.size)]
    for at in range(0, longest, _PIECE):
        for rank, piece in enumerate(worker.all_gather(own[at : at + _PIECE])):
            found[rank] += piece
    return list(found)
