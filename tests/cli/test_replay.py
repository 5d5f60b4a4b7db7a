"""`tutti replay`: a recorded run from a job file, repeated, stopped at a step, saved, refused."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from tutti.cli.job import read_job
from tutti.cli.main import main
from tutti.errors import JobError

JOB = """
[data]
format = "csv"
path = "train.csv"
label = "kind"
test_size = 0.25
[model]
type = "NeuralNetClassifier"
module = "nets.py:Net"
epochs = 4
batch_size = 50
optimizer = "sgd"
lr = 0.1
log = "run.jsonl"
[strategy]
type = "ParameterServer"
staleness = "inf"
record = "runs/a"
[engine]
type = "Threads"
n = 2
"""
NETS = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.second(torch.dropout(torch.tanh(self.first(x)), 0.2, self.training))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).round(3)
    y = np.where(x @ np.arange(6) > 0, "yes", "no")
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join([",".join([*"abcdef", "kind"]), *lines]) + "\n")
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.thorough
def test_a_recorded_run_is_repeated_and_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, trained = told(capsys, "train", folder / "job.toml")
    assert code == 0
    run = folder / "runs" / "a"
    assert (run / "job.toml").read_text() == JOB
    assert {stat.S_IMODE(f.stat().st_mode) for f in run.iterdir()} == {0o600}
    (folder / "job.toml").unlink()
    logged = (folder / "run.jsonl").read_text()

    code, again = told(capsys, "replay", run)
    assert (code, again["same"]) == (0, True)
    assert again["sha256"] == again["recorded_sha256"] == trained["report"]["sha256"]
    assert main(["replay", str(run)]) == 0
    assert "that of the recorded run" in capsys.readouterr().out
    assert (folder / "run.jsonl").read_text() == logged

    code, early = told(capsys, "replay", run, "--to", 3, "--save", folder / "saved")
    assert (code, early["same"], early["to"]) == (0, None, 3)
    assert early["sha256"] != again["sha256"]
    assert [(p["name"], p["shape"]) for p in early["parameters"]] == [
        ("first.weight", [8, 6]), ("first.bias", [8]), ("second.weight", [2, 8]), ("second.bias", [2]),
    ]  # fmt: skip
    from safetensors.numpy import load_file

    for name, norm in (("weights", "norm"), ("gradient", "gradient_norm")):
        saved = load_file(folder / "saved" / f"{name}.safetensors")
        norms = {p["name"]: p[norm] for p in early["parameters"]}
        assert {n: float(np.linalg.norm(a.astype(float))) for n, a in saved.items()} == pytest.approx(norms)
    assert main(["replay", str(run), "--to", "3"]) == 0
    shown = capsys.readouterr().out
    assert "after all updates of step 3" in shown
    assert "second.weight" in shown

    folder.rename(folder.parent / "moved")
    assert main(["replay", str(folder.parent / "moved" / "runs" / "a")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_another_model_is_said_with_an_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(folder / "job.toml"), "--quiet"]) == 0
    end = folder / "runs" / "a" / "end.json"
    end.write_text(json.dumps({**json.loads(end.read_text()), "model_sha256": "0" * 64}))
    assert main(["replay", str(folder / "runs" / "a")]) == 1
    printed = capsys.readouterr()
    assert "NOT that of the recorded run" in printed.out
    assert "another model" in printed.err


def test_what_cannot_be_repeated_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs" / "a"
    assert main(["replay", str(run)]) == 2
    assert "no recorded run here" in capsys.readouterr().err
    assert main(["train", str(folder / "job.toml"), "--quiet"]) == 0
    assert main(["train", str(folder / "job.toml"), "--quiet"]) == 0  # a record replaces a record
    for arguments, why in [(["--to", "-1"], "to"), (["--to", "99999"], "knows of the steps from 0 to")]:
        assert main(["replay", str(run), *arguments]) == 2
        assert why in capsys.readouterr().err
    rows = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    assert main(["replay", str(run)]) == 2
    assert "its rows are not these" in capsys.readouterr().err
    (run / "job.toml").unlink()
    (run / "job.json").unlink()
    assert main(["replay", str(run)]) == 2
    assert "not started by tutti train" in capsys.readouterr().err
    shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").write_text("")
    assert main(["train", str(folder / "job.toml"), "--quiet"]) == 2
    assert "files that are no record" in capsys.readouterr().err


def test_folders_of_strategies_are_relative_to_the_job(folder: Path) -> None:
    job = read_job(folder / "job.toml")
    assert job.strategy.make().record == str(folder / "runs/a")
    old = 'type = "ParameterServer"\nstaleness = "inf"\nrecord = "runs/a"'
    (folder / "job.toml").write_text(JOB.replace(old, 'type = "Replay"\nfolder = "runs/a"\nto = 4'))
    strategy = read_job(folder / "job.toml").strategy.make()
    assert (strategy.folder, strategy.to) == (str(folder / "runs/a"), 4)
    (folder / "job.toml").write_text(JOB.replace(old, 'type = "Replay"'))
    with pytest.raises(JobError, match=r"line \d+.*needs more options; there are 'folder', 'to'"):
        read_job(folder / "job.toml")
