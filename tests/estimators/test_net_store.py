"""A net as a folder: it predicts and goes on like the one that was saved, and brings no code."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import CNN, MLP, rows  # noqa: E402
from tutti.errors import InputError, ModelError, ParameterError  # noqa: E402
from tutti.estimators._net_store import LeftOut  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier, NeuralNetRegressor  # noqa: E402
from tutti.learners.module import _layers  # noqa: E402
from tutti.learners.module.layers import Layers  # noqa: E402

nn = torch.nn


def net(module, **params):
    return NeuralNetClassifier(module, **{"batch_size": 100, "epochs": 2, "random_state": 0, **params})


def dense():
    return nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def images():
    features = nn.Sequential()
    features.add_module("conv", nn.Conv2d(1, 4, 3, padding="same"))
    features.add_module("pool", nn.MaxPool2d(2))
    return nn.Sequential(features, nn.GELU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def flipped(x, generator):
    return x.flip(0)


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", [{"optimizer": "adamw"}, {"optimizer": "sgd", "optimizer__momentum": 0.9}])
@pytest.mark.parametrize("kind, brought", [(MLP, MLP), (CNN, CNN), (dense, None), (images, None)])
def test_a_loaded_net_predicts_and_goes_on_like_the_saved_one(kind, brought, optimizer, tmp_path):
    x, y = rows(CNN if kind in (CNN, images) else MLP)
    y = np.array(["red", "green", "blue"])[y]
    options = {"lr_schedule": "cosine", "lr": 0.01, "param_groups": {"*bias": {"weight_decay": 0.0}}, **optimizer}
    made = net(kind, validation=0.1, **options).fit(x, y)
    made.save(tmp_path / "net")
    loaded = tutti.load(tmp_path / "net", module=brought)
    np.testing.assert_array_equal(loaded.decision_function(x), made.decision_function(x))
    assert loaded.predict(x).tolist() == made.predict(x).tolist()
    assert loaded.classes_.dtype == made.classes_.dtype
    assert loaded.history_ == made.history_
    assert (loaded.n_features_in_, loaded.n_iter_) == (made.n_features_in_, made.n_iter_)
    assert loaded.report_.sha256 == made.report_.sha256
    plain = {k: v for k, v in made.get_params().items() if k != "module"}
    assert {k: v for k, v in loaded.get_params().items() if k != "module"} == plain
    for _ in range(2):
        made.partial_fit(x, y)
        loaded.partial_fit(x, y)
    assert loaded.report_.sha256 == made.report_.sha256
    again = [m.set_params(warm_start=True, epochs=1).fit(x, y).report_.sha256 for m in (made, loaded)]
    assert again[0] == again[1]


def test_a_new_fit_of_loaded_layers_has_the_bits_of_the_first(tmp_path):
    made = net(dense).fit(*rows(MLP))
    made.save(tmp_path / "net")
    assert tutti.load(tmp_path / "net").fit(*rows(MLP)).report_.sha256 == made.report_.sha256


def test_a_loaded_net_can_be_saved_again(tmp_path):
    made = net(dense).fit(*rows(MLP))
    made.save(tmp_path / "a")
    tutti.load(tmp_path / "a").save(tmp_path / "b")
    assert tutti.load(tmp_path / "b").report_.sha256 == made.report_.sha256
    names = ("model.json", "model.safetensors")
    assert (tmp_path / "a" / names[1]).read_bytes() == (tmp_path / "b" / names[1]).read_bytes()
    assert sorted(f.name for f in (tmp_path / "b").iterdir()) == sorted(names)


def test_a_module_class_gets_its_stored_options_and_an_instance_none(tmp_path):
    made = net(MLP, module__hidden=7).fit(*rows(MLP))
    made.save(tmp_path / "net")
    x = rows(MLP)[0]
    for brought in (MLP, MLP(hidden=7), lambda **options: MLP(**options)):
        loaded = tutti.load(tmp_path / "net", module=brought)
        np.testing.assert_array_equal(loaded.predict_proba(x), made.predict_proba(x))
    assert "module__hidden" not in tutti.load(tmp_path / "net", module=MLP(hidden=7)).get_params()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_regressor_of_one_layer_given_as_a_class_or_an_instance(dtype, tmp_path):
    x = rows(MLP)[0]
    made = NeuralNetRegressor(nn.Linear(20, 1).to(dtype), epochs=2, loss=nn.HuberLoss(delta=2.0)).fit(x, x[:, 0])
    made.save(tmp_path / "net")
    loaded = tutti.load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.predict(x), made.predict(x))
    assert loaded.loss.delta == 2.0
    made = NeuralNetRegressor(nn.Linear, module__in_features=20, module__out_features=1, epochs=1).fit(x, x[:, 0])
    made.save(tmp_path / "net")
    np.testing.assert_array_equal(tutti.load(tmp_path / "net").predict(x), made.predict(x))


def test_classes_of_torch_come_back_and_other_code_is_asked_for(tmp_path):
    x, y = rows(MLP)
    made = net(dense, optimizer=torch.optim.SGD, lr=0.1, loss=nn.CrossEntropyLoss(label_smoothing=0.1), augment=flipped,
               lr_schedule=torch.optim.lr_scheduler.StepLR, lr_schedule__step_size=5, log=tmp_path / "a.csv",
               checkpoint=tutti.Checkpoint(str(tmp_path / "kept")), engine=tutti.Threads(2)).fit(x, y)  # fmt: skip
    made.save(tmp_path / "net")
    loaded = tutti.load(tmp_path / "net")
    assert loaded.optimizer is torch.optim.SGD
    assert loaded.lr_schedule is torch.optim.lr_scheduler.StepLR
    assert loaded.loss.label_smoothing == 0.1
    assert (loaded.engine, loaded.checkpoint, loaded.log) == (made.engine, None, None), "where it wrote stays behind"
    assert loaded.augment == LeftOut("tests.estimators.test_net_store:flipped")
    np.testing.assert_array_equal(loaded.predict(x), made.predict(x))
    with pytest.raises(ParameterError, match=r"test_net_store:flipped, which is code .*set_params\(augment=\.\.\.\)"):
        loaded.fit(x, y)
    loaded.set_params(augment=flipped).partial_fit(x, y)
    assert loaded.report_.sha256 == made.partial_fit(x, y).report_.sha256


# what may be described


ZOO = [
    nn.Linear(3, 4, bias=False), nn.Bilinear(2, 3, 4), nn.Conv1d(2, 4, 3, stride=2, groups=2, bias=False),
    nn.Conv2d(1, 2, (3, 5), padding=(1, 2), padding_mode="circular"), nn.ConvTranspose2d(2, 1, 3, output_padding=0),
    nn.BatchNorm2d(4, momentum=None, affine=False), nn.InstanceNorm1d(3, affine=True), nn.GroupNorm(2, 4, eps=1e-3),
    nn.LayerNorm((3, 4), elementwise_affine=False), nn.LayerNorm(4, bias=False), nn.RMSNorm(4),
    nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool1d(3), nn.AdaptiveAvgPool2d((1, None)), nn.Dropout2d(0.3),
    nn.Embedding(10, 3, padding_idx=0), nn.EmbeddingBag(10, 3, mode="sum"), nn.Flatten(2), nn.Unflatten(1, (2, 3)),
    nn.PReLU(3, init=0.1), nn.LeakyReLU(0.2, inplace=True), nn.GELU("tanh"), nn.Softmax(dim=1), nn.Hardtanh(-2.0, 2.0),
    nn.Softplus(2.0), nn.ELU(0.5), nn.Identity(), nn.Tanh(), nn.Upsample(scale_factor=2.0, mode="nearest"),
    nn.PixelShuffle(2), nn.ZeroPad2d(1),
]  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("layer", ZOO, ids=repr)
def test_a_layer_is_described_and_made_again(layer):
    found = json.loads(json.dumps(_layers.describe(layer)))
    again = Layers(found)()
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())


def hooked():
    module = dense()
    module[0].register_forward_hook(lambda m, i, o: o * 2)
    return module


def frozen():
    module = dense()
    module[0].weight.requires_grad_(False)
    return module


def tied():
    module = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 3))
    module[1].weight = module[0].weight
    return module


def patched():
    module = dense()
    module[2].forward = torch.tanh
    return module


def reparametrised():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(20, 3)))


class Mine(nn.Linear):
    pass


MORE = [hooked, frozen, tied, patched, lambda: nn.Sequential(Mine(20, 3)), MLP]


@pytest.mark.thorough
@pytest.mark.parametrize("make", MORE, ids=lambda f: f.__name__)
def test_what_is_more_than_torchs_layers_has_to_be_brought(make, tmp_path):
    made = net(make).fit(*rows(MLP))
    made.save(tmp_path / "net")
    with pytest.raises(ModelError, match=r"its module is code \(tests\.estimators\..*write tutti\.load\(path, module="):
        tutti.load(tmp_path / "net")
    x = rows(MLP)[0]
    np.testing.assert_array_equal(tutti.load(tmp_path / "net", module=make).predict(x), made.predict(x))


def test_a_reparametrised_layer_cannot_travel_and_that_is_said():
    assert _layers.describe(reparametrised()) is None
    with pytest.raises(InputError, match="the module cannot be copied for the workers"):
        net(reparametrised).fit(*rows(MLP))


# folders that lie or are damaged


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    made = net(dense).fit(*rows(MLP))
    made.save(tmp_path_factory.mktemp("saved") / "net")
    net(MLP).fit(*rows(MLP)).save(tmp_path_factory.getbasetemp() / "mlp")
    return made


@pytest.fixture
def folder(saved, tmp_path):
    saved.save(tmp_path / "net")
    return tmp_path / "net"


def rewrite(folder, change):
    header = json.loads((folder / "model.json").read_text())
    change(header)
    (folder / "model.json").write_text(json.dumps(header))


def layers_of(header):
    return header["layers"]["params"]["layers"]["layers"]


LIES = [
    ("another layer", lambda h: layers_of(h)[0].update(out_features=17), "do not fit the layers"),
    ("a huge layer", lambda h: layers_of(h)[0].update(out_features=10**13), "do not fit the layers"),
    ("no layer of torch", lambda h: layers_of(h)[0].update(type="Popen"), r"layers\.layers\[0\]\.type='Popen'"),
    ("an argument too many", lambda h: layers_of(h)[0].update(device="cuda"), "device='cuda'"),
    ("a class of elsewhere", lambda h: h["params"].update(optimizer={"object": "Torch", "params": {"name": "os.kill"}}),
     "none of torch's classes"),
    ("a class of torch", lambda h: h["params"].update(optimizer={"object": "Torch", "params": {"name": "hub.load"}}),
     "none of torch's classes"),
    ("no parameter", lambda h: h["params"].update(hidden=3), "has no parameter 'hidden'"),
    ("no nested parameter", lambda h: h["params"].update(x__y=3), "has no parameter 'x__y'"),
    ("no classes", lambda h: h.update(classes=None), "the classes of the model do not fit together"),
    ("a buffer", lambda h: h.update(moving=["5.running"]), "the module has no buffer '5.running'"),
    ("no fields", lambda h: h.pop("fields"), "not what save writes"),
    ("no layers", lambda h: h.pop("layers"), "not what save writes"),
    ("a place to write to", lambda h: h["params"].update(log="precious.csv"), "a matter of the run"),
    ("of the future", lambda h: h.update(format_version=2, tutti_version="9"), "format 2; .*upgrade tutti"),
]  # fmt: skip


@pytest.mark.parametrize("change, message", [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_header_that_lies_is_caught(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ModelError, match=message):
        tutti.load(folder)


def test_a_truncated_file_and_a_flipped_bit_are_noticed(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged: its SHA-256"):
        tutti.load(folder)
    os.truncate(file, len(data) - 4)
    with pytest.raises(ModelError, match=rf"is truncated: {len(data) - 4} bytes, expected {len(data)}"):
        tutti.load(folder)


def test_nothing_that_a_folder_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_nets.py").write_text("raise SystemExit('code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    net(MLP).fit(*rows(MLP)).save(tmp_path / "net")
    code = {"object": "LeftOut", "params": {"name": "evil_nets:Net"}}
    rewrite(tmp_path / "net", lambda h: h["params"].update(module=code, augment=code, optimizer=code))
    with pytest.raises(ModelError, match="its module is code"):
        tutti.load(tmp_path / "net")
    assert tutti.load(tmp_path / "net", module=MLP).predict(rows(MLP)[0]).shape == (1003,)
    assert "evil_nets" not in sys.modules


WRONG = [
    (
        lambda **o: MLP(hidden=9),
        ModelError,
        r"is float32 \(.*9.*\) in the module and float32 \(.*32.*\) in",
    ),
    (CNN, ModelError, "this is another module"),
    (lambda: MLP().double(), ModelError, r"is float64 \(.*\) in the module and float32"),
    (3, ParameterError, "write a torch.nn.Module, its class"),
    (lambda width: MLP(width), ModelError, "the module cannot be made with"),
]


@pytest.mark.parametrize("module, kind, message", WRONG, ids=["shapes", "names", "dtype", "no module", "arguments"])
def test_another_module_is_refused(module, kind, message, saved, tmp_path_factory):
    with pytest.raises(kind, match=message):
        tutti.load(tmp_path_factory.getbasetemp() / "mlp", module=module)


def test_a_linear_model_has_no_module(tmp_path):
    x, y = rows(MLP)
    tutti.LogisticRegression().fit(x, y).save(tmp_path / "linear")
    with pytest.raises(ParameterError, match="a LogisticRegression has no module"):
        tutti.load(tmp_path / "linear", module=MLP)


def test_a_module_that_keeps_more_than_arrays_is_not_saved(tmp_path):
    class Diary(MLP):
        def get_extra_state(self):
            return {"dear": "diary"}

        def set_extra_state(self, state):
            pass

    made = net(Diary).fit(*rows(MLP))
    with pytest.raises(InputError, match="the module keeps '_extra_state', a dict"):
        made.save(tmp_path / "net")
