"""Private state of shards survives in checkpoints, whichever rank hosts the shard after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tests.strategies.walks import Remembered, Walk
from tutti.runtime.checkpoint import Checkpoint, falls, newest, split
from tutti.runtime.driver import train

pytestmark = pytest.mark.timeout(60)
DATA = tutti.from_arrays(np.ones((40, 3)), np.arange(40) % 2)


def walk(rounds: int, engine: Any, start: Any = None, checkpoint: Checkpoint | None = None) -> dict[str, np.ndarray]:
    schema = DATA.schema("classification")
    found = train(
        Walk(rounds=rounds),
        DATA,
        schema=schema,
        strategy=Remembered(),
        engine=engine,
        start=start,
        checkpoint=checkpoint,
    )
    return dict(found.arrays)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


ENGINES = [tutti.Threads(1), tutti.Threads(3), tutti.Processes(2), tutti.Processes(8)]
PAIRS = list(zip(ENGINES, ENGINES[1:] + ENGINES[:1], strict=True))


@pytest.mark.parametrize(
    "first, then", [pytest.param(*p, marks=pytest.mark.thorough if ENGINES[3] in p else []) for p in PAIRS], ids=repr
)
def test_a_resume_under_other_workers_gives_the_bits_of_no_interruption(tmp_path: Path, first: Any, then: Any) -> None:
    whole = walk(11, tutti.Threads(2))
    walk(7, first, checkpoint=Checkpoint(str(tmp_path), every_steps=3, every_minutes=None))
    step, start = newest(str(tmp_path), "")
    assert step == 6
    shared, private = split(start)
    assert sorted(private) == list(range(8))
    assert shared.keys() == {"coef", "intercept", "round", "strategy/total"}
    same(walk(11, then, start=start), whole)


@pytest.mark.parametrize("engine", [*ENGINES[:3], pytest.param(ENGINES[3], marks=pytest.mark.thorough)], ids=repr)
def test_a_checkpoint_by_the_clock_is_written_by_all(tmp_path: Path, engine: Any) -> None:
    walk(5, engine, checkpoint=Checkpoint(str(tmp_path), every_minutes=1e-9, keep=9))
    steps = [int(f.name[-3:]) for f in sorted(tmp_path.iterdir())]
    assert steps == [1, 2, 3, 4, 5]
    assert sorted(split(newest(str(tmp_path), "")[1])[1]) == list(range(8))


def test_a_checkpoint_falls_into_the_steps_that_pass_its_number() -> None:
    spec = Checkpoint("x", every_steps=10)
    assert [step for step in range(4, 45, 4) if falls(spec, step, 4)] == [12, 20, 32, 40]
    assert not falls(Checkpoint("x"), 10, 10)
