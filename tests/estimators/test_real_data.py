"""Nets learn from real data, on the same way for any number of workers; Keras models are modules."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.estimators.nets import MLP  # noqa: E402
from tutti.engines.processes import Processes  # noqa: E402
from tutti.engines.threads import Threads  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402

nn = torch.nn
ROOT = Path(__file__).resolve().parents[2]
FASHION = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
"""Where Debian's package dataset-fashion-mnist puts its files; the variable names another folder."""


@pytest.mark.thorough
def test_the_curve_of_the_digits_is_the_same_for_any_number_of_workers():
    x, y = load_digits(return_X_y=True)
    curves = []
    for engine in (Threads(1), Threads(3), Processes(2)):
        net = NeuralNetClassifier(MLP, module__d=64, module__k=10, epochs=6, validation=0.2, engine=engine,
                                  batch_size=64, lr=5e-3)  # fmt: skip
        history = net.fit((x / 16).astype(np.float32), y).history_
        curves.append([{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history])
    assert curves[0] == curves[1] == curves[2]
    assert curves[0][-1]["valid_accuracy"] > 0.85


def idx(name, skip, *shape):
    """The bytes of one of the gzipped files, whose head is ``skip`` bytes long."""
    return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, offset=skip).reshape(-1, *shape)


def images():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not (FASHION / "train-images-idx3-ubyte.gz").exists(),
    reason=f"Fashion-MNIST is not in {FASHION}: install Debian's dataset-fashion-mnist, or set FASHION_MNIST",
)
def test_learns_fashion():
    x, y = idx("train-images-idx3-ubyte.gz", 16, 1, 28, 28), idx("train-labels-idx1-ubyte.gz", 8)
    test_x, test_y = idx("t10k-images-idx3-ubyte.gz", 16, 1, 28, 28), idx("t10k-labels-idx1-ubyte.gz", 8)
    net = NeuralNetClassifier(images, epochs=6, batch_size=128, lr=2e-3, lr_schedule="cosine", engine=Processes(2))
    net.fit((x / 255).astype(np.float32), y)
    assert net.score((test_x / 255).astype(np.float32), test_y) >= 0.90


KERAS = """
import json, sys
import keras, numpy as np, torch
from sklearn.datasets import load_digits
import tutti

x, y = load_digits(return_X_y=True)
x = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.2), keras.layers.Flatten(), keras.layers.Dense(10),
], name="digits")
found = {}
for engine in (tutti.Threads(1), tutti.Threads(3), tutti.Processes(2)):
    net = tutti.NeuralNetClassifier(model, epochs=10, batch_size=64, lr=5e-3, engine=engine, n_shards=4)
    net.fit(x[:1300], y[:1300])
    state = [t.numpy().tobytes().hex() for n, t in net.module_.state_dict().items() if "seed" not in n]
    found[repr(engine)] = [state, net.score(x[1300:], y[1300:]), [h["loss"] for h in net.history_]]
moved = any("moving_mean" in n and bool(t.any()) for n, t in net.module_.state_dict().items())
own = np.allclose(net.module_.predict(x[:9], verbose=0), net.decision_function(x[:9]), atol=1e-5)
print(json.dumps({"found": found, "moved": moved, "own": own, "keras": isinstance(net.module_, keras.Model)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is not installed")
def test_a_keras_model_is_a_module_and_has_the_same_bits_for_any_number_of_workers():
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KERAS], env=environment, capture_output=True, text=True, timeout=110,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len({json.dumps(v) for v in told["found"].values()}) == 1
    assert all(score > 0.9 for _, score, _ in told["found"].values())
    assert told["moved"], "batch-norm is told that it is trained"
    assert told["own"], "Keras predicts the same with the model that comes back"
    assert told["keras"]
