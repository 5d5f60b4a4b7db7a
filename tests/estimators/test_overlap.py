"""Gradients travel while the backward pass still runs, where ranks see no common memory: same bits, same faults."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.estimators.nets import CNN, MLP, Deep, Twice, big_conv, big_norm, rows, wide  # noqa: E402
from tutti.comm.reduction import Layout, tree_sum_of  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import InputError, RankError, RankLost  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.learners.module._device import load_compiler  # noqa: E402
from tutti.learners.module._early import Early  # noqa: E402
from tutti.runtime.worker import RankWorker  # noqa: E402
from tutti.strategies.all_reduce import AllReduce  # noqa: E402
from tutti.testing.communicator import deals, gloo_ranks, on_ranks, part  # noqa: E402
from tutti.types import Update  # noqa: E402

SGD = {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}
ADAM = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.1}
CASES = {
    "dropout": (Deep, SGD),
    "small": (MLP, ADAM),
    "norm": (CNN, ADAM),
    "big conv": (big_conv, ADAM),
    "big norm": (big_norm, SGD),
    "wide": (wide, SGD),
    "accumulated": (Deep, {**ADAM, "accumulate": 3, "module__dropout": 0.0}),
    "twice": (Twice, SGD),
    "shards without rows": (Deep, {**SGD, "n": 27, "batch_size": 6, "n_shards": 8}),
}
SLOW = {"small", "norm", "big conv", "big norm", "accumulated", "twice", "wide"}


def net(kind, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 2, "random_state": 0, **params})


def digest(kind, engine, n=403, **params):
    return net(kind, engine=engine, **params).fit(*rows(kind, n)).report_.sha256


@pytest.mark.thorough
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.thorough] if c in SLOW else []) for c in CASES])
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_same_bits_for_gradients_that_travel_early(case, size):
    kind, params = CASES[case]
    if kind is Twice:
        load_compiler()  # as torch's checkpoints do, which leave a variable behind
    assert digest(kind, Threads(1), **params) == digest(kind, Processes(size, transport="gloo"), **params)


# what a learner announces


class Heard:
    """A worker that notes what is announced, and what was in the rows then."""

    shares_memory = False

    def __init__(self, worker):
        self._worker, self._rows, self.announced = worker, {}, []

    def __getattr__(self, name):
        return getattr(self._worker, name)

    def early(self, template):
        (self._rows,) = self._worker.buffers(template).values()

        def ready(name, start, stop):
            EVENTS.append("ready")
            self.announced.append((name, start, stop, self._rows[name][start:stop].copy()))

        return ready

    def merge(self, updates):
        for name, start, stop, values in self.announced:
            np.testing.assert_array_equal(values, self._rows[name][start:stop], strict=True)
        spans = sorted((start, stop) for _, start, stop, _ in self.announced)
        if self._rows:
            grad = len(self._rows["grad"])
            assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])], "each element is announced once"
            assert spans[-1][1] == grad, "all of the gradient is announced"
        self.announced.clear()
        EVENTS.append("merge")
        return self._worker.merge(updates)


class Listening(AllReduce):
    def run(self, worker, learner):
        return super().run(Heard(worker), learner)


EVENTS: list[str] = []


class Telling(Deep):
    """A net that notes when its backward pass is nearly done."""

    def forward(self, x):
        h = self.first(x)
        h.register_hook(lambda g: EVENTS.append("nearly done"))
        return self.rest(h)


class Drawing(Telling):
    """A net that draws random numbers only in batches after the third one."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.n = 0

    def forward(self, x):
        self.n += self.training
        return super().forward(x + torch.rand(()) if self.n > 3 and self.training else x)


def events(kind, **params):
    """Return what happened in each of the first steps of one worker with one shard."""
    EVENTS.clear()
    net(kind, engine=Threads(1), strategy=Listening(), n_shards=1, epochs=1, **params).fit(*rows(kind, n=400))
    return " ".join(EVENTS).split("merge")[:4]


def early(step):
    return step.split("nearly done")[-2].count("ready")


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [Telling, Drawing])
def test_gradients_are_announced_before_the_end_of_the_backward_pass(kind, accumulate):
    steps = events(kind, accumulate=accumulate)
    assert [step.count("ready") > 0 for step in steps] == [False, True, True, True], "the first step has no buffers"
    assert early(steps[1]) == 0, "the first pass only counts"
    assert early(steps[2]) == 6, "all but those of the first layer, and the one without gradient"


def test_a_grouped_pass_announces_its_layers_one_by_one():
    assert [step.split().count("ready") for step in events(big_conv)] == [0, 8, 8, 8]


@pytest.mark.thorough
def test_a_backward_pass_inside_another_announces_what_is_final():
    load_compiler()
    assert [step.split().count("ready") for step in events(Twice)] == [0, 9, 9, 9]


# how it travels


def test_columns_travel_before_all_are_final_whatever_the_order():
    n, n_shards, size = 1_000_000, 5, 2
    template = {"grad": np.zeros(n, np.float32), "stats": np.zeros(70, np.float32), "sums": np.zeros(7, np.float32)}
    cuts = [0, 10, 400_003, 400_004, 700_000, n]
    length = Layout(template).length

    def body(comm):
        mine = deals(n_shards, size)[0][comm.rank]
        worker = RankWorker(None, comm, dict.fromkeys(mine), None, n_shards, 0, None)
        views, ready = worker.buffers(template), worker.early(template)
        for _ in range(2):
            before = comm.sent_bytes
            for s in mine:
                for i in reversed(range(len(cuts) - 1)) if comm.rank else range(len(cuts) - 1):
                    where = slice(cuts[i], cuts[i + 1])
                    views[s]["grad"][where] = part(s, length, "float32")[:n][where]
                    ready("grad", where.start, where.stop)
                views[s]["stats"][:], views[s]["sums"][:] = s, -s
            early = comm.sent_bytes - before
            total = worker.merge({s: Update("gradient", views[s]) for s in mine}).arrays
            found = total["grad"].tobytes(), total["stats"].tolist(), total["sums"].tolist()
        return early, found

    wanted = tree_sum_of([part(s, length, "float32")[:n] for s in range(n_shards)], n_shards).tobytes()
    for early, found in on_ranks(gloo_ranks, size, body):
        assert early > n
        assert found == (wanted, [10.0] * 70, [-10.0] * 7)


def test_a_gradient_that_is_accumulated_again_after_it_was_sent_is_refused():
    weight = torch.nn.Parameter(torch.ones(3))

    class Place:
        name, start, stop, end = "layer.weight", 0, 3, 16

    class Places:
        places = (0,)

    early, view, told = Early([weight], [Place], Places), torch.zeros(3), []

    def watched(passes):
        with early.watch([view], lambda *what: told.append(what)):
            for _ in range(passes):
                weight.sum().backward()

    watched(1)
    assert told == [], "the first pass only counts"
    watched(1)
    assert (view.tolist(), told) == ([2.0] * 3, [("grad", 0, 16)])
    with pytest.raises(InputError, match=r"'layer\.weight' was accumulated twice"):
        watched(2)


# what goes wrong while it travels


class Faulty(Deep):
    """A net to which something happens in a worker, in its sixth backward pass, when other gradients have been sent."""

    def __init__(self, fault, here, note):
        super().__init__(dropout=0.0)
        self.fault, self.here, self.note, self.left = fault, here, note, 5

    def forward(self, x):
        h = self.first(x)
        if self.training and os.getpid() != self.here:
            h.register_hook(self.strike)
        return self.rest(h)

    def strike(self, gradient):
        self.left -= 1
        if self.left < 0:
            try:
                Path(self.note).touch(exist_ok=False)  # one worker is enough
            except FileExistsError:
                return
            Path(self.note).write_text(repr(time.monotonic()))
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("in the middle of the backward pass")


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.parametrize("fault, error", [("kill", RankLost), ("raise", RankError)])
def test_a_worker_that_fails_while_gradients_travel_ends_the_run_in_time(fault, error, tmp_path):
    engine, note = Processes(2, transport="gloo"), tmp_path / "note"
    options = {"module__fault": fault, "module__here": os.getpid(), "module__note": str(note), "n_shards": 2}
    with pytest.raises(error) as raised:
        net(Faulty, engine=engine, **options).fit(*rows(Faulty))
    seconds = time.monotonic() - float(note.read_text())
    assert seconds < 2
    assert fault == "kill" or "in the middle of the backward pass" in str(raised.value)
    assert net(Deep, engine=engine, epochs=1).fit(*rows(Deep, 200)).n_iter_ == 2, "the next training has sound workers"
