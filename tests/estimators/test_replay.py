"""Recorded asynchronous runs: one process repeats them to the same bits, stops where told, refuses what differs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import stat
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, Deep, rows  # noqa: E402
from tests.estimators.test_served import Dying  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import InputError, ParameterError, PlanError, RankError  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.strategies._order import ENTRY, NEVER  # noqa: E402

nn = torch.nn


class Both(nn.Module):
    """Batch-norm and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))

    def forward(self, x):
        return self.layers(x)


MOMENTUM = {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9, "lr_schedule": "cosine"}
ADAM = {"optimizer": "adam"}


def net(kind=Both, **params):
    return NeuralNetClassifier(kind, **{"batch_size": 100, "epochs": 3, "lr": 1e-2, "random_state": 0, **params})


def recorded(folder, engine=None, kind=Both, staleness=math.inf, servers=1, claim=True, server=None, **params):
    strategy = tutti.ParameterServer(servers, staleness, server, claim, record=str(folder))
    return net(kind, engine=engine or Threads(3), strategy=strategy, **params).fit(*rows(kind))


def replayed(folder, kind=Both, to=None, engine=None, **params):
    return net(kind, engine=engine or Threads(1), strategy=tutti.Replay(str(folder), to), **params).fit(*rows(kind))


def check(folder, engine, kind=Both, **params):
    """Record a run, repeat it, and compare all that can be compared."""
    served = recorded(folder, engine, kind, **params)
    own = {k: v for k, v in params.items() if k not in ("staleness", "servers", "claim", "server")}
    again = replayed(folder, kind, **own)
    assert again.report_.sha256 == served.report_.sha256 == sealed(folder)
    assert [h["loss"] for h in again.history_] == [h["loss"] for h in served.history_]
    for name in ("valid_loss", "valid_accuracy"):
        assert [h.get(name) for h in again.history_] == [h.get(name) for h in served.history_]
    return served


def sealed(folder):
    return json.loads((Path(folder) / "end.json").read_text())["model_sha256"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings", [pytest.param(MOMENTUM, marks=pytest.mark.thorough), ADAM], ids=["momentum", "adam"]
)
@pytest.mark.parametrize("staleness", [1, math.inf])
@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize(("workers", "servers"), [pytest.param(2, 4, marks=pytest.mark.thorough), (3, 1)])
def test_one_process_repeats_what_threads_did(settings, staleness, claim, workers, servers, tmp_path):
    check(tmp_path, Threads(workers), staleness=staleness, claim=claim, servers=servers, **settings)


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize("staleness", [1, math.inf])
@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize("servers", [1, 4])
@pytest.mark.parametrize("workers", [2, 3])
def test_one_process_repeats_what_processes_did(settings, staleness, claim, servers, workers, tmp_path):
    check(tmp_path, Processes(workers), staleness=staleness, claim=claim, servers=servers, **settings)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [Threads(3), pytest.param(Processes(2), marks=pytest.mark.thorough)], ids=str)
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (CNN, {"clip_norm": 1.0}),
        (MLP, {"validation": 0.2, "patience": 1, "epochs": 12, "lr": 0.05}),
        (MLP, {"server": {"type": "Adam", "lr": 0.01}}),
        (MLP, {"server": {"type": "SGD", "lr": 0.1, "momentum": 0.5}, "servers": 3}),
        (Deep, {"epochs": 1, "accumulate": 2}),  # a parameter without a gradient
    ],
    ids=["clipped", "early stop", "adam of the server", "sgd of the server", "unused"],
)
def test_all_that_moves_a_net_is_repeated(engine, kind, params, tmp_path):
    check(tmp_path, engine, kind, **params)


def test_pauses_for_checkpoints_are_repeated_without_writing_any(tmp_path):
    kept = tutti.Checkpoint(str(tmp_path / "kept"), every_steps=7, every_minutes=None)
    served = recorded(tmp_path / "run", checkpoint=kept)
    before = sorted(os.listdir(tmp_path / "kept"))
    assert replayed(tmp_path / "run").report_.sha256 == served.report_.sha256
    assert sorted(os.listdir(tmp_path / "kept")) == before


def test_a_resumed_run_is_repeated_from_the_same_checkpoint(tmp_path):
    kept = tutti.Checkpoint(str(tmp_path / "kept"), every_steps=13, every_minutes=None)
    recorded(tmp_path / "run", epochs=2, checkpoint=kept, **ADAM)
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    more = recorded(tmp_path / "more", epochs=4, checkpoint=kept, resume=True, **ADAM)
    again = tutti.Checkpoint(str(tmp_path / "copy"), every_minutes=None)
    assert replayed(tmp_path / "more", epochs=4, checkpoint=again, resume=True, **ADAM).report_.sha256 == sealed(
        tmp_path / "more"
    )
    assert more.n_iter_ == 44
    with pytest.raises(InputError, match="began with step 13, this one with 39"):
        replayed(tmp_path / "more", epochs=4, checkpoint=kept, resume=True, **ADAM)
    with pytest.raises(InputError, match="knows of the steps from 13 to 43"):
        replayed(tmp_path / "more", epochs=4, checkpoint=again, resume=True, to=5, **ADAM)


def test_a_schedule_is_asked_for_steps_long_past(tmp_path, monkeypatch):
    from tutti.learners.module import _ranges

    served = recorded(tmp_path, claim=False, **MOMENTUM)
    monkeypatch.setattr(_ranges, "_REMEMBERED", 1)
    monkeypatch.setattr(_ranges, "_AHEAD", 1)
    assert replayed(tmp_path, **MOMENTUM).report_.sha256 == served.report_.sha256


# ---- one step of it


def test_it_stops_at_a_step_and_shows_weights_and_gradients(tmp_path):
    served = recorded(tmp_path, Threads(2), servers=2, optimizer="sgd", lr=0.1)
    n_steps = served.n_iter_
    early, late = (replayed(tmp_path, to=to, optimizer="sgd", lr=0.1) for to in (0, n_steps // 2))
    last = replayed(tmp_path, to=n_steps - 1, optimizer="sgd", lr=0.1)
    assert last.report_.sha256 == served.report_.sha256
    assert len({m.report_.sha256 for m in (early, late, last)}) == 3
    shapes = {name: tuple(p.shape) for name, p in last.module_.named_parameters()}
    for model in (early, late, last):
        assert {name: g.shape for name, g in model.gradients_.items()} == shapes
        assert all(np.isfinite(g).all() for g in model.gradients_.values())
        assert any(g.any() for g in model.gradients_.values())
    assert replayed(tmp_path, to=n_steps // 2, optimizer="sgd", lr=0.1).report_.sha256 == late.report_.sha256
    assert not served.gradients_


def test_the_gradient_is_what_the_weights_moved_along(tmp_path):
    recorded(tmp_path, Threads(1), MLP, optimizer="sgd", lr=0.1, epochs=1)
    before, after = (replayed(tmp_path, MLP, to=to, optimizer="sgd", lr=0.1, epochs=1) for to in (3, 4))
    for name, p in after.module_.named_parameters():
        moved = before.module_.get_parameter(name).detach() - 0.1 * torch.from_numpy(after.gradients_[name])
        torch.testing.assert_close(p.detach(), moved)


@pytest.mark.parametrize("to", [-1, 1.5, True])
def test_a_bad_step_is_named(to):
    with pytest.raises(ParameterError, match="global step"):
        tutti.Replay("x", to)


def test_a_step_that_was_not_made_is_named(tmp_path):
    served = recorded(tmp_path)
    with pytest.raises(InputError, match=f"to=999.*from 0 to {served.n_iter_ - 1}"):
        replayed(tmp_path, to=999)


# ---- what is refused


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"lr": 0.02}, "a setting that decides the bits"),
        ({"batch_size": 50}, "a setting that decides the bits"),
        ({"random_state": 3}, "write random_state=0"),
        ({"n_shards": 4}, "write n_shards=8"),
        ({"kind": MLP}, "its model has"),
        ({"epochs": 2}, "its first pause was at step 33, this one's at 22"),
        ({"epochs": 4}, "its first pause was at step 33, this one's at 44"),
    ],
)
def test_another_job_is_refused(params, why, tmp_path):
    recorded(tmp_path)
    with pytest.raises(InputError, match=why):
        replayed(tmp_path, **params)


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_run_that_was_longer_or_shorter_is_refused(epochs, tmp_path):
    recorded(tmp_path, kind=MLP, validation=0.1)
    with pytest.raises(InputError, match="write epochs and patience as they were"):
        replayed(tmp_path, MLP, validation=0.1, epochs=epochs)


def test_other_weights_and_other_rows_are_refused(tmp_path):
    recorded(tmp_path, kind=MLP)
    x, y = rows(MLP)
    again = net(MLP, engine=Threads(1), strategy=tutti.Replay(str(tmp_path)))
    with pytest.raises(InputError, match="other weights"):
        net(MLP(), engine=Threads(1), strategy=tutti.Replay(str(tmp_path))).fit(x, y)
    x[5, 3] += 1e-3
    with pytest.raises(InputError, match="its rows are not these"):
        again.fit(x, y)


def test_more_workers_and_other_models_are_refused(tmp_path):
    recorded(tmp_path)
    with pytest.raises(PlanError, match=r"engine=tutti\.Threads\(1\)"):
        replayed(tmp_path, engine=Threads(2))
    with pytest.raises(PlanError, match="no solver of the multinomial loss"):
        tutti.LogisticRegression(strategy=tutti.Replay(str(tmp_path))).fit(*rows(MLP))
    with pytest.raises(InputError, match="no recorded run here"):
        replayed(tmp_path / "elsewhere")


def test_what_was_changed_after_the_run_is_refused(tmp_path):
    recorded(tmp_path)
    order = tmp_path / "order-1-0.bin"
    whole = order.read_bytes()
    for changed in (whole[:-16], whole[:-1], whole[:40] + b"\x07" + whole[41:], b""):
        order.write_bytes(changed)
        with pytest.raises(InputError, match=r"order-1-0\.bin was changed"):
            replayed(tmp_path)
    order.unlink()
    with pytest.raises(InputError, match=r"order-1-0\.bin is missing"):
        replayed(tmp_path)
    order.write_bytes(whole)
    facts = (tmp_path / "run.json").read_text()
    for text, why in [
        (facts.replace('"seed": 0', '"seed": 1'), "was changed"),
        (facts.replace('"format_version": 1', '"format_version": 2'), "newer tutti"),
        ("[]", "no table"),
        ("{", "not what was written"),
        ("{}", "not what describes"),
        (json.dumps({**json.loads(facts), "parts": [[0], [0]]}), "make no sense"),
        (json.dumps({**json.loads(facts), "first": "0"}), "make no sense"),
        (json.dumps({**json.loads(facts), "ranges": [[0, 4], [8, 9]]}), "make no sense"),
    ]:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=why):
            replayed(tmp_path)
    (tmp_path / "run.json").write_text(facts)
    ended = json.loads((tmp_path / "end.json").read_text())
    for changed in ({"steps": "3"}, {"sha256": []}, {"sha256": {**ended["sha256"], "../order-0-0.bin": "0"}}):
        (tmp_path / "end.json").write_text(json.dumps({**ended, **changed}))
        with pytest.raises(InputError, match=r"end\.json is not what was written"):
            replayed(tmp_path)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"staleness": 0}, "the same bits anyway"),
        ({"staleness": 1, "server_optimizer": {"type": "Elastic"}}, "Elastic"),
        ({"staleness": 1, "record": 3}, "name of a folder"),
        ({"staleness": 1, "record": ""}, "name of a folder"),
    ],
)
def test_what_cannot_be_recorded_is_named(params, why):
    with pytest.raises(ParameterError, match=why):
        tutti.ParameterServer(**{"record": "runs", **params})


# ---- the folder


def test_the_folder_is_private_and_a_record_replaces_a_record_only(tmp_path):
    folder = tmp_path / "deep" / "run"
    first = recorded(folder, staleness=2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()} == {0o600}
    assert sorted(f.name for f in folder.iterdir()) == ["end.json", *(f"order-{r}-0.bin" for r in range(3)), "run.json"]
    n_entries = sum(f.stat().st_size // 16 - 1 for f in folder.glob("order-*"))
    assert n_entries == 2 * 3 * first.n_iter_  # a key range and the sums, three parts a step
    second = recorded(folder, Threads(2), staleness=2)
    assert not (folder / "order-2-0.bin").exists()
    assert replayed(folder).report_.sha256 == second.report_.sha256
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="no record"):
        recorded(tmp_path / "other")
    with pytest.raises(InputError, match="is a file"):
        recorded(tmp_path / "other" / "thesis.tex")


def test_nothing_changes_without_a_record():
    strategy = tutti.ParameterServer(staleness=1)
    plain = net(engine=Threads(1), strategy=strategy, **MOMENTUM).fit(*rows(Both))
    assert plain.gradients_ == {}


# ---- what was lost or cut short


@pytest.mark.thorough
@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize("staleness", [1, math.inf])
def test_a_run_that_lost_a_worker_is_repeated(claim, staleness, tmp_path):
    own = {"module__here": os.getpid(), "module__note": str(tmp_path / "note"), "validation": 0.1, "epochs": 5}
    options = {"staleness": staleness, "claim": claim, "servers": 2}
    with pytest.warns(RuntimeWarning, match="was lost"):
        served = recorded(tmp_path / "run", Processes(3), Dying, **options, **own)
    again = replayed(tmp_path / "run", Dying, **own)
    assert again.report_.sha256 == served.report_.sha256
    assert [h["loss"] for h in again.history_] == [h["loss"] for h in served.history_]


class Killed(MLP):
    """A net of which one process is killed after it has moved two of three ranges."""

    def __init__(self, here, note):
        super().__init__()
        self.here, self.note, self.left = here, note, 9

    def forward(self, x):
        self.left -= self.training
        if self.left < 0 and os.getpid() != self.here:
            try:
                Path(self.note).touch(exist_ok=False)
            except FileExistsError:
                return super().forward(x)
            _kill_in_the_next_push()
        return super().forward(x)


def _kill_in_the_next_push():
    from tutti.strategies._record import Recorder

    note, calls = Recorder.note, []

    def killing(self, item, i, read, moved=2**32 - 1):
        note(self, item, i, read, moved)
        calls.append(i)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Recorder.note = killing


@pytest.mark.thorough
def test_a_push_that_another_worker_ended_is_repeated(tmp_path):
    own = {"module__here": os.getpid(), "module__note": str(tmp_path / "note"), "epochs": 5}
    with pytest.warns(RuntimeWarning, match="was lost"):
        served = recorded(tmp_path / "run", Processes(3), Killed, servers=2, **own)
    assert replayed(tmp_path / "run", Killed, **own).report_.sha256 == served.report_.sha256
    never = [np.fromfile(f, ENTRY, offset=16)["moved"] == NEVER for f in sorted((tmp_path / "run").glob("order-*"))]
    assert sum(n.sum() for n in never) == 2 + 2  # it was killed after the second move; the other one left out both


class Failing(MLP):
    """A net whose loss is not a number after so many batches of a worker."""

    most = 20

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += self.training
        return super().forward(x) * (math.nan if self.seen > Failing.most else 1.0)


def test_a_run_that_failed_can_be_looked_at_up_to_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the loss is nan"):
        recorded(tmp_path, Threads(2), Failing)
    assert not (tmp_path / "end.json").exists()
    monkeypatch.setattr(Failing, "most", 999)
    with pytest.raises(InputError, match=r"cut short; write Replay\(\.\.\., to=STEP\)"):
        replayed(tmp_path, Failing)
    found = [replayed(tmp_path, Failing, to=to) for to in (0, 5)]
    assert found[0].report_.sha256 != found[1].report_.sha256
    assert all(np.isfinite(g).all() for g in found[1].gradients_.values())


def test_a_full_disk_ends_the_run_with_one_sentence(tmp_path, monkeypatch):
    write, left = os.write, [40]

    def full(file, content):
        if len(content) == 16:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        return write(file, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(RankError, match=r"(?s)cannot be written.*No space left on device.*make room"):
        recorded(tmp_path, Threads(2))
