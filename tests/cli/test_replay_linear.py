"""`tutti replay` of a recorded linear model: repeated, and stopped at a step to show weights and gradient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tutti.cli.main import main

JOB = """
[data]
format = "csv"
path = "train.csv"
label = "kind"
[model]
type = "{model}"
solver = "sgd"
max_iter = 4
[strategy]
type = "ParameterServer"
staleness = "inf"
record = "runs/a"
[engine]
type = "Threads"
n = 2
"""


def written(folder: Path, model: str) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).round(3)
    u = x @ np.arange(6)
    y = u if model == "Ridge" else np.digitize(u, [-3.0, 3.0]) if model == "LinearSVC" else u > 0
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)]
    (folder / "train.csv").write_text("\n".join([",".join([*"abcdef", "kind"]), *lines]) + "\n")
    (folder / "job.toml").write_text(JOB.format(model=model))
    return folder / "job.toml"


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::tutti.estimators._base.ConvergenceWarning")
@pytest.mark.parametrize(("model", "shapes"), [
    ("LogisticRegression", [[1, 6], [1]]), ("LinearSVC", [[3, 6], [3]]), ("Ridge", [[6], []]),
])  # fmt: skip
def test_a_linear_model_is_repeated_and_stopped(
    model: str, shapes: list[list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, saved = tmp_path / "runs" / "a", tmp_path / "saved"
    assert main(["train", str(written(tmp_path, model)), "--quiet"]) in (0, 3)  # 3: not converged
    capsys.readouterr()
    assert main(["replay", str(run), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["same"]
    found = []
    for to in ("0", "2"):  # the run ends with step 3
        assert main(["replay", str(run), "--to", to, "--save", str(saved), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
        shown = found[-1]["parameters"]
        assert [(p["name"], p["shape"]) for p in shown] == list(zip(["coef", "intercept"], shapes, strict=True))
        for name, norm in (("weights", "norm"), ("gradient", "gradient_norm")):
            arrays = load_file(saved / f"{name}.safetensors")
            assert {n: list(a.shape) for n, a in arrays.items()} == {p["name"]: p["shape"] for p in shown}
            norms = {n: float(np.linalg.norm(a)) for n, a in arrays.items()}
            assert norms == pytest.approx({p["name"]: p[norm] for p in shown})
        assert shown[0]["norm"] > 0
        assert shown[0]["gradient_norm"] > 0
    assert len({whole["sha256"], *(each["sha256"] for each in found)}) == 3
    assert main(["replay", str(run), "--to", "3"]) == 0
    printed = capsys.readouterr()
    assert "after all updates of step 3" in printed.out
    assert "coef" in printed.out
    assert not printed.err
