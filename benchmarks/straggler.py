"""Claim: a worker that is four times slower hardly holds a synchronous step, without a bit changed.

usage: python benchmarks/straggler.py [--repeats 3]        needs torch (extra [torch])
Two processes of one thread train a dense net (784-256-128-10, batch 256, 8 shards); one of them sleeps three times its
own computing time.  Seconds of a step where shards are dealt in advance, over those where they are claimed by whoever
is free, in turn.  Goals: 1.7 times faster with the straggler, at most 3 % slower without.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import numpy as np
from _common import header, median, net_options, save


def module(slow: str | None) -> Any:
    """Return a net that is slow in the first process that runs it, where ``slow`` names a file to tell by."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()
            self.layers = torch.nn.Sequential(*sizes, torch.nn.Linear(128, 10))
            self.slow, self.caller = slow, os.getpid()
            self.since: float | None = None
            self.first: bool | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.slow is not None and self.training and self.is_slow():
                now = time.thread_time()
                time.sleep(3 * (now - self.since) if self.since is not None else 0.0)
                self.since = time.thread_time()
            return self.layers(x)

        def is_slow(self) -> bool:
            if self.first is None and os.getpid() != self.caller:
                try:
                    os.close(os.open(self.slow, os.O_CREAT | os.O_EXCL))
                    self.first = True
                except FileExistsError:
                    self.first = False
            return bool(self.first)

    return Net()


def fit(slow: bool, claim: bool, engine: Any, epochs: int = 6) -> tuple[float, str]:
    """Return (ms a step after the first two epochs, hash of the model)."""
    import tutti

    r = np.random.default_rng(1)
    x, y = r.random((8192, 784), dtype=np.float32), r.integers(0, 10, 8192)
    with tempfile.TemporaryDirectory() as folder:
        model = tutti.NeuralNetClassifier(
            module(f"{folder}/slow" if slow else None),
            optimizer="sgd",
            lr=0.05,
            optimizer__momentum=0.9,
            epochs=epochs,
            strategy=tutti.AllReduce(claim=claim),
            engine=engine,
        ).fit(x, y)
    first, last = model.history_[1], model.history_[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"]) * 1e3, model.report_.sha256


def main() -> None:
    given = net_options(__doc__, 3)
    import torch

    import tutti

    torch.set_num_threads(1)
    engine = tutti.Processes(2)
    fit(False, True, engine, 3)
    hashes = {fit(False, True, tutti.Processes(1))[1]}
    found: dict[tuple[bool, bool], list[float]] = {}
    for _ in range(given.repeats):
        for slow in (False, True):
            for claim in (False, True):
                ms, sha = fit(slow, claim, engine)
                found.setdefault((slow, claim), []).append(ms)
                hashes.add(sha)
    ms = {key: median(values) for key, values in found.items()}
    lines = [header(), "", f"{'ms a step':28}{'dealt':>10}{'claimed':>10}"]
    lines += [
        f"{'one of two four times slower' if s else 'no straggler':28}{ms[s, False]:10.2f}{ms[s, True]:10.2f}"
        for s in (False, True)
    ]
    gain, cost = ms[True, False] / ms[True, True], ms[False, True] / ms[False, False] - 1
    same = "the same bits as one worker" if len(hashes) == 1 else "DIFFERENT BITS"
    lines += ["", f"with a straggler {gain:.2f}x faster (goal 1.7x), without {cost:+.1%} (goal +3 %), {same}"]
    print(lines[-1])
    save("straggler", "\n".join(lines))


if __name__ == "__main__":
    main()
