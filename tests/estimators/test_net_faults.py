"""What goes wrong in the middle of a training ends it with one exception that says where, in time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import MLP, rows  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import InputError, RankError, RankLost, RunError  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402

nn = torch.nn


def net(kind=MLP, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 2, "random_state": 0, **params})


class Faulty(MLP):
    """A net to which something happens in a worker, in the sixth batch that it sees there; the time is noted."""

    def __init__(self, fault, here, note):
        super().__init__()
        self.fault, self.here, self.note, self.left = fault, here, note, 5

    def forward(self, x):
        self.left -= 1
        if self.left < 0 and os.getpid() != self.here:
            try:
                Path(self.note).touch(exist_ok=False)  # one worker is enough
            except FileExistsError:
                return super().forward(x)
            Path(self.note).write_text(repr(time.monotonic()))
            if self.fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.fault == "memory":
                torch.empty(2**60)
            if self.fault == "python memory":
                bytearray(2**60)
        return super().forward(x)


def caught(fault, engine, tmp_path):
    """Return the exception and the seconds from the fault to it."""
    net(engine=engine).fit(*rows(MLP))  # the workers are warm
    note = tmp_path / "note"
    options = {"module__fault": fault, "module__here": os.getpid(), "module__note": str(note), "n_shards": 4}
    with pytest.raises(RunError) as raised:
        net(Faulty, engine=engine, **options).fit(*rows(MLP))
    seconds = time.monotonic() - float(note.read_text())
    assert net(engine=engine).fit(*rows(MLP)).n_iter_ == 22, "the next training has sound workers"
    return raised.value, seconds


@pytest.mark.thorough
@pytest.mark.alone
def test_a_stopped_worker_is_lost_after_its_time_out(tmp_path):
    error, seconds = caught("stop", Processes(2, timeout_seconds=1.5), tmp_path)
    assert isinstance(error, RankLost)
    assert seconds < 2.5
    with pytest.raises(ProcessLookupError):
        os.kill(error.pid, 0)


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("fault, words", [("memory", "allocate"), ("python memory", "MemoryError")])
def test_a_worker_out_of_memory_is_named_at_once(fault, words, tmp_path):
    error, seconds = caught(fault, Processes(2), tmp_path)
    assert isinstance(error, RankError)
    assert f"rank {error.rank}" in str(error)
    assert words in str(error)
    assert seconds < 2


def weighted(module, batch):
    return nn.functional.cross_entropy(module(batch["x"]), batch["y"], reduction="none")


@pytest.mark.parametrize("engine", [Threads(2), pytest.param(Processes(2), marks=pytest.mark.thorough)])
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_named(engine, label):
    x, y = rows(MLP)
    y[700] = label  # not among the rows that the net is tried out on
    with pytest.raises((RankError, InputError), match=rf"Target {label} is out of bounds") as raised:
        tutti.train(MLP, weighted, (x, y), batch_size=100, epochs=1, engine=engine)
    assert "rank" in str(raised.value)


class Counting(MLP):
    """A net that counts global steps in a buffer, as batch-norm does: every shard of a step finds the same count."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.steps += self.training
        return super().forward(x)


def spoilt(at):
    """A loss that is no number for the marked rows of one step, as of an input that the net runs into."""

    def loss(module, batch):
        each = nn.functional.cross_entropy(module(batch["x"]), batch["y"], reduction="none")
        return each * torch.where((batch["mark"] > 0) & (module.steps == at + 1), torch.nan, 1.0)

    return loss


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [Threads(2), pytest.param(Processes(2), marks=pytest.mark.thorough)])
def test_a_loss_that_is_no_number_names_step_and_shard_and_the_last_checkpoint_is_good(engine, tmp_path):
    x, y = rows(MLP, n=1000)
    data = {"x": x, "y": y, "mark": np.arange(1000) // 125 == 3}  # the rows of shard 3 of 8
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    settings = {"batch_size": 100, "epochs": 5, "checkpoint": kept, "random_state": 0}
    sound = tutti.train(Counting, spoilt(-1), data, **{**settings, "checkpoint": None})
    with pytest.raises((RankError, InputError), match=r"the loss is nan at step 37 on shard 3 \(epoch 3\)"):
        tutti.train(Counting, spoilt(37), data, engine=engine, **settings)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"step-{s:09d}" for s in (25, 30, 35)]
    healed = tutti.train(Counting, spoilt(-1), data, resume=True, engine=Threads(1), **settings)
    assert healed.report.sha256 == sound.report.sha256, "the checkpoint of step 35 is good"
