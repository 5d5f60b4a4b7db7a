"""Neural nets: the same bits for any number of workers, torch's own gradients, scikit-learn's grammar, clear errors."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, Bag, Encoder, Recorder, conv, rows, wide  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import DataError, InputError, ParameterError, RunError  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier, NeuralNetRegressor  # noqa: E402

nn = torch.nn
NETS = [MLP, *(pytest.param(kind, marks=pytest.mark.thorough) for kind in (CNN, Encoder, Bag, wide, conv))]
OPTIMIZERS = [{"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9}, {"optimizer": "adamw", "lr": 2e-3}]


def net(kind, **params):
    settings = {"batch_size": 100, "epochs": 2, "random_state": 0, "verbose": 0, **params}
    return NeuralNetClassifier(kind, **settings)


def digest(kind, engine, n=1003, **params):
    return net(kind, engine=engine, **params).fit(*rows(kind, n)).report_.sha256


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", NETS)
def test_same_bits_for_one_and_three_threads(kind, optimizer):
    assert digest(kind, Threads(1), 403, **optimizer) == digest(kind, Threads(3), 403, **optimizer)


@pytest.mark.thorough
def test_same_bits_for_threads_and_processes():
    assert digest(MLP, Threads(1)) == digest(MLP, Processes(2))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", [Threads, Processes])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", NETS)
def test_same_bits_after_200_steps_for_any_number_of_workers(kind, optimizer, engine):
    found = {n: digest(kind, engine(n), epochs=19, **optimizer) for n in (1, 2, 3, 5, 8)}
    assert len(set(found.values())) == 1, found


@pytest.mark.thorough
def test_a_seed_decides_everything():
    assert digest(MLP, Threads(1), random_state=1) == digest(MLP, Threads(1), random_state=1)
    assert digest(MLP, Threads(1), random_state=1) != digest(MLP, Threads(1), random_state=2)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["plain", "class_weight", "sample_weight", "masked", "accumulated"])
def test_the_gradient_is_that_of_the_whole_batch(case):
    x, y = rows(MLP, n=103)
    x = x.astype(np.float64)
    module = MLP(dropout=0.0).double()
    params, weight, loss = {}, None, nn.CrossEntropyLoss()
    if case == "class_weight":
        params["class_weight"] = {0: 0.5, 2: 3.0}
        loss = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64))
    if case == "sample_weight":
        weight = np.random.default_rng(0).integers(0, 4, len(y)).astype(float)
    if case == "masked":
        params["loss"] = loss = nn.CrossEntropyLoss(ignore_index=1)
    if case == "accumulated":
        params["accumulate"] = 3
    Recorder.seen.clear()
    made = net(module, batch_size=len(y), epochs=1, optimizer=Recorder, engine=Threads(3), **params)
    made.fit(x, y, weight)
    out, target = module(torch.from_numpy(x)), torch.from_numpy(y)
    if weight is None:
        loss(out, target).backward()
    else:
        each, w = nn.functional.cross_entropy(out, target, reduction="none"), torch.from_numpy(weight)
        ((each * w).sum() / w.sum()).backward()
    for found, p in zip(Recorder.seen[0], module.parameters(), strict=True):
        np.testing.assert_allclose(found, p.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer, options", [("sgd", {"momentum": 0.9}), ("adamw", {}), ("rmsprop", {})])
def test_one_shard_in_order_is_a_plain_torch_loop(optimizer, options):
    x, y = rows(MLP, n=120)
    module = MLP(dropout=0.0)
    made = net(module, n_shards=1, shuffle=False, batch_size=30, optimizer=optimizer, lr=0.01, epochs=3,
               lr_schedule="cosine", **{f"optimizer__{k}": v for k, v in options.items()}).fit(x, y)  # fmt: skip
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    own = kinds[optimizer](module.parameters(), lr=0.01, **options)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(own, 12)
    for _ in range(3):
        for lo in range(0, 120, 30):
            own.zero_grad()
            nn.functional.cross_entropy(
                module(torch.from_numpy(x[lo : lo + 30])), torch.from_numpy(y[lo : lo + 30])
            ).backward()
            own.step()
            rates.step()
    for p, q in zip(made.module_.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_learns_the_digits():
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(x / 16, y, test_size=0.25, random_state=0, stratify=y)
    made = NeuralNetClassifier(MLP, module__d=64, module__hidden=256, module__k=10, epochs=30, batch_size=64, verbose=0)
    made.fit(train_x.astype(np.float32), train_y)
    assert made.score(test_x.astype(np.float32), test_y) >= 0.97
    assert len(made.history_) == 30
    assert made.history_[-1]["loss"] < 0.1 * made.history_[0]["loss"]
    np.testing.assert_allclose(made.predict_proba(test_x).sum(axis=1), 1.0)


@pytest.mark.thorough
def test_text_labels_and_a_pipeline_and_a_search():
    x, y = rows(MLP, n=300)
    names = np.array(["red", "green", "blue"])[y]
    flow = make_pipeline(StandardScaler(), net(MLP, epochs=15, lr=0.01))
    search = GridSearchCV(flow, {"neuralnetclassifier__module__hidden": [4, 32]}, cv=2).fit(x, names)
    assert search.score(x, names) > 0.8
    assert set(search.predict(x)) <= {"red", "green", "blue"}


def test_clone_and_parameters():
    made = net(MLP, module__hidden=7, optimizer__eps=1e-6)
    assert clone(made).get_params()["module__hidden"] == 7
    assert made.set_params(module__hidden=9, lr=0.5).get_params()["lr"] == 0.5
    with pytest.raises(ParameterError, match="no such parameter; did you mean 'batch_size'"):
        net(MLP, batchsize=3)


def test_the_given_module_is_not_changed():
    module = MLP()
    before = [p.clone() for p in module.parameters()]
    net(module).fit(*rows(MLP))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_partial_fit_goes_on_to_the_bits_of_one_long_fit():
    x, y = rows(MLP, n=403)
    made = net(MLP)
    for _ in range(3):
        made.partial_fit(x, y)
    assert made.report_.sha256 == net(MLP, epochs=3).fit(x, y).report_.sha256
    made.partial_fit(x[:200], y[:200])
    assert made.n_iter_ > 0


def test_a_warm_start_begins_with_the_fitted_weights():
    x, y = rows(MLP)
    made = net(MLP, warm_start=True, epochs=3).fit(x, y)
    first = made.history_[-1]["loss"]
    assert made.fit(x, y).history_[0]["loss"] < 1.05 * first


@pytest.mark.thorough
def test_validation_stops_early_with_the_best_weights():
    x, y = rows(MLP)
    y = np.random.default_rng(0).permutation(y)  # nothing to learn: validation soon gets worse
    made = net(MLP, epochs=200, validation=0.3, patience=3, lr=0.01, engine=Threads(2)).fit(x, y)
    losses = [h["valid_loss"] for h in made.history_]
    assert len(losses) < 200
    assert int(np.argmin(losses)) == len(losses) - 4
    assert made.report_.sha256 == net(MLP, epochs=200, validation=0.3, patience=3, lr=0.01).fit(x, y).report_.sha256


def test_a_regressor():
    x, _ = rows(MLP)
    y = x @ np.linspace(-1, 1, 20)
    made = NeuralNetRegressor(MLP, module__k=1, module__dropout=0.0, epochs=30, lr=0.01, verbose=0).fit(x, y)
    assert made.score(x, y) > 0.95
    assert made.predict(x).shape == y.shape


class Frugal(nn.Module):
    """A layer that is never used, a frozen one, and a lambda."""

    def __init__(self):
        super().__init__()
        self.used, self.idle, self.frozen = nn.Linear(20, 3), nn.Linear(20, 3), nn.Linear(20, 20)
        self.frozen.requires_grad_(False)
        self.act = lambda x: torch.tanh(x)

    def forward(self, x):
        return self.used(self.act(self.frozen(x)))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_parameter_without_gradient_rests(optimizer):
    module = Frugal()
    made = net(module, optimizer=optimizer, weight_decay=0.1, engine=Threads(2)).fit(*rows(MLP))
    assert torch.equal(made.module_.idle.weight, module.idle.weight), "weight decay must not touch it either"
    assert torch.equal(made.module_.frozen.weight, module.frozen.weight)
    assert not torch.equal(made.module_.used.weight, module.used.weight)


@pytest.mark.thorough
def test_a_lambda_reaches_the_processes():
    module = Frugal()
    one, two = (net(module, engine=e).fit(*rows(MLP)).report_.sha256 for e in (Threads(1), Processes(2)))
    assert one == two


def test_groups_schedules_clipping_augmentation_and_bf16_work_together():
    made = net(MLP, param_groups={"*bias": {"weight_decay": 0.0}}, weight_decay=0.01, lr_schedule="linear",
               warmup_steps=3, clip_norm=0.5, precision="bf16", epochs=4, lr=0.01,
               augment=lambda x, g: x + 0.01 * torch.randn(x.shape, generator=g))  # fmt: skip
    one = clone(made).set_params(engine=Threads(1)).fit(*rows(MLP))
    assert one.report_.sha256 == clone(made).set_params(engine=Threads(3)).fit(*rows(MLP)).report_.sha256
    assert one.score(*rows(MLP)) > 0.6


def test_features_of_a_named_layer():
    made = net(MLP).fit(*rows(MLP))
    assert made.transform(rows(MLP)[0], layer="layers.1").shape == (1003, 32)
    with pytest.raises(ParameterError, match=r"layer='layers\.9' is not possible"):
        made.transform(rows(MLP)[0], layer="layers.9")


def test_a_torch_dataset_and_tensors():
    x, y = rows(MLP)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    assert net(MLP).fit(data).report_.sha256 == net(MLP).fit(torch.from_numpy(x), torch.from_numpy(y)).report_.sha256


def test_explain_names_weights_and_steps():
    text = str(net(MLP).explain(*rows(MLP)))
    assert "771 weights, 22 steps" in text
    assert "AllReduce" in text


class Poisoned(MLP):
    def forward(self, x):
        out = super().forward(x)
        return out / 0 if self.training and len(x) > 4 else out


BAD = [
    ("module", lambda: net(3), ParameterError, "write a torch.nn.Module"),
    ("outputs", lambda: net(MLP, module__k=2), InputError, r"\(4, 2\) for 4 rows and 3 classes; expected \(4, 3\)"),
    ("width", lambda: net(MLP, module__d=7), InputError, "the module failed on 4 rows of shape"),
    ("optimizer", lambda: net(MLP, optimizer="adm"), ParameterError, "did you mean 'adam'"),
    ("option", lambda: net(MLP, optimizer__momntum=1), ParameterError, "momntum"),
    ("loss", lambda: net(MLP, loss="mes"), ParameterError, "did you mean 'mse'"),
    ("lr", lambda: net(MLP, lr=-1.0), ParameterError, "a learning rate such as 1e-3"),
    ("patience", lambda: net(MLP, patience=2), ParameterError, "early stopping needs validation rows"),
    (
        "batch-norm",
        lambda: net(nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 3)), batch_size=12),
        ParameterError,
        "batch-norm needs two rows of a shard in a batch, and 8 shards leave some with one",
    ),
    ("nan", lambda: net(Poisoned), InputError, "the loss is (nan|inf) at step 0 on shard 0"),
]


@pytest.mark.parametrize("make, kind, message", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_named(make, kind, message):
    with pytest.raises((kind, RunError), match=message):
        make().fit(*rows(MLP))


def test_wrong_shapes_at_predict():
    made = net(CNN).fit(*rows(CNN))
    with pytest.raises(
        DataError, match=r"rows of shape \(2, 8, 8\), but NeuralNetClassifier was fitted with \(1, 8, 8\)"
    ):
        made.predict(np.zeros((3, 2, 8, 8), np.float32))


class Bomb:
    """An augmentation that fails after some batches while a file is there."""

    def __init__(self, fuse, batches):
        self.fuse, self.batches = str(fuse), batches

    def __call__(self, x, generator):
        self.batches -= 1
        if self.batches < 0 and os.path.exists(self.fuse):
            raise RuntimeError("boom")
        return x + 0.1 * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("kind, optimizer", [(MLP, "adamw"), pytest.param(CNN, "sgd", marks=pytest.mark.thorough)])
def test_a_training_that_was_cut_short_goes_on_to_the_same_bits(kind, optimizer, tmp_path):
    fuse = tmp_path / "fuse"
    options = {"epochs": 4, "optimizer": optimizer, "lr_schedule": "cosine", "validation": 0.2, "n_shards": 4}
    whole = net(kind, augment=Bomb(fuse, 10), **options).fit(*rows(kind))
    fuse.touch()
    kept = tutti.Checkpoint(str(tmp_path / "kept"), every_steps=5, every_minutes=None)
    cut = net(kind, augment=Bomb(fuse, 4 * 17), checkpoint=kept, resume=True, engine=Threads(1), **options)
    with pytest.raises(RunError, match="boom"):
        cut.fit(*rows(kind))
    fuse.unlink()
    assert (tmp_path / "kept" / "step-000000015").exists(), "in the middle of the second epoch"
    cut.set_params(engine=Threads(3)).fit(*rows(kind))
    assert cut.report_.sha256 == whole.report_.sha256
    assert cut.history_[-1]["valid_loss"] == whole.history_[-1]["valid_loss"]
    longer = net(kind, augment=Bomb(fuse, 0), checkpoint=kept, resume=True, **{**options, "epochs": 4}).fit(*rows(kind))
    assert longer.report_.sha256 == whole.report_.sha256, "a finished training has nothing left to do"


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    net(MLP, checkpoint=kept).fit(*rows(MLP))
    with pytest.raises(InputError, match="belongs to another job"):
        net(MLP, module__hidden=8, checkpoint=kept, resume=True).fit(*rows(MLP))
    with pytest.raises(InputError, match="belongs to another job"):
        net(MLP, lr=0.5, checkpoint=kept, resume=True).fit(*rows(MLP))
    with pytest.raises(ParameterError, match="name the folder"):
        net(MLP, resume=True).fit(*rows(MLP))


@pytest.mark.thorough
def test_processes_write_checkpoints_too(tmp_path):
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None, keep=2)
    made = net(MLP, checkpoint=kept, engine=Processes(2)).fit(*rows(MLP))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-000000015", "step-000000020"]
    again = net(MLP, checkpoint=kept, resume=True, engine=Threads(1)).fit(*rows(MLP))
    assert again.report_.sha256 == made.report_.sha256


def dense(d=20, k=3, act=nn.ReLU):
    return nn.Sequential(nn.Linear(d, 32), act(), nn.Sequential(nn.Linear(32, 16), nn.GELU()), nn.Linear(16, k))


@pytest.mark.thorough
@pytest.mark.parametrize("batch_size", [100, 64, 20])
def test_shards_that_go_together_have_the_bits_of_shards_that_go_alone(batch_size, monkeypatch):
    from tutti.learners.module import _grouped

    used = []
    gradients = _grouped.Grouped.gradients
    monkeypatch.setattr(_grouped.Grouped, "gradients", lambda *a: used.append(tuple(a[2])) or gradients(*a))
    weight = np.random.default_rng(0).integers(1, 4, 1003).astype(float)
    data = (*rows(MLP), weight)
    together = [net(dense, batch_size=batch_size, engine=Threads(n)).fit(*data) for n in (1, 3)]
    assert len(used) > 20, "a sequence of dense layers goes together"
    monkeypatch.setattr(_grouped.Grouped, "fits", lambda self, sizes: len(sizes) == 1 and self.rows is not None)
    alone = net(dense, batch_size=batch_size, engine=Threads(1)).fit(*data)
    assert {m.report_.sha256 for m in together} == {alone.report_.sha256}


@pytest.mark.parametrize("case", ["dropout", "own class", "twice", "hook", "frozen"])
def test_what_may_not_go_together(case):
    from tutti.learners.module import _build, _grouped
    from tutti.learners.module._blueprint import Blueprint
    from tutti.learners.module._net import Net
    from tutti.learners.module.fields import Field

    module = dense(act=nn.Dropout) if case == "dropout" else MLP(dropout=0.0) if case == "own class" else dense()
    if case == "twice":
        module = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 3))
        module[1].weight = module[0].weight
    if case == "hook":
        module[0].register_forward_hook(lambda m, i, o: o * 2)
    if case == "frozen":
        module[0].weight.requires_grad_(False)
    optimizer, elementwise = _build.build_optimizer("sgd", 0.1, None, {})
    blueprint = Blueprint(module, _build.build_loss("cross_entropy", {}, None), optimizer, elementwise)
    threads = torch.get_num_threads()
    _build.try_out(blueprint, {"x": torch.zeros(4, 20), "y": torch.zeros(4, dtype=torch.long)}, 3)
    found = _grouped.grouped(Net(blueprint), _grouped.Job((Field("x", 0, 20, (20,)),), 64, 8))
    torch.set_num_threads(threads)
    assert (found is None) == (case != "frozen")


class Doomed(MLP):
    """A net that kills its worker in the middle of the training."""

    def __init__(self, here, note):
        super().__init__()
        self.here, self.note, self.left = here, note, 5

    def forward(self, x):
        self.left -= 1
        if self.left < 0 and os.getpid() != self.here:
            Path(self.note).write_text(repr(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


@pytest.mark.thorough
@pytest.mark.alone
def test_a_killed_worker_is_named_at_once_and_what_was_kept_is_whole(tmp_path):
    folder, note = tmp_path / "kept", tmp_path / "note"
    kept = tutti.Checkpoint(str(folder), every_steps=1, every_minutes=None)
    net(MLP, engine=Processes(2)).fit(*rows(MLP))  # the workers are warm
    options = {"module__here": os.getpid(), "module__note": str(note), "n_shards": 4}
    with pytest.raises(RunError, match=r"rank \d \(host .*, pid \d+\) was lost at step \d+: .*signal 9"):
        net(Doomed, checkpoint=kept, engine=Processes(2), **options).fit(*rows(MLP))
    assert time.monotonic() - float(note.read_text()) < 2
    for made in folder.glob("step-*"):
        header = json.loads((made / "checkpoint.json").read_bytes())
        assert hashlib.sha256((made / "state.safetensors").read_bytes()).hexdigest() == header["sha256"]
    assert list(folder.glob("step-*")), "at least one step was done before the end"
    assert net(MLP, engine=Processes(2)).fit(*rows(MLP)).n_iter_ == 22


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_log_gets_a_line_an_epoch(suffix, tmp_path):
    path = tmp_path / "logs" / f"run.{suffix}"
    made = net(MLP, log=path, validation=0.2).fit(*rows(MLP))
    text = path.read_text().splitlines()
    lines = [json.loads(t) for t in text] if suffix == "jsonl" else list(csv.DictReader(text))
    assert [float(line["loss"]) for line in lines] == [h["loss"] for h in made.history_]
    assert [float(line["valid_loss"]) for line in lines] == [h["valid_loss"] for h in made.history_]
    with pytest.raises(ParameterError, match=r"write a \.jsonl or \.csv file"):
        net(MLP, log="run.txt").fit(*rows(MLP))


class Moody(MLP):
    """A net that draws random numbers on some batches only, and not on the rows it is tried out on."""

    def forward(self, x):
        if self.training and len(x) > 4 and x.sum() > 0:
            x = nn.functional.dropout(x, 0.3)
        return super().forward(x)


@pytest.mark.thorough
def test_a_net_that_draws_only_now_and_then_has_the_same_bits():
    engines = Threads(1), Processes(2)
    one, many = (net(Moody, module__dropout=0.0, engine=e).fit(*rows(MLP)).report_.sha256 for e in engines)
    assert one == many
    assert one != digest(MLP, Threads(1), module__dropout=0.0), "it does draw"


def test_threads_refuse_a_net_that_draws_only_now_and_then():
    with pytest.raises(InputError, match=r"write engine=tutti\.Processes"):
        net(Moody, module__dropout=0.0, engine=Threads(3)).fit(*rows(MLP))


def test_without_exactness_each_worker_has_one_shard():
    made = net(MLP, exact=False, engine=Threads(2)).fit(*rows(MLP))
    assert made.plan_.n_shards == 2
    assert "the bits depend on the number of workers" in made.plan_.reason


@pytest.mark.thorough
def test_sparse_rows_and_files_give_the_bits_of_arrays(tmp_path):
    x, y = rows(MLP, n=200)
    x = np.where(np.abs(x) > 0.5, x, 0).astype(np.float32)
    expected = net(MLP).fit(x, y)
    sparse = net(MLP).fit(scipy.sparse.csr_array(x), y)
    assert sparse.report_.sha256 == expected.report_.sha256
    np.testing.assert_array_equal(sparse.predict(scipy.sparse.csr_array(x)), expected.predict(x))
    table = {f"f{j}": x[:, j] for j in range(20)} | {"y": y}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    read = net(MLP).fit(tutti.read_parquet(str(tmp_path / "rows.parquet")))
    assert read.report_.sha256 == expected.report_.sha256
    np.testing.assert_array_equal(read.predict(tutti.read_parquet(str(tmp_path / "rows.parquet"))), expected.predict(x))


@pytest.mark.thorough
def test_streamed_rows_have_the_same_bits_for_any_number_of_workers(tmp_path):
    x, y = rows(MLP, n=400)
    table = pyarrow.table({f"f{j}": x[:, j] for j in range(20)} | {"y": y})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=30)
    data = tutti.read_parquet(str(tmp_path / "rows.parquet")).cached(None)
    one, three = (net(MLP, engine=Threads(n), validation=0.2).fit(data).report_.sha256 for n in (1, 3))
    assert one == three


def lazy():
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))


def test_a_fit_leaves_torch_as_it_was_and_owes_it_nothing():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = {kind: net(kind).fit(*rows(MLP)).report_.sha256 for kind in (MLP, lazy)}
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    torch.rand(7)
    assert first == {kind: net(kind).fit(*rows(MLP)).report_.sha256 for kind in (MLP, lazy)}
    torch.set_rng_state(state)
