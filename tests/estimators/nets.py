"""Small nets and data for the tests of neural nets; a module of its own, so that workers can import the classes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class MLP(nn.Module):
    def __init__(self, d=20, hidden=32, k=3, dropout=0.2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, k))

    def forward(self, x):
        return self.layers(x)


class CNN(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * 4 * 4, k)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


class Encoder(nn.Module):
    def __init__(self, k=3, width=16):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.1, batch_first=True)
        self.embed = nn.Linear(5, width)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, k)

    def forward(self, x):
        return self.head(self.norm(self.encoder(self.embed(x)).mean(dim=1)))


class Bag(nn.Module):
    def __init__(self, words=50, k=3):
        super().__init__()
        self.bag = nn.EmbeddingBag(words, 16, mode="mean")
        self.head = nn.Linear(16, k)

    def forward(self, x):
        return self.head(self.bag(x))


def wide():
    """A net of which one layer gives rows instead of a gradient for each shard, and others do not."""
    torch.manual_seed(3)
    dense = nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128), nn.ReLU()
    return nn.Sequential(*dense, nn.Linear(128, 3))


def conv():
    """A net of convolutions whose shards go together."""
    torch.manual_seed(3)
    first = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, bias=False)
    return nn.Sequential(*first, nn.ReLU(), nn.Flatten(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 3))


class Deep(nn.Module):
    """A net of 2 MB, of which some travel while others are computed, with a parameter that gets no gradient."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(20, 512), nn.ReLU(), nn.Dropout(dropout))
        self.unused = nn.Parameter(torch.ones(70))
        self.rest = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3))

    def forward(self, x):
        return self.rest(self.first(x))


class Twice(Deep):
    """A net with a backward pass inside the backward pass, so that a weight's gradient is accumulated twice."""

    def __init__(self):
        super().__init__(dropout=0.0)

    def forward(self, x):
        h = self.first(x)
        for _ in range(2):
            h = torch.utils.checkpoint.checkpoint(self.rest[:2], h, use_reentrant=True)
        return self.rest(h)


def big_conv(norm=nn.Identity):
    """A net of 2 MB of convolutions whose shards go together, unless they are normalised."""
    torch.manual_seed(3)
    first = nn.Conv2d(1, 128, 3), norm(128), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(128, 224, 3), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(224, 896, 1), nn.ReLU(), nn.Flatten(), nn.Linear(896, 3))


def big_norm():
    return big_conv(nn.BatchNorm2d)


def rows(kind, n=1003, k=3, seed=5):
    """Return (x, y) that fits a net of the kind."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    if kind is Bag:
        return rng.integers(0, 50, (n, 12)) // (1 + y[:, None]), y
    images = dict.fromkeys((CNN, conv, big_conv, big_norm), (1, 8, 8))
    shape = {**images, Encoder: (6, 5)}.get(kind, (20,))
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    return x + 0.8 * y.reshape(-1, *[1] * len(shape)).astype(np.float32), y


class Recorder(torch.optim.Optimizer):
    """An optimizer that keeps the gradients it is given, and moves nothing."""

    seen = []  # noqa: RUF012

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr})

    def step(self):
        Recorder.seen.append(
            [None if p.grad is None else p.grad.clone() for g in self.param_groups for p in g["params"]]
        )
