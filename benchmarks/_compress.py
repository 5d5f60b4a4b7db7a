"""One form of updates on one net, alone in its process; prints a JSON line.  Called by compress.py.

usage: python benchmarks/_compress.py FORM {mlp256,mlp} {shm,gloo} EPOCHS
"""

from __future__ import annotations

import json
import sys

import numpy as np
from _net import module as small
from _net import rows
from _overlap import module as large

import tutti

FORMS = {
    "none": None,
    "auto": "auto",
    "half": tutti.Half(),
    "brain": tutti.Half("bfloat16"),
    "int8": tutti.Int8(),
    "top1": tutti.TopK(0.01),
    "top5+int8": (tutti.TopK(0.05), tutti.Int8()),
    "top1+int8": (tutti.TopK(0.01), tutti.Int8()),
    "power2": tutti.PowerSGD(2),
}


def main() -> None:
    form, net, transport, epochs = sys.argv[1:]
    x, y = rows("mlp256") if net == "mlp256" else (a[:4096] for a in rows("mlp256"))
    shards, batch = (8, 256) if net == "mlp256" else (2, 1024)
    model = tutti.NeuralNetClassifier(
        (lambda: small("mlp256")) if net == "mlp256" else (lambda: large("mlp")),
        optimizer="sgd",
        optimizer__momentum=0.9,
        lr=0.05,
        batch_size=batch,
        epochs=int(epochs),
        n_shards=shards,
        engine=tutti.Processes(2, transport=transport, timeout_seconds=60),
        strategy=tutti.AllReduce(compress=FORMS[form]),
    ).fit(x, y)
    seconds = np.array([h["seconds"] for h in model.history_])
    steps = -(-len(x) // batch)
    sent = model.report_.sent_bytes / model.report_.rounds / 2
    row = {"ms": float(np.median(np.diff(seconds)) / steps * 1e3), "sent": sent, "notes": model.report_.notes}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
