"""Claim: ``compress=`` sends far less over a slow link, learns as well, and "auto" costs nothing on shared memory.

usage: python benchmarks/compress.py [--repeats 3] [--parts codes digits auto link] [--links loopback 1gbit 100mbit]
codes: GB of updates encoded and decoded a second by one core, and bytes of a million numbers.
digits: loss of the last epoch and accuracy on rows not seen, 64-64-10, AdamW, 40 epochs, mean of 3 seeds.
auto: ms a step of 784-256-128-10, batch 256, 8 shards, two processes in shared memory, with and without "auto":
runs in pairs, each right after the other and the order changed every time; the median of the pairs' ratios.
link: ms a step of 784-1024-1024-1024-10 (11.7 MB), batch 1,024, 2 shards, two processes over gloo; a link other than
loopback is a loopback interface held to that rate for both directions together (root, Linux).     needs torch
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable

import numpy as np
from _common import alone, header, median, medians, save, spread, within


def codes(repeats: int) -> list[str]:
    from _compress import FORMS

    n = 4_000_000
    v = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    lines = [f"{'codes':12}{'encode':>10}{'decode':>10}{'bytes of 10^6':>16}      GB of updates a second, one core"]

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(3 * repeats):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return v.nbytes / 1e9 / min(times[1:])

    for name, form in FORMS.items():
        if form in (None, "auto") or name == "power2":
            continue
        first, *then = form if isinstance(form, tuple) else (form,)
        payload, kept, out = np.zeros(first.n_bytes(n, v.dtype, then), np.uint8), v.copy(), v.copy()

        def encode(first=first, then=then, payload=payload, kept=kept) -> None:
            kept += v  # what an exchange does, too
            first.encode(kept, payload, then)

        encode()
        into = best(encode)
        back = best(lambda first=first, then=then, payload=payload, out=out: first.decode(payload, out, then))
        lines.append(f"{name:12}{into:10.2f}{back:10.2f}{first.n_bytes(1_000_000, v.dtype, then):16,}")
    return lines


def digits() -> list[str]:
    import torch
    from _compress import FORMS
    from sklearn.datasets import load_digits
    from torch import nn

    import tutti

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    lines = [f"{'digits':12}{'loss':>10}{'accuracy':>10}"]
    for name, form in FORMS.items():
        if form == "auto":
            continue
        found = []
        for seed in range(3):
            model = tutti.NeuralNetClassifier(
                net, lr=0.005, epochs=40, batch_size=100, n_shards=4, random_state=seed,
                engine=tutti.Threads(1), strategy=tutti.AllReduce(compress=form),
            ).fit(x[:1400], y[:1400])  # fmt: skip
            found.append((model.history_[-1]["loss"], model.score(x[1400:], y[1400:])))
        loss, accuracy = np.mean(found, axis=0)
        lines.append(f"{name:12}{loss:10.4f}{accuracy:10.4f}")
    return lines


def auto(repeats: int) -> list[str]:
    pairs: list[dict[str, float]] = []
    for repeat in range(repeats):
        pair: dict[str, float] = {}
        for form in ("none", "auto") if repeat % 2 == 0 else ("auto", "none"):
            for row in alone("_compress.py", form, "mlp256", "shm", "25"):
                pair[form] = row["ms"]
        if len(pair) == 2:
            pairs.append(pair)
    more = [100 * (pair["auto"] / pair["none"] - 1) for pair in pairs]
    none, own = (median([pair[form] for pair in pairs]) for form in ("none", "auto"))
    return [
        f"{'auto':12}{none:10.3f}{own:10.3f}      ms a step without and with, {median(more):+.1f} %; "
        f"{len(more)} pairs from {spread(more, 1)} %"
    ]


def links(names: list[str], repeats: int) -> list[str]:
    lines = [f"{'link':12}{'form':12}{'ms a step':>10}{'kB a rank':>12}"]
    for link in names:
        plain = 0.0
        for form in ("none", "half", "int8", "top5+int8", "top1+int8", "power2", "auto"):
            rows = alone("_compress.py", form, "mlp", "gloo", "4", within=within(link), repeats=repeats)
            if not rows:
                continue
            m = medians(rows)
            plain = plain or m["ms"]
            lines.append(
                f"{link:12}{form:12}{m['ms']:10.1f}{m['sent'] / 1e3:12.0f}      {plain / m['ms']:.1f}x  "
                f"{' '.join(rows[0]['notes'])}"
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=["codes", "digits", "auto", "link"])
    parser.add_argument("--links", nargs="*", default=["loopback", "1gbit", "100mbit"])
    given = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print('skipped, because torch is not installed: pip install "tutti[torch]"')
        return
    parts = {
        "codes": lambda: codes(given.repeats),
        "digits": digits,
        "auto": lambda: auto(given.repeats),
        "link": lambda: links(given.links, given.repeats),
    }
    lines = [header()]
    for name in given.parts:
        lines += ["", *parts[name]()]
        print("\n".join(lines[-12:]), flush=True)
    save("compress", "\n".join(lines))


if __name__ == "__main__":
    main()
