"""The tutti command from outside: what it prints where, which files it leaves, and its exit codes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tutti
from tutti.cli import commands
from tutti.cli.main import main
from tutti.errors import RankLost

try:  # here and not in a test: it sets environment variables, and tests leave nothing behind
    from sklearn import metrics as sk
except ImportError:
    sk = None

N, D = 400, 6


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).round(3)
    return x, (x @ np.arange(D) + 0.5 * rng.normal(size=N) > 0).astype(int), (x @ np.arange(D) + 1).round(4)


@pytest.fixture
def folder(tmp_path: Path, made: tuple[np.ndarray, ...]) -> Path:
    x, y, target = made
    rows = [f"{label} " + " ".join(f"{j + 1}:{v}" for j, v in enumerate(row)) for label, row in zip(y, x, strict=True)]
    (tmp_path / "train.svm").write_text("\n".join(rows) + "\n")
    names = ",".join([*"abcdef", "kind", "y"])
    lines = [",".join(map(str, [*row, label, t])) for row, label, t in zip(x, y, target, strict=True)]
    (tmp_path / "train.csv").write_text("\n".join([names, *lines]) + "\n")
    return tmp_path


def write_job(folder: Path, model: str = "", more: str = "", data: str = "") -> str:
    text = f"""
[data]
format = "libsvm"
path = "train.svm"
{data}
[model]
type = "LogisticRegression"
{model}
[engine]
type = "Threads"
n = 1
[output]
model = "model"
report = ["report.json", "report.txt", "report.html"]
{more}
"""
    (folder / "job.toml").write_text(text)
    return str(folder / "job.toml")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_train_writes_model_and_reports_and_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "train", write_job(folder, data="test_size = 0.25"))
    assert (code, err) == (0, "")
    for expected in ("plan for 300 rows x 6 features", "converged", "sha256", "accuracy", str(folder / "report.html")):
        assert expected in out
    record = json.loads((folder / "report.json").read_text())
    assert record["report"]["converged"]
    assert record["scores"]["test"]["rows"] == 100
    assert record["command"].startswith("tutti train ")
    assert tutti.load(folder / "model").report_.sha256 == record["report"]["sha256"]
    for name in ("report.txt", "report.html"):
        assert record["report"]["sha256"] in (folder / name).read_text()


def test_the_command_line_trains_the_model_that_python_trains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, record = run_json(capsys, "train", write_job(folder, model="C = 0.5\ntol = 1e-6"))
    model = tutti.LogisticRegression(C=0.5, tol=1e-6).fit(tutti.read_libsvm(str(folder / "train.svm")))
    assert record["report"]["sha256"] == model.report_.sha256


def test_explain_prints_the_plan_and_leaves_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = write_job(folder)
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, "explain", job)
    assert (code, err) == (0, "")
    assert out.startswith("plan for 400 rows x 6 features")
    code, plan = run_json(capsys, "explain", job)
    assert code == 0
    assert plan["plan"]["n_shards"] == 8
    assert sorted(folder.iterdir()) == before


def test_a_fit_that_does_not_converge_exits_with_3_and_keeps_its_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "train", write_job(folder, model="tol = 1e-12\nmax_iter = 1\nsolver = 'lbfgs'"))
    assert code == 3
    assert err.startswith("tutti: not converged: the certified gap is")
    assert err.count("\n") == 1
    assert (folder / "model" / "model.json").exists()
    assert not json.loads((folder / "report.json").read_text())["report"]["converged"]


def test_evaluate_equals_scikit_learns_scores(
    folder: Path, capsys: pytest.CaptureFixture[str], made: tuple[np.ndarray, ...]
) -> None:
    if sk is None:
        pytest.skip("scikit-learn, which the scores are compared with, is not installed")
    x, y, _ = made
    run(capsys, "train", write_job(folder), "--quiet")
    code, scores = run_json(capsys, "evaluate", folder / "model", folder / "train.svm")
    model = tutti.load(folder / "model")
    rows = x.astype(np.float32)
    assert code == 0
    assert scores["rows"] == N
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(y, model.predict(rows)))
    assert scores["log_loss"] == pytest.approx(sk.log_loss(y, model.predict_proba(rows)), rel=1e-5)
    assert scores["roc_auc"] == pytest.approx(sk.roc_auc_score(y, model.decision_function(rows)), rel=1e-9)
    code, out, _ = run(capsys, "evaluate", folder / "model", folder / "train.svm")
    assert out.split()[:2] == ["rows", "400"]


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".parquet"])
def test_predict_writes_a_line_per_row_with_probabilities(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, made: tuple[np.ndarray, ...]
) -> None:
    run(capsys, "train", write_job(folder), "--quiet")
    out = folder / f"out{suffix}"
    code, said = run_json(capsys, "predict", folder / "model", folder / "train.svm", "--out", out, "--proba")
    assert (code, said["rows"], said["out"]) == (0, N, str(out))
    model = tutti.load(folder / "model")
    rows = made[0].astype(np.float32)
    if suffix == ".npy":
        table = np.load(out)
        labels, p1 = table["prediction"], table["probability_1"]
    else:
        import pyarrow.csv
        import pyarrow.parquet

        read = pyarrow.csv.read_csv if suffix == ".csv" else pyarrow.parquet.read_table
        columns = read(out).to_pydict()
        labels, p1 = np.array(columns["prediction"]), np.array(columns["probability_1"])
    assert (labels == model.predict(rows)).all()
    np.testing.assert_allclose(p1, model.predict_proba(rows)[:, 1], rtol=1e-5)


def csv_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (folder / "csv.toml").write_text(
        '[data]\nformat = "csv"\npath = "train.csv"\ncolumns = ["b", "a", "c", "d", "e", "f"]\n'
        '[model]\ntype = "Ridge"\nalpha = 1e-6\n[output]\nmodel = "ridge"\n'
    )
    assert run(capsys, "train", folder / "csv.toml", "--quiet")[0] == 0
    return folder / "ridge"


def test_a_regression_is_evaluated_by_r2_and_mse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, scores = run_json(capsys, "evaluate", csv_model(folder, capsys), folder / "train.csv", "--label", "y")
    assert code == 0
    assert scores.keys() == {"model", "data", "rows", "r2", "mean_squared_error"}
    assert scores["r2"] > 0.999


def test_columns_are_found_by_name_whatever_their_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ridge = csv_model(folder, capsys)
    header, *lines = (folder / "train.csv").read_text().split()
    turned = [",".join(reversed(line.split(","))) for line in [header, *lines]]
    (folder / "turned.csv").write_text("\n".join(turned) + "\n")
    for name in ("train", "turned"):
        assert run(capsys, "predict", ridge, folder / f"{name}.csv", "--out", folder / f"{name}.npy")[0] == 0
    assert (np.load(folder / "train.npy") == np.load(folder / "turned.npy")).all()


def test_a_missing_label_column_or_format_is_bad_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ridge = csv_model(folder, capsys)
    code, out, err = run(capsys, "evaluate", ridge, folder / "train.csv")
    assert (code, out) == (2, "")
    assert "--label is missing" in err
    code, _, err = run(capsys, "evaluate", ridge, folder / "train")
    assert code == 2
    assert "--format libsvm or csv or parquet" in err
    code, _, err = run(capsys, "predict", ridge, folder / "train.csv", "--out", folder / "x.csv", "--proba")
    assert code == 2
    assert "this Ridge gives no probabilities" in err


def test_class_weights_of_a_table_reach_their_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, record = run_json(capsys, "train", write_job(folder, model="class_weight = { 1 = 3.0 }"))
    model = tutti.LogisticRegression(class_weight={1: 3.0}).fit(tutti.read_libsvm(str(folder / "train.svm")))
    assert record["report"]["sha256"] == model.report_.sha256
    code, _, err = run(capsys, "train", write_job(folder, model="class_weight = { 7 = 3.0 }"))
    assert code == 2
    assert "class_weight names '7', but the classes of the data are '0', '1'" in err


def test_a_place_that_cannot_take_the_model_is_refused_before_the_fit(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tutti.LogisticRegression, "fit", None)
    (folder / "model").mkdir()
    (folder / "model" / "diary.txt").write_text("dear diary")
    code, _, err = run(capsys, "train", write_job(folder))
    assert code == 2
    assert "exists and is not a tutti model" in err
    assert (folder / "model" / "diary.txt").read_text() == "dear diary"


def test_quiet_prints_nothing_while_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "train", write_job(folder), "--quiet") == (0, "", "")


def test_bad_data_is_one_line_with_its_place_and_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train.svm").write_text("1 1:0.5\n0 1:abc\n")
    code, out, err = run(capsys, "train", write_job(folder))
    assert (code, out) == (2, "")
    assert err.startswith("tutti: ")
    assert "train.svm, line 2" in err
    assert err.count("\n") == 1
    assert not (folder / "model").exists()


def test_a_parameter_that_python_refuses_is_placed_in_its_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "train", write_job(folder, model="C = -1.0"))
    assert code == 2
    assert "job.toml: [model] C=-1.0 is not possible" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "a command is missing"),
        (["train"], "the following arguments are required: JOB.toml"),
        (["trian", "job.toml"], "invalid choice: 'trian'"),
        (["train", "job.toml", "--jsn"], "unknown argument '--jsn'; did you mean --json?"),
        (["predict", "model", "x.svm"], "the following arguments are required: --out"),
        (["train", "none.toml"], "no such job file"),
        (["predict", "no-model", "x.svm", "--out", "y.csv"], "not a tutti model"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tutti: ")
    assert message in err
    assert "Traceback" not in err


def test_an_error_is_a_json_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run_json(capsys, "train", "none.toml")
    assert code == said["exit_code"] == 2
    assert said["error"]["type"] == "JobError"
    assert "no such job file" in said["error"]["message"]


@pytest.mark.parametrize(
    "error, code",
    [
        (KeyboardInterrupt(), 130),
        (OSError("disk full"), 1),
        (RankLost(1, "host", 7, 3, "killed"), 1),
        (ZeroDivisionError("division by zero"), 1),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_no_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(commands, "train", fail)
    found, _, err = run(capsys, "train", "job.toml")
    assert found == code
    assert "Traceback" not in err
    assert err.count("\n") == 1
    found, _, err = run(capsys, "train", "job.toml", "--debug")
    assert found == code
    assert ("Traceback" in err) == (code != 130)


def test_warnings_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn(*_: object) -> int:
        warnings.warn("look here", stacklevel=1)
        return 0

    monkeypatch.setattr(commands, "train", warn)
    assert run(capsys, "train", "job.toml") == (0, "", "tutti: warning: look here\n")


def test_the_module_and_its_version_can_be_asked_from_a_shell() -> None:
    done = subprocess.run([sys.executable, "-m", "tutti", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tutti {tutti.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "tutti", "--version", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"version": tutti.__version__}


def test_the_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for expected in ("train", "explain", "predict", "evaluate", "3    not converged", "130  interrupted"):
        assert expected in out


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    job = write_job(folder)
    shell = subprocess.run(
        [sys.executable, "-c", "import sys, os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
         f"from tutti.cli.main import main; code = main(['explain', {job!r}]); sys.exit(code)"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (shell.returncode, shell.stderr) == (0, "")


def test_infinite_numbers_do_not_break_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, record = run_json(capsys, "train", write_job(folder, model="tol = 1e-12\nmax_iter = 1\nsolver = 'lbfgs'"))
    assert all(v is None or math.isfinite(v) for v in (record["report"]["gap"], record["report"]["objective"]))
