"""A strategy of ours learns digits on two hosts, as _slow_ddp.py does; prints a JSON line an epoch.  See slow_link.py.

usage: python benchmarks/_slow_ours.py STRATEGY ADDRESS TOKEN_FILE EPOCHS         first prints that workers may join
No loss is taken while the clock runs: the same bits are trained once more on one thread, and judged after each epoch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from _slow_ddp import BATCH, LR, digits, loss_of, module

import tutti

STRATEGIES: dict[str, Callable[[], Any]] = {  # a row of the result each
    "AllReduce": lambda: tutti.AllReduce(),
    "Int8": lambda: tutti.AllReduce(compress=tutti.Int8()),
    "TopK + Int8": lambda: tutti.AllReduce(compress=(tutti.TopK(0.05), tutti.Int8())),
    "LocalSGD 16": lambda: tutti.LocalSGD(16, "nesterov"),
    "LocalSGD 16 + Int8": lambda: tutti.LocalSGD(16, "nesterov", compress=tutti.Int8()),
}


def net(strategy: str, engine: Any, epochs: int) -> Any:
    settings: dict[str, Any] = {"optimizer": "adamw", "lr": LR, "batch_size": BATCH, "n_shards": 2, "random_state": 0}
    return tutti.NeuralNetClassifier(
        module(), strategy=STRATEGIES[strategy](), engine=engine, epochs=epochs, **settings
    )


def main(strategy: str, address: str, token_file: str, epochs: int) -> None:
    torch.set_num_threads(1)
    engine = tutti.Hosts(2, listen=address, token_file=token_file, local=1)
    engine.open()
    print(json.dumps({"listens": address}), flush=True)
    x, y = digits()
    net(strategy, engine, 1).fit(x, y)  # what starts up with a first fit is not on the clock, as it is not on DDP's
    fitted = net(strategy, engine, epochs).fit(x, y)
    for epoch, told in enumerate(fitted.history_, 1):
        again = net(strategy, tutti.Threads(1), epoch).fit(x, y)
        loss = loss_of(again.module_, torch.from_numpy(x), torch.from_numpy(y))
        print(json.dumps({"seconds": told["seconds"], "loss": loss}), flush=True)
    assert again.report_.sha256 == fitted.report_.sha256, "what was judged is not what was trained"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
