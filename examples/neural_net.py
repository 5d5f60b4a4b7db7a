"""A small net with dropout and batch-norm on handwritten digits: the same weights with 1 and 2 workers."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tutti


def net() -> torch.nn.Module:
    """A small convolutional net for pictures of 8 x 8 points."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(32 * 4 * 4, 10),
    )


x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32").reshape(-1, 1, 8, 8)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)

for workers in (1, 2):
    model = tutti.NeuralNetClassifier(net, lr=3e-3, batch_size=128, epochs=20, engine=tutti.Processes(workers))
    model.fit(x_train, y_train)
    print(f"workers {workers}, accuracy {model.score(x_test, y_test):.4f}, sha256 {model.report_.sha256}")
