"""SGD whose weights are served: its pushes go as far as synchronous steps, on the touched features alone, too."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tutti.errors import DataError
from tutti.learners._problem import LinearProblem
from tutti.learners.sgd import SGD
from tutti.serving import Servable, Serving
from tutti.strategies.all_reduce import AllReduce
from tutti.testing.local import LocalWorker, MemoryShard, cut
from tutti.types import Array, Csr, Order, Schema, Update

N, D = 512, 60
R = np.random.default_rng(0)
X = sp.random_array((N, D), density=0.1, rng=R, format="csr")
X.sort_indices()
ROWS = Csr(X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data, D)
Y3 = np.argmax(X @ R.standard_normal((D, 3)), axis=1).astype(np.int32)
Y2, YR = (Y3 == 1).astype(np.int32), X @ np.arange(D) / D + 1.0
WEIGHT = R.random(N)


def schema(y: Array, sparse: bool = True) -> Schema:
    classes = None if y.dtype.kind == "f" else tuple(range(int(y.max()) + 1))
    return Schema(N, D, classes=classes, weight_sum=WEIGHT.sum(), weighted=True, sparse=sparse)


def memory(n_bytes: int) -> Array:
    return np.full(n_bytes, 7, np.uint8)


def placed(served: Any, shape: Schema, start: Any = None, n_ranges: int = 3) -> Any:
    state = served.init(shape, seed=0, start=start)
    return served.serve(state, served.ranges(state, n_ranges), memory, memory)


def trained(served: Any, shape: Schema, shards: dict[int, MemoryShard], n_parts: int = 1, start: Any = None) -> Any:
    """Do what a strategy does, alone: the parts of a step one after the other, all from the weights as they are."""
    state = placed(served, shape, start)
    parts = [list(range(len(shards)))[p::n_parts] for p in range(n_parts)]
    while not served.progress(state).done:
        step, stop = served.milestone(state)[0], served.next_pause(state, None)
        for t in range(step, stop):
            for part in parts:
                orders = {s: Order(t, "gradient", 0, s) for s in part}
                push = served.work(state, dict.fromkeys(part), {s: shards[s] for s in part}, orders)
                if not push.empty:
                    for i in range(len(state.ranges)):
                        served.move(state, push, i, push.share)
                served.tally(state, push, n_parts)
        served.reached(state, stop)
        pause(served, state, shards, stop)
    return served.result(state)


def pause(served: Any, state: Any, shards: dict[int, MemoryShard], step: int) -> None:
    if served.due(state):
        found = [served.propose(state, None, d, Order(step, "summary", 0, s)).update.arrays for s, d in shards.items()]
        served.apply(state, Update("summary", {name: sum(f[name] for f in found) for name in found[0]}), 1.0)


CASES = [
    (LinearProblem("logistic", C=0.5), Y2),
    (LinearProblem("hinge", C=0.1, intercept="regularised", class_weight=(1.0, 2.0, 0.5)), Y3),
    (LinearProblem("squared_hinge", C=1.0, intercept="none"), Y3),
    (LinearProblem("squared", C=1.0), YR),
]


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(("problem", "y"), CASES, ids=[c[0].loss for c in CASES])
def test_alone_it_takes_the_steps_of_all_reduce_on_touched_features_and_on_all(
    problem: LinearProblem, y: Array, average: bool
) -> None:
    learner = SGD(problem, batch_size=128, max_iter=6, average=average)  # 4 steps, each of one chunk of every shard
    sparse, dense = cut(ROWS, y, WEIGHT), cut(X.toarray(), y, WEIGHT)
    plain = AllReduce().run(LocalWorker(schema(y), sparse), learner)
    found = [trained(learner.served(whole=False), schema(y), sparse)]
    found += [trained(learner.served(whole=False), schema(y, sparse=False), dense)]
    if not average:
        found += [trained(learner.served(whole=True), schema(y), sparse)]
    for result in found:
        for name in ("coef", "intercept", "best"):
            np.testing.assert_allclose(result[name], plain[name], rtol=1e-9, atol=1e-11)
        assert learner.progress(result).gap == pytest.approx(learner.progress(plain).gap, rel=1e-6)


@pytest.mark.parametrize("sparse", [True, False])
def test_parts_of_a_step_go_as_far_as_the_step_and_empty_shards_go_nowhere(sparse: bool) -> None:
    learner = SGD(LinearProblem("logistic", C=1.0), batch_size=100, max_iter=8)
    x: Any = ROWS if sparse else X.toarray()
    shards = cut(x, Y2, WEIGHT, n_shards=5)
    none = dict.fromkeys(range(5, 8), cut(x, Y2, WEIGHT, n_shards=N)[0])
    empty = {s: dataclasses.replace(cut(x, Y2[:0], WEIGHT[:0], 1)[0], id=s, x=_none(d.x)) for s, d in none.items()}
    shape = schema(Y2, sparse)
    plain = AllReduce().run(LocalWorker(shape, {**shards, **empty}), learner)
    result = trained(learner.served(whole=False), shape, {**shards, **empty}, n_parts=8)
    ours, theirs = learner.progress(result), learner.progress(plain)
    assert ours.objective == pytest.approx(theirs.objective, rel=0.02)
    assert ours.gap == pytest.approx(theirs.gap, rel=0.1)


def _none(x: Any) -> Any:
    return Csr(np.zeros(1, np.int64), x.indices[:0], x.values[:0], D) if isinstance(x, Csr) else x[:0]


def test_a_snapshot_in_the_middle_of_an_epoch_goes_on_from_there() -> None:
    learner = SGD(LinearProblem("logistic", C=1.0), batch_size=128, max_iter=3)
    served, shards, shape = learner.served(whole=False), cut(ROWS, Y2, WEIGHT), schema(Y2)
    whole = trained(served, shape, shards)
    state = placed(served, shape)
    pause(served, state, shards, 0)
    assert [served.next_pause(state, every) for every in (None, 0, 3, 100)] == [4, 4, 3, 4]
    for t in range(3):
        push = served.work(state, {}, shards, {s: Order(t, "gradient", 0, s) for s in shards})
        for i in range(len(state.ranges)):
            served.move(state, push, i, push.share)
        served.tally(state, push, 1)
    served.reached(state, 3)
    assert not served.due(state)
    assert served.milestone(state) == (3, False)
    more = trained(served, shape, shards, start={name: a.copy() for name, a in served.snapshot(state).items()})
    np.testing.assert_allclose(more["coef"], whole["coef"], rtol=1e-9, atol=1e-12)


def test_no_step_takes_more_than_half_of_a_weight_away() -> None:
    learner = SGD(LinearProblem("squared_hinge", C=1e-9), batch_size=16, max_iter=3)
    result = trained(learner.served(whole=False), schema(Y2), cut(ROWS, Y2, WEIGHT), n_parts=3)
    assert learner.progress(result).objective <= 1e-9 * WEIGHT.sum() * 1.001


def test_a_value_that_is_not_finite_is_located_in_a_batch_of_touched_features() -> None:
    served, shards = SGD(batch_size=128).served(whole=False), cut(ROWS, Y2, WEIGHT)
    state = placed(served, schema(Y2))
    pause(served, state, shards, 0)
    bad = dataclasses.replace(shards[3].x, values=shards[3].x.values.copy())
    bad.values[bad.indptr[9]] = np.inf
    column = int(bad.indices[bad.indptr[9]])
    shards[3] = dataclasses.replace(shards[3], x=bad)

    def epoch() -> None:
        for t in range(4):
            served.work(state, {}, shards, {s: Order(t, "gradient", 0, s) for s in shards})

    with pytest.raises(DataError, match=f"row 9, column {column}: Input X contains infinity"):
        epoch()


def test_it_is_of_another_form_than_the_learner_of_common_steps() -> None:
    assert isinstance(SGD(), Servable)
    assert not isinstance(SGD(), Serving)
    assert isinstance(SGD().served(whole=True), Serving)


@pytest.mark.parametrize("average", [True, False])
def test_whole_epochs_that_a_range_has_lost_are_left_out_whether_or_not_the_next_one_was_begun(average: bool) -> None:
    """A server that goes on from a copy of a pause has closed an epoch; a replay has begun the next one there."""
    served: Any = SGD(LinearProblem("logistic", C=0.5), 1e-9, 40, average=average).served(whole=False)
    shape, shards = schema(Y2), cut(ROWS, Y2, WEIGHT, 2)
    state, epochs = placed(served, shape, n_ranges=2), 5
    pause(served, state, shards, 0)
    steps = served.next_pause(state, None)
    for step in range(epochs * steps):
        push = served.work(state, dict.fromkeys(shards), shards, {s: Order(step, "gradient", 0, s) for s in shards})
        for i in (0, 1):
            served.move(state, push, i, push.share)
        served.tally(state, push, 1)
        if (step + 1) % steps == 0:
            served.reached(state, step + 1)
            closed = [array.copy() for array in served.part(state, 1)]
            pause(served, state, shards, step + 1)
    found = []
    for start in (closed, [array.copy() for array in served.part(state, 1)]):
        for array, was in zip(served.part(state, 1), start, strict=True):
            array[:] = was
        served.settle(state, 1, (epochs + 2) * steps)
        found.append([array.tobytes() for array in served.part(state, 1)])
    assert found[0] == found[1]
