"""Features that nobody labelled: an autoencoder learns from all digits, a classifier from its code of a few of them."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import tutti

LABELS, DRAWS = 50, 10


class Autoencoder(torch.nn.Module):
    """64 points of a picture to 256 features, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(64, 64, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
        )
        self.decoder = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def undo_a_shift(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Give back the picture from one that was moved by up to a point: the squared error of each row."""
    x = batch["x"]
    down, right = torch.randint(-1, 2, (2,)).tolist()
    moved = torch.roll(x.view(-1, 8, 8), (down, right), dims=(1, 2)).reshape(len(x), 64)
    return ((module(moved) - x) ** 2).mean(dim=1)


def accuracy(train: np.ndarray, test: np.ndarray) -> float:
    """Return what a linear classifier of a few labelled rows gets right, at its best C; mean over draws of the few."""
    found = {C: [] for C in (0.1, 1.0, 10.0, 100.0)}
    for seed in range(DRAWS):
        few, _ = train_test_split(np.arange(len(train)), train_size=LABELS, random_state=seed, stratify=y_train)
        for C, scores in found.items():
            model = LogisticRegression(C=C, max_iter=5000).fit(train[few], y_train[few])
            scores.append(model.score(test, y_test))
    return float(max(np.mean(scores) for scores in found.values()))


x, y = load_digits(return_X_y=True)
x = (x / 16).astype(np.float32)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
trained = tutti.train(Autoencoder, undo_a_shift, x_train, lr=2e-3, epochs=60, batch_size=128, engine=tutti.Threads(2))
print(f"squared error {trained.history[0]['loss']:.4f} -> {trained.history[-1]['loss']:.4f}")

with torch.no_grad():
    code, code_test = (trained.module.encoder(torch.from_numpy(a)).numpy() for a in (x_train, x_test))
code, code_test = (a / (code.std(axis=0) + 1e-6) for a in (code, code_test))
for name, train, test in (("points", x_train, x_test), ("code", code, code_test)):
    print(f"a linear classifier with {LABELS} labels, from the {name}: accuracy {accuracy(train, test):.3f}")
