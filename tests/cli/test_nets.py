"""Nets from the command line: job files, code by its place, layers as tables, models that ask for their module."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tutti.cli.job import read_job  # noqa: E402
from tutti.cli.main import main  # noqa: E402
from tutti.errors import JobError  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NETS = """
from dataclasses import dataclass

import torch


@dataclass
class Sizes:
    hidden: int


class Net(torch.nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.sizes = Sizes(hidden)
        self.first, self.second = torch.nn.Linear(6, hidden), torch.nn.Linear(hidden, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def noisy(x, generator):
    return x + 0.01 * torch.randn(x.shape, generator=generator)
"""
LAYERS = """
[[model.layers]]
type = "Linear"
in_features = 6
out_features = 16
[[model.layers]]
type = "ReLU"
[[model.layers]]
type = "Sequential"
layers = [{ type = "LayerNorm", normalized_shape = [16] }, { type = "Linear", in_features = 16, out_features = 2 }]
"""
OWN = 'module = "nets.py:Net"\nmodule__hidden = 16\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).round(3)
    y = np.where(x @ np.arange(6) > 0, "yes", "no")
    lines = [",".join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join([",".join([*"abcdef", "kind"]), *lines]) + "\n")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def write_job(folder: Path, model: str, engine: str = "Threads", kind: str = "NeuralNetClassifier") -> Path:
    (folder / "job.toml").write_text(f"""
[data]
format = "csv"
path = "train.csv"
label = "kind"
test_size = 0.25
[engine]
type = "{engine}"
n = 2
[output]
model = "model"
report = ["report.json", "report.html"]
[model]
type = "{kind}"
epochs = 10
lr = 0.02
batch_size = 64
{model}
""")
    return folder / "job.toml"


def from_a_shell(where: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path[0] = sys.argv.pop(1); from tutti.cli.main import entry; entry()",
    ]
    return subprocess.run(
        [*command, str(ROOT), *map(str, arguments)], cwd=where, capture_output=True, text=True, timeout=100, check=False
    )


def tutti_in(where: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Do what `from_a_shell` does in this process, which has loaded torch already."""
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(where), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


BROUGHT = ["--module", "nets.py:Net"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "tutti_in, model, more, engine",
    [
        (tutti_in, LAYERS, [], "Threads"),
        (tutti_in, OWN, BROUGHT, "Threads"),
        (from_a_shell, OWN, BROUGHT, "Processes"),
    ],
    ids=["layers", "own code", "own code in processes from a shell"],
)
def test_a_net_is_trained_scored_and_used(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tutti_in: Callable[..., subprocess.CompletedProcess[str]],
    model: str,
    more: list[str],
    engine: str,
) -> None:
    job = write_job(folder, model, engine)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    plan = tutti_in(elsewhere, "explain", job)
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "weights, 50 steps" in plan.stdout
    done = tutti_in(elsewhere, "train", job)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((folder / "report.json").read_text())
    assert record["scores"]["test"]["accuracy"] > 0.9
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    page = (folder / "report.html").read_text()
    assert "validation" not in page
    assert ">training<" in page
    scores = tutti_in(folder, "evaluate", "model", "train.csv", "--label", "kind", "--json", *more)
    found = json.loads(scores.stdout)
    assert scores.returncode == 0
    assert found["accuracy"] > 0.9
    assert found["roc_auc"] > 0.95
    out = tutti_in(folder, "predict", "model", "train.csv", "--out", "p.csv", "--proba", *more)
    assert (out.returncode, out.stderr) == (0, "")
    assert (folder / "p.csv").read_text().splitlines()[0] == '"prediction","probability_no","probability_yes"'
    assert not list(elsewhere.iterdir())


@pytest.mark.thorough
def test_the_command_line_trains_the_net_that_python_trains(folder: Path) -> None:
    assert tutti_in(folder, "train", write_job(folder, LAYERS)).returncode == 0

    def layers() -> Any:
        nn = torch.nn
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 2)))

    data, _ = tutti.read_csv(str(folder / "train.csv"), label="kind").split(0.25, random_state=0)
    net = tutti.NeuralNetClassifier(layers, epochs=10, lr=0.02, batch_size=64).fit(data)
    assert tutti.load(folder / "model").report_.sha256 == net.report_.sha256


@pytest.mark.thorough
def test_a_folder_that_needs_its_module_says_so(folder: Path) -> None:
    assert tutti_in(folder, "train", write_job(folder, OWN)).returncode == 0
    done = tutti_in(folder, "predict", "model", "train.csv", "--out", "p.csv")
    assert done.returncode == 2
    assert "its module is code (nets:Net), which a folder does not bring" in done.stderr
    assert "on the command line --module" in done.stderr
    wrong = tutti_in(folder, "predict", "model", "train.csv", "--out", "p.csv", "--module", "nets.py:Nut")
    assert wrong.returncode == 2
    assert "--module='nets.py:Nut' is not possible: nets.py has no 'Nut'; did you mean 'Net'?" in wrong.stderr
    assert "Traceback" not in done.stderr + wrong.stderr


@pytest.mark.thorough
def test_a_regression(folder: Path) -> None:
    layer = 'layers = [{ type = "Linear", in_features = 5, out_features = 1 }]'
    job = write_job(folder, layer, kind="NeuralNetRegressor")
    columns = 'label = "f"\ncolumns = ["a", "b", "c", "d", "e"]'
    job.write_text(job.read_text().replace('label = "kind"', columns))
    done = tutti_in(folder, "train", job, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"]["test"].keys() == {"rows", "r2", "mean_squared_error"}


def complaint(folder: Path, model: str) -> str:
    with pytest.raises(JobError) as caught:
        read_job(write_job(folder, model))
    return str(caught.value).removeprefix(str(folder / "job.toml"))


FIRST = 18  # line of what a case adds


@pytest.mark.parametrize(
    "model, line, message",
    [
        ("", 13, 'write module = "file.py:Net", or layers ='),
        (OWN + "layers = [{ type = 'ReLU' }]", FIRST, "module='both' is not possible"),
        ("module = 'Net'", FIRST, 'write "package.module:Net" or "file.py:Net"'),
        ("module = 'nots.py:Net'", FIRST, "there is no file"),
        ("module = 'nets.py:Nut'", FIRST, "nets.py has no 'Nut'; did you mean 'Net'?"),
        ("module = 'no_such_package.nets:Net'", FIRST, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("module = 3", FIRST, "module = 3 is a whole number; expected a string"),
        ("modul = 'nets.py:Net'", FIRST, "has no option 'modul' for type 'NeuralNetClassifier'; did you mean"),
        (OWN + "loss = 'broken.py:f'", FIRST + 2, "broken.py failed: ZeroDivisionError: division by zero"),
        (OWN + "augmnt__x = 3", FIRST + 2, "has no option 'augmnt__x'"),
        (OWN + "checkpoint = { every_steps = 3 }", FIRST + 2, 'write { path = "kept", every_steps = 100 }'),
        (OWN + "epochs__x = 3", FIRST + 2, "has no option 'epochs__x'"),
        ("layers = [{ type = 'Linar' }]", FIRST, "layers[0].type='Linar' is not possible: did you mean 'Linear'?"),
        ("layers = [{ type = 'Linear', in_feature = 3 }]", FIRST, "layers[0].in_feature=3 is not possible"),
        ("layers = [{ type = 'Linear' }]", FIRST, "layers[0]: torch cannot make this Linear: "),
        ("layers = []", FIRST, "write at least one layer"),
        ("layers = ['Linear']", FIRST, "write a table such as"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_its_remedy(folder: Path, model: str, line: int, message: str) -> None:
    (folder / "broken.py").write_text("1 / 0")
    found = complaint(folder, model)
    assert message in found
    assert found.startswith(f", line {line}: ")


@pytest.mark.thorough
def test_code_logs_and_checkpoints_are_found_beside_the_job(folder: Path) -> None:
    more = """augment = "nets.py:noisy"
log = ["run.jsonl", "tensorboard:runs"]
checkpoint = { path = "kept", every_steps = 10 }
optimizer = "sgd"
optimizer__momentum = 0.9
class_weight = { yes = 2.0 }
"""
    job = read_job(write_job(folder, OWN + more))
    net = job.estimator(verbose=0)
    assert net.module.__name__ == "Net"
    assert net.augment.__name__ == "noisy"
    assert net.get_params()["optimizer__momentum"] == 0.9
    assert net.log == [str(folder / "run.jsonl"), f"tensorboard:{folder / 'runs'}"]
    assert net.checkpoint == tutti.Checkpoint(str(folder / "kept"), every_steps=10)
    assert "nets" not in sys.modules
    done = tutti_in(folder, "train", folder / "job.toml", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len((folder / "run.jsonl").read_text().splitlines()) == 10
    assert list((folder / "kept").glob("step-*"))


def test_a_package_is_imported_by_its_name(folder: Path) -> None:
    job = read_job(write_job(folder, 'module = "tests.estimators.nets:MLP"\nmodule__d = 6'))
    from tests.estimators.nets import MLP

    assert job.estimator(verbose=0).module is MLP


def test_local_steps_are_asked_for_in_a_job(folder: Path) -> None:
    job = write_job(folder, LAYERS)
    job.write_text(
        job.read_text() + '[strategy]\ntype = "LocalSGD"\nlocal_steps = 3\nouter = "nesterov"\nouter_lr = 0.5\n'
    )
    estimator = read_job(job).estimator(verbose=0)
    assert estimator.strategy == tutti.LocalSGD(3, "nesterov", 0.5)
    told = tutti_in(folder, "explain", "job.toml")
    assert told.returncode == 0, told.stderr
    assert "a merge every 3 steps" in told.stdout


def test_a_job_names_a_parameter_server_its_bound_and_its_optimizer(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(120, 3))
    text = "\n".join(["a,b,c,y", *(f"{a},{b},{c},{int(a > 0)}" for a, b, c in x.tolist())])
    (tmp_path / "rows.csv").write_text(text)
    for bound in ("inf", '"inf"', "3"):
        (tmp_path / "job.toml").write_text(
            '[data]\nformat = "csv"\npath = "rows.csv"\nlabel = "y"\n'
            '[model]\ntype = "NeuralNetClassifier"\nlayers = [{ type = "Linear", in_features = 3, out_features = 2 }]\n'
            "epochs = 2\n"
            f'[strategy]\ntype = "ParameterServer"\nstaleness = {bound}\nservers = 2\n'
            'server_optimizer = { type = "Adam", lr = 0.1 }\n'
            '[engine]\ntype = "Threads"\nn = 2\n[output]\nreport = "report.json"\n'
        )
        assert main(["train", str(tmp_path / "job.toml"), "--quiet"]) == 0
        json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(f"not JSON: {word}"))
