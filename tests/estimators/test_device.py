"""Nets on devices: where ranks compute, the path of a GPU, half precision, compiled nets, operations without a promise.

A GPU's path runs on the CPU too: told that its memory is not the host's, a net keeps everything apart and copies.  What
needs a real GPU is skipped where torch sees none.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch = pytest.importorskip("torch")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, Bag, Encoder, rows  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.errors import InputError, ParameterError, PlanError  # noqa: E402
from tutti.estimators import _net_plan  # noqa: E402
from tutti.estimators._net_plan import Where, device_of  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.learners.module import _device  # noqa: E402

nn = torch.nn
gpu = pytest.mark.skipif(not _device.n_gpus(), reason="torch sees no GPU here")
THOROUGH = pytest.mark.thorough
NETS = [MLP, *(pytest.param(kind, marks=THOROUGH) for kind in (CNN, Encoder, Bag))]


def net(kind, **params):
    settings = {"batch_size": 100, "epochs": 2, "random_state": 0, "verbose": 0, **params}
    return NeuralNetClassifier(kind, **settings)


def digest(kind, **params):
    return net(kind, **params).fit(*rows(kind)).report_.sha256


# ---- where ranks compute


@pytest.mark.parametrize(
    "device, engine, n_gpus, chosen",
    [
        ("auto", "auto", 0, "cpu"),
        ("auto", "auto", 2, "cuda"),
        ("auto", Processes(2), 1, "cuda"),
        ("auto", Threads(2), 1, "cpu"),
        ("cpu", "auto", 2, "cpu"),
        ("cuda", "auto", 1, "cuda"),
        ("cuda:1", "auto", 2, "cuda:1"),
    ],
)
def test_the_device_is_chosen_before_anything_starts(device, engine, n_gpus, chosen):
    assert device_of(device, engine, n_gpus) == chosen


@pytest.mark.parametrize(
    "device, n_gpus, kind, message",
    [
        ("gpu", 1, ParameterError, 'write "auto", "cpu", "cuda" or one GPU'),
        (0, 1, ParameterError, 'write "auto"'),
        ("cuda", 0, PlanError, "torch sees no GPU here; write device='cpu'"),
        ("cuda:2", 2, PlanError, r"torch sees 2 GPU\(s\): the last one is cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, n_gpus, kind, message):
    with pytest.raises(kind, match=message):
        device_of(device, "auto", n_gpus)


@pytest.mark.parametrize("device, devices", [("cuda", ["cuda:0", "cuda:1", "cuda:0"]), ("cuda:1", ["cuda:1"] * 3)])
def test_ranks_take_gpus_in_turn_and_the_plan_says_so(device, devices):
    where, made = Where(device, 2), net(MLP, engine=Threads(3), device="cpu").explain(*rows(MLP))
    plan = where.seated(made.plan)
    assert [seat.place.device for seat in plan.seats] == devices
    assert where.seated(made.plan).shard_rows == made.plan.shard_rows
    shown = type(made)(plan, made.schema, made.loss, made.tol, made.kept, made.goal)
    assert f", {devices[2]}: shards" in str(shown)
    assert [seat["device"] for seat in shown.to_dict()["plan"]["seats"]] == devices


def test_little_work_is_done_by_one_thread_and_much_by_processes():
    assert Where("cpu").engine("auto", None, 1e9) == Threads(1)
    assert Where("cpu").engine("auto", None, 1e13) == Processes()
    assert Where("cpu").engine(Threads(3), None, 1e9) == Threads(3)


def test_epochs_that_are_behind_a_net_are_no_work_to_come(monkeypatch):
    asked, engine = [], Where.engine
    monkeypatch.setattr(Where, "engine", lambda *args: asked.append(args[-1]) or engine(*args))
    made = net(MLP)
    for _ in range(3):
        made.partial_fit(*rows(MLP))
    made.set_params(epochs=5, warm_start=True).explain(*rows(MLP))
    assert asked == [asked[0]] * 3 + [5 * asked[0]]
    assert asked[0] > 0


def test_gpus_and_the_compiler_get_processes():
    schema = None
    assert Where("cuda", 2).engine("auto", schema, 1e15) == Processes(2)
    assert Where("cuda:1", 2).engine("auto", schema, 1e15) == Processes(1)
    assert Where("cpu", compiled=True).engine("auto", schema, 1e15) == Processes(None)
    assert Where("cpu").engine(Threads(2), schema, 1e15) == Threads(2)
    for where in (Where("cuda", 1), Where("cpu", compiled=True)):
        with pytest.raises(PlanError, match=r"write engine=tutti\.Processes"):
            where.engine(Threads(2), schema, 1e15)


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ParameterError, match=r"a CPU has no fast fp16 arithmetic.*write 'bf16'"):
        net(MLP, precision="fp16", device="cpu").fit(*rows(MLP))
    with pytest.raises(ParameterError, match="write one of 'float32', 'bf16', 'fp16'"):
        net(MLP, precision="half").fit(*rows(MLP))


@pytest.mark.skipif(_device.n_gpus() > 0, reason="torch sees a GPU here")
def test_a_fit_on_a_gpu_that_is_not_there_starts_no_worker():
    with pytest.raises(PlanError, match="torch sees no GPU here"):
        net(MLP, device="cuda").fit(*rows(MLP))
    with pytest.raises(PlanError, match="torch sees no GPU here"):
        tutti.train(MLP, lambda m, b: m(b["x"]).sum(1), rows(MLP)[0], device="cuda:0")


# ---- memory of its own, on the CPU


@pytest.fixture
def apart(monkeypatch):
    """Nets keep their memory apart from the host's, as on a GPU, though both lie in the same place."""
    made = []
    init = _device.Staged.__init__
    monkeypatch.setattr(_device, "shares_memory", lambda device: False)
    monkeypatch.setattr(_device.Staged, "__init__", lambda self, *a, **k: made.append(self) or init(self, *a, **k))
    return made


CASES = [
    {"optimizer": "sgd", "lr": 0.05, "optimizer__momentum": 0.9, "clip_norm": 0.5},
    {"optimizer": "adamw", "lr": 2e-3, "lr_schedule": "cosine", "validation": 0.2, "accumulate": 2},
    {"optimizer": "adagrad", "lr": 0.01, "epochs": 6, "validation": 0.3, "patience": 1, "precision": "bf16"},
]


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(CASES[0], id="sgd"),
        pytest.param(CASES[1], id="adamw", marks=THOROUGH),
        pytest.param(CASES[2], id="adagrad"),
    ],
)
def test_a_net_apart_from_the_host_has_its_bits(kind, case, request):
    x, y = rows(kind, n=403)
    weight = np.random.default_rng(0).integers(1, 4, len(y)).astype(float)
    host = net(kind, engine=Threads(1), **case).fit(x, y, weight)
    made = request.getfixturevalue("apart")
    for workers in (1, 3):
        found = net(kind, engine=Threads(workers), **case).fit(x, y, weight)
        assert found.report_.sha256 == host.report_.sha256
        assert found.history_[-1]["loss"] == host.history_[-1]["loss"]
    assert len(made) == 4


@pytest.mark.thorough
def test_what_is_written_by_a_net_apart_is_taken_up_on_the_host(tmp_path, request):
    options = {"optimizer": "adamw", "augment": noise, "class_weight": "balanced"}
    whole = digest(MLP, epochs=4, **options)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    made = request.getfixturevalue("apart")
    digest(MLP, epochs=2, checkpoint=kept, engine=Threads(2), **options)
    assert len(made) == 2
    longer = {"epochs": 4, "checkpoint": kept, "resume": True, **options}
    assert digest(MLP, engine=Threads(1), **longer) == whole
    for folder in tmp_path.glob("step-0000000[2-4]*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    request.getfixturevalue("monkeypatch").undo()
    assert digest(MLP, engine=Threads(3), **longer) == whole


def noise(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator, device=x.device)


def test_partial_fit_goes_on_apart_from_the_host(apart):
    made = net(MLP)
    for _ in range(2):
        made.partial_fit(*rows(MLP))
    assert made.report_.sha256 == digest(MLP, epochs=2)


# ---- half precision


def test_the_loss_scale_follows_torch():
    scaling = np.array([2.0, 0.0, 0.0])
    rule = torch.tensor(2.0), torch.tensor(0, dtype=torch.int32)
    for step in range(4500):
        fine = step not in (7, 2400)
        assert _device.next_scale(scaling, fine=fine) == fine
        torch._amp_update_scale_(*rule, torch.tensor(0.0 if fine else 1.0), 2.0, 0.5, 2000)
        assert scaling[:2].tolist() == [float(rule[0]), float(rule[1])]
    assert scaling[2] == 2
    with pytest.raises(InputError, match="the gradient is not finite in fp16, whatever its scale"):
        [_device.next_scale(scaling, fine=False) for _ in range(40)]


def test_an_overflow_leaves_out_the_step_of_every_rank(apart, monkeypatch, tmp_path):
    monkeypatch.setattr(_net_plan, "check_precision", lambda precision, device: None)
    x, y = rows(MLP, n=503)
    x = x * 30  # gradients times 65536 are beyond fp16
    options = {"precision": "fp16", "lr": 1e-3, "lr_schedule": "cosine", "epochs": 4}
    one, three = (net(MLP, engine=Threads(n), **options).fit(x, y) for n in (1, 3))
    assert one.report_.sha256 == three.report_.sha256
    assert one.history_[-1]["skipped_steps"] > 0
    assert one.history_[-1]["loss_scale"] == 65536 / 2 ** one.history_[-1]["skipped_steps"]
    assert one.history_[-1]["loss"] < one.history_[0]["loss"]
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    options = {"checkpoint": kept, "resume": True, **options}
    cut = net(MLP, **{**options, "augment": Cut(x.shape[1], 15)})
    with pytest.raises(Exception, match="cut short"):
        cut.fit(x, y)
    again = cut.set_params(augment=Cut(x.shape[1], 10**9), engine=Threads(2)).fit(x, y)
    assert again.report_.sha256 == one.report_.sha256
    assert again.history_[-1]["skipped_steps"] == one.history_[-1]["skipped_steps"]


class Cut:
    """Ends a training after some steps of eight shards."""

    def __init__(self, width, steps):
        self.left = 8 * steps

    def __call__(self, x, generator):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cut short")
        return x


# ---- operations without a promise


class Putting(MLP):
    """Places its outputs by `put_`, of which torch has no form that it calls deterministic."""

    def forward(self, x):
        out = super().forward(x)
        return torch.zeros_like(out).put(torch.arange(out.numel()), out)


def put(**params):
    return net(Putting, **params).fit(*rows(MLP)).report_.sha256


def test_an_operation_without_a_promise_is_named_once():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        one = put(engine=Threads(1))
    told = [str(w.message) for w in seen if "put" in str(w.message)]
    assert told == ["torch has no form of put_ that gives the same bits each time: they are not promised here"]
    with pytest.warns(RuntimeWarning, match="no form of put_"):
        assert put(engine=Threads(3)) == one, "on one thread of a CPU they are the same all the same"


def test_a_device_refuses_what_it_cannot_promise(apart):
    with pytest.warns(RuntimeWarning), pytest.raises(InputError, match=r"no form of put_ .*exact=False to train"):
        put(engine=Threads(1))
    with pytest.warns(RuntimeWarning):
        put(engine=Threads(1), exact=False)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_fit_leaves_torchs_choice_of_operations_as_it_was(mode):
    from torch.utils import deterministic

    filled = deterministic.fill_uninitialized_memory
    try:
        torch._C._set_deterministic_algorithms(mode > 0, warn_only=mode == 1)
        digest(MLP, engine=Threads(2), epochs=1)
        assert torch.get_deterministic_debug_mode() == mode
        assert deterministic.fill_uninitialized_memory == filled
    finally:
        torch._C._set_deterministic_algorithms(False, warn_only=False)


# ---- the compiler


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_fit_does_without_torchs_compiler(optimizer):
    code = "\n".join(
        [
            "import sys, numpy as np, torch, tutti",
            "net = tutti.NeuralNetClassifier(torch.nn.Linear(4, 2), optimizer=sys.argv[1], epochs=1, verbose=0)",
            "net.fit(np.ones((40, 4), np.float32), np.arange(40) % 2)",
            "print('torch._dynamo' in sys.modules)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code, optimizer], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.thorough
def test_without_a_compiler_a_compiled_net_is_refused():
    _device.load_compiler()
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": ("/no/such/compiler",)}),
        pytest.raises(ParameterError, match=r"torch found no C\+\+ compiler .*install one .*or write compile=False"),
    ):
        net(MLP, compile=True, device="cpu").fit(*rows(MLP))


@pytest.fixture
def compiler():
    try:
        _device.check_compiler("cpu")
    except ParameterError as error:
        pytest.skip(str(error))


class Told(MLP):
    """Gives something else where it is compiled."""

    def forward(self, x):
        out = super().forward(x)
        return 3 * out if torch.compiler.is_compiling() else out


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_compiled_net_has_the_same_bits_for_any_number_of_workers(compiler, tmp_path):
    options = {"compile": True, "validation": 0.2, "optimizer": "sgd", "lr": 0.05, "device": "cpu"}

    def fit(workers, **more):
        return net(Told, engine=Processes(workers), **options, **more).fit(*rows(MLP))

    one, two = fit(1), fit(2)
    assert one.report_.sha256 == two.report_.sha256
    assert type(one.module_) is Told
    assert one.module_._compiled_call_impl is None
    assert one.report_.sha256 != digest(MLP, **{**options, "compile": False}), "it is compiled"
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    fit(2, checkpoint=kept, epochs=1)
    assert fit(1, checkpoint=kept, resume=True).report_.sha256 == one.report_.sha256


# ---- a real GPU


@gpu
@pytest.mark.parametrize("kind", [MLP, CNN, Encoder, Bag])
def test_a_seed_decides_everything_on_a_gpu(kind):
    assert digest(kind, device="cuda:0") == digest(kind, device="cuda:0")


@gpu
@pytest.mark.parametrize("kind", [MLP, CNN, Encoder, Bag])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_workers_on_one_gpu_have_the_same_bits(kind, precision):
    one, two = (digest(kind, device="cuda:0", engine=Processes(n), precision=precision) for n in (1, 2))
    assert one == two
    assert not torch.cuda.is_initialized(), "CUDA starts in the workers alone"


@gpu
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_learns_the_digits_on_a_gpu(precision):
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    sizes = {"module__d": 64, "module__hidden": 256, "module__k": 10}
    made = net(MLP, **sizes, epochs=30, batch_size=64, device="cuda", precision=precision).fit(train_x, train_y)
    assert made.score(test_x, test_y) >= 0.97
    assert next(made.module_.parameters()).device.type == "cpu"


@gpu
def test_a_training_is_resumed_on_a_gpu_and_checkpoints_know_no_device(tmp_path):
    options = {"augment": noise, "lr_schedule": "cosine", "lr_schedule__T_max": 40, "validation": 0.2}
    whole = digest(CNN, device="cuda:0", epochs=4, **options)
    kept = tutti.Checkpoint(str(tmp_path), every_steps=5, every_minutes=None)
    digest(CNN, device="cuda:0", engine=Processes(2), epochs=2, checkpoint=kept, **options)
    options |= {"checkpoint": kept, "resume": True}
    assert digest(CNN, device="cuda:0", epochs=4, **options) == whole
    on_cpu = net(CNN, device="cpu", epochs=5, **options).fit(*rows(CNN))
    assert on_cpu.n_iter_ == 5 * 9
    assert np.isfinite(on_cpu.history_[-1]["loss"])


class Pooled(nn.Module):
    """Its pooling has no deterministic way back on a GPU."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.pool(self.conv(x)).flatten(1))


@gpu
def test_an_operation_without_a_promise_is_refused_on_a_gpu():
    with pytest.raises(InputError, match=r"adaptive_avg_pool2d.*exact=False to train without that promise"):
        net(Pooled, device="cuda:0").fit(*rows(CNN))
    net(Pooled, device="cuda:0", exact=False).fit(*rows(CNN))
