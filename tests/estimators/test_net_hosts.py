"""Nets over several hosts: the bits of one host, from plain values alone; workers in which no pickle can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.engines.conftest import Company  # noqa: E402
from tests.estimators.nets import CNN, MLP  # noqa: E402
from tutti.errors import InputError  # noqa: E402
from tutti.learners.module.recipe import plain  # noqa: E402

NO_PICKLES = """
import pickle

def refuse(*_, **__):
    raise SystemError("a pickle was read in a worker")

class Refusing:
    __init__ = refuse

pickle.load = pickle.loads = pickle._load = pickle._loads = refuse
pickle.Unpickler = pickle._Unpickler = Refusing
"""
X = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((120, 1, 8, 8)).astype(np.float32)


def labels(x: np.ndarray) -> np.ndarray:
    return np.digitize(x.reshape(len(x), -1)[:, :3].sum(axis=1), [-0.5, 0.5])


def squares(module: Any, batch: Any) -> Any:
    """A loss of (module, batch)."""
    return (module(batch["x"]).sum(dim=1) - batch["x"].sum(dim=1)) ** 2


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    (tmp_path / "sitecustomize.py").write_text(NO_PICKLES)
    made = Company(tmp_path)
    made.environment = {"PYTHONPATH": str(tmp_path)}
    yield made
    made.close()


def layers() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


@pytest.mark.thorough
def test_nets_have_the_bits_of_one_host_and_no_pickle_is_read(company: Company) -> None:
    engine = company.engine(2, workers=(1, 1), timeout_seconds=20.0)
    torch.manual_seed(0)
    cases: list[tuple[Any, np.ndarray, dict[str, Any]]] = [
        (layers(), X, {"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)}),
        (MLP, X, {"module__hidden": 8, "optimizer": torch.optim.RMSprop, "optimizer__alpha": 0.9}),
        (CNN, IMAGES, {"lr_schedule": "cosine", "warmup_steps": 2, "param_groups": {"head.*": {"lr": 0.1}}}),
    ]
    for module, x, params in cases:
        given = {"epochs": 2, "batch_size": 64, "random_state": 0, **params}
        one = tutti.NeuralNetClassifier(module, engine=tutti.Threads(1), **given).fit(x, labels(x))
        two = tutti.NeuralNetClassifier(module, engine=engine, **given).fit(x, labels(x))
        assert two.report_.sha256 == one.report_.sha256
        assert len(two.report_.ranks) == 2


@pytest.mark.thorough
def test_a_loss_of_ones_own_goes_by_its_name(company: Company) -> None:
    engine = company.engine(2, workers=(2,), timeout_seconds=20.0)
    module, given = layers(), {"epochs": 2, "batch_size": 64, "random_state": 0}
    one = tutti.train(module, squares, X, engine=tutti.Threads(1), **given)
    two = tutti.train(module, squares, X, engine=engine, **given)
    assert two.report.sha256 == one.report.sha256


@pytest.mark.thorough
def test_a_worker_of_this_test_cannot_read_a_pickle(company: Company) -> None:
    from tutti.errors import RankError
    from tutti.protocols import Program
    from tutti.testing.engine import plan

    engine = company.engine(1, workers=(1,))
    with pytest.raises(RankError, match="a pickle was read in a worker"):
        engine.launch(Program("tests.estimators.test_net_hosts:read_a_pickle"), plan(1)).results()


def read_a_pickle(context: Any) -> None:
    import pickle

    pickle.loads(pickle.dumps(context.seat.rank))


def test_what_has_no_importable_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    engine = tutti.Hosts(2, token_file=str(tmp_path / "token"))

    class Local(MLP):
        pass

    shared = layers()
    shared[2].weight = torch.nn.Parameter(torch.zeros(3, 16))
    shared[2].register_forward_hook(lambda *_: None)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (Local, {}, "module=.*Local cannot be sent to other hosts"),
        (shared, {}, "module=Sequential cannot be sent to other hosts"),
        (lambda: layers(), {}, "module=.*lambda.* cannot be sent"),
        (layers(), {"augment": lambda x, generator: x}, "augment=.* cannot be sent"),
    ]
    for module, params, reason in refused:
        with pytest.raises(InputError, match=reason):
            tutti.NeuralNetClassifier(module, engine=engine, epochs=1, **params).fit(X, labels(X))
    assert not list(tmp_path.iterdir())


def test_plain_values_name_what_can_be_imported() -> None:
    assert plain(MLP, "module").path == "tests.estimators.nets:MLP"
    assert plain("adam", "optimizer") == "adam"
    assert plain(layers(), "module").layers["type"] == "Sequential"
