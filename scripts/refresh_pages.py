"""Run the Python blocks of README and docs and put what they print into the ```text blocks that follow them.

The table of measurements in the README and the measured parts of docs/modes.md and docs/imbalance.md come from
benchmarks/results/.

python scripts/refresh_pages.py [PAGE ...]    (tests/test_house.py checks that the pages still say what the code prints)
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import _imbalance
import _modes

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/tutorial.md", "docs/how-to.md", "docs/modes.md", "docs/imbalance.md")
FENCE = re.compile(r"(?P<skip><!-- not run: [^>]*-->\n)?```(?P<kind>python|text)\n(?P<body>.*?)```", re.S)


TABLE = re.compile(r"(?P<head><!-- measured: (?P<name>[^>]*?) -->\n).*?(?P<tail><!-- end of measured -->)", re.S)
JOBS = {
    "sparse-logistic": "logistic regression, sparse 400,000 x 100,000",
    "sparse-hinge": "linear SVM (hinge), sparse 400,000 x 100,000",
    "dense-logistic": "logistic regression, dense 800,000 x 100",
    "dense-hinge": "linear SVM (hinge), dense 800,000 x 100",
    "mnist-logistic": "logistic regression, MNIST 5,000 x 784, odd against even",
    "mnist-hinge": "linear SVM (hinge), MNIST 5,000 x 784, odd against even",
}
NETS = {
    "mlp256": "a step of a small dense net, batch 256",
    "mlp2048": "a step of a small dense net, batch 2,048",
    "cnn": "a step of a convolutional net, batch 256",
    "trf": "a step of a transformer encoder, batch 64",
    "wide": "a step of two dense layers of 4,096, batch 64",
}
STEP = re.compile(r"^(\S+) +ours ([\d.]+) ms: ([\d.]+)x DDP .*?, ([\d.]+)x plain", re.M)
RIVALS = {"snapml": "SnapML", "sklearnex": "scikit-learn-intelex", "sgd": "tuned SGD (scikit-learn)"}
VERDICT = re.compile(r"^(\S+) +ours ([\d.]+) s \([^)]*\) +(\S+) +(?:([\d.]+)x|never reached the target)", re.M)


def measured_table() -> str:
    """Return the rows of the README's table, read from benchmarks/results/*.txt."""
    results = {f.stem: f.read_text() for f in (ROOT / "benchmarks" / "results").glob("*.txt")}

    def number(pattern: str, name: str) -> str:
        found = re.search(pattern, results[name], re.M)
        assert found, f"benchmarks/results/{name}.txt does not say {pattern!r}"
        return found[1]

    rows = [
        "| 2 threads; models to within 0.1 % of the optimum | tutti | rival | tutti is faster by |",
        "|---|---|---|---|",
    ]
    for job, ours, rival, ratio in VERDICT.findall(results["linear"]):
        by = f"{float(ratio):.1f}x" if ratio else "does not reach it"
        rows.append(f"| {JOBS[job]} | {float(ours):.2f} s | {RIVALS[rival]} | {by} |")
    whole = r"^{} +([\d.]+) s"
    text_to_model = number(r"^ratio ([\d.]+)x", "whole_process")
    rows.append(
        f"| whole process: libsvm text to sparse logistic model | {number(whole.format('tutti'), 'whole_process')} s | "
        f"SnapML | {float(text_to_model):.1f}x |"
    )
    reader = number(r"^tutti-2 against xgboost: ([\d.]+)x", "readers")
    seconds = number(r"^tutti-2 +([\d.]+) s", "readers")
    rows.append(
        f"| reading the libsvm text (352 MB) | {float(seconds):.2f} s | xgboost's reader | {float(reader):.1f}x |"
    )
    for net, ms, ddp, plain in STEP.findall(results["nets"]):
        rows.append(f"| {NETS[net]}, exact | {float(ms):.1f} ms | DDP (gloo) | {float(ddp):.2f}x |")
        rows.append(f"| {NETS[net]}, exact | {float(ms):.1f} ms | plain torch, 2 threads | {float(plain):.2f}x |")
    sums = r"^all_reduce 10 MB +copied ([\d.]+) ms: ([\d.]+)x gloo"
    found = re.search(sums, results["transport"], re.M)
    assert found
    rows.append(f"| a sum of 10 MB over 2 processes | {float(found[1]):.1f} ms | gloo | {float(found[2]):.1f}x |")
    ms, by = number(r"^1000 Mbit/s 1 ms TLS +\S+ +([\d.]+)", "link"), number(r"gloo takes ([\d.]+)x ours", "link")
    rows.append(f"| a sum of 25 MB between two hosts, 1 Gbit/s, encrypted | {float(ms):.0f} ms | gloo, plain | {by}x |")
    backend = number(r"^DDP on tutti.torch_backend.*: ([\d.]+)x$", "transport")
    ms = number(r"^DDP on tutti.torch_backend, mlp256: ([\d.]+) ms", "transport")
    rows.append(
        f"| DDP on `tutti.torch_backend`, small dense net | {float(ms):.1f} ms | DDP (gloo) | {float(backend):.2f}x |"
    )
    start = number(r"^cold ([\d.]+)x DDP", "net_start")
    cold = number(r"^processes +(\d+\.\d\d)", "net_start")
    rows.append(
        f"| from nothing to a net's first step, 2 processes | {float(cold):.1f} s | DDP (gloo) | {float(start):.2f}x |"
    )
    straggler = number(r"^with a straggler ([\d.]+)x faster", "straggler")
    rows.append(
        f"| a step with one of two workers 4 times slower | claimed shards | dealt shards | {float(straggler):.1f}x |"
    )
    rows += _tasks(results)
    machines = sorted({number(r"^hardware +(.*)$", name) for name in (*_TASKS, "linear", "nets", "transport")})
    rows += ["", f"{' or '.join(machines)}: the same one for both sides of a ratio;"]
    rows += ["every system in its own process, at its fastest setting that reaches the target. All of it:"]
    rows += ["[benchmarks/results](benchmarks/results); `make bench` measures it on your machine.", ""]
    return "\n".join(rows)


_ITS = "prediction by 100"
_TASKS = ("forests_depth10", "forests_deep", "boosting", "svc_ten", "svc_even", "search")


def _tasks(results: dict[str, str]) -> list[str]:
    """Return the rows of forests, boosted trees, kernel machines and searches, as far as they have been measured."""

    def row(name: str, what: str, ours: str, rival: str, ratio: str, digits: int = 1) -> list[str]:
        seconds = [float(s) for s in re.findall(ours, results.get(name, ""), re.M)]
        found = re.search(ratio, results.get(name, ""), re.M)
        return (
            [f"| {what} | {sum(seconds) / len(seconds):.{digits}f} s | {rival} | {float(found[1]):.1f}x |"]
            if found and seconds
            else []
        )

    forest, ten = "random forest, 100 trees of depth 10, 400,000 x 28", "SVM (rbf), ten classes, 20,000 x 784"
    deep, even = "random forest, 100 deep trees, 200,000 x 28", "SVM (rbf), two classes, 20,000 x 784"
    boosted, search = "boosted trees, 200 of depth 6, 400,000 x 28", "search, 60 logistic fits of 66,667 x 100"
    same, mine = r"^tutti, same estimator +([\d.]+)", r"^tutti, own estimator +([\d.]+)"
    ours = "the same search with `tutti.LogisticRegression`"
    own, fit = r"^tutti +([\d.]+)", r"^{} +tutti +fit +([\d.]+) s"
    features = "SVR on 300 Nystroem features, 100,000 rows, proved to 0.1 %"
    nystroem, uncertified = r"^regression +tutti +fit +([\d.]+) s", r"^regression +scikit-learn .* ([\d.]+)x tutti"
    predicted, ahead = r"^tutti +[\d.]+ +[\d.]+ +([\d.]+)", r"^against sklearnex .* predict +([\d.]+)x"
    intelex = r"^even +scikit-learn-intelex / tutti: ([\d.]+)"
    return [
        *row("forests_depth10", forest, own, "scikit-learn-intelex", r"^against sklearnex +fit +([\d.]+)x"),
        *row("forests_depth10", forest, own, "scikit-learn", r"^against sklearn +fit +([\d.]+)x"),
        *row("forests_deep", deep, own, "scikit-learn-intelex", r"^against sklearnex +fit +([\d.]+)x"),
        *row("forests_deep", deep, own, "scikit-learn", r"^against sklearn +fit +([\d.]+)x"),
        *row("forests_depth10", f"{_ITS} trees of depth 10, 100,000 rows", predicted, "scikit-learn-intelex", ahead, 2),
        *row("forests_deep", f"{_ITS} deep trees, 100,000 rows", predicted, "scikit-learn-intelex", ahead, 2),
        *row("boosting", boosted, own, "XGBoost", r"^ours against xgboost +fit +([\d.]+)x"),
        *row("boosting", boosted, own, "LightGBM", r"^ours against lightgbm +fit +([\d.]+)x"),
        *row("svc_ten", ten, fit.format("ten"), "scikit-learn", r"^ten +scikit-learn / tutti: ([\d.]+)"),
        *row("svc_even", even, fit.format("even"), "scikit-learn-intelex", intelex),
        *row("svc_even", even, fit.format("even"), "scikit-learn", r"^even +scikit-learn / tutti: ([\d.]+)"),
        *row("approximate", features, nystroem, "scikit-learn, LinearSVR, without proof", uncertified),
        *row("search", search, same, "joblib threads, the same estimator", r"^tutti, same estimator .* ([\d.]+)x "),
        *row("search", search, same, "joblib loky, the same estimator", r"^joblib loky against tutti: ([\d.]+)x"),
        *row("search", search, same, "Ray tasks, the same estimator", r"^Ray against tutti: ([\d.]+)x"),
        *row("search", ours, mine, "joblib threads, scikit-learn's estimator", r"^tutti, own estimator .* ([\d.]+)x "),
        *row("search", ours, mine, "Ray tasks, scikit-learn's estimator", r"^Ray against tutti's own: ([\d.]+)x"),
    ]


def measured(found: re.Match[str]) -> str:
    """Return a measured part of a page with what the results say today."""
    name = found["name"]
    owner = next((page for page in (_modes, _imbalance) if name in page.BLOCKS), None)
    return found["head"] + (measured_table() if owner is None else owner.block(name)) + found["tail"]


def refreshed(text: str, page: str) -> str:
    """Return the page with fresh output; its blocks share their names and run in the current folder."""
    names: dict[str, Any] = {"__name__": "__page__"}
    printed = ""

    def fill(block: re.Match[str]) -> str:
        nonlocal printed
        if block["skip"]:
            return block[0]
        if block["kind"] == "text":
            return f"```text\n{printed.replace(socket.gethostname(), 'my-host').rstrip()}\n```"
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            exec(compile(block["body"], page, "exec"), names)
        printed = caught.getvalue()
        return block[0]

    return FENCE.sub(fill, TABLE.sub(measured, text))


def main() -> None:
    for page in sys.argv[1:] or PAGES:
        text = (ROOT / page).read_text()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            fresh = refreshed(text, page)
            os.chdir(ROOT)
        (ROOT / page).write_text(fresh)
        print(f"{page}: {'changed' if fresh != text else 'as it was'}", file=sys.stderr)


if __name__ == "__main__":
    main()
