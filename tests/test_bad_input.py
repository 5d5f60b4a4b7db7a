"""The whole of what a user reads when the input makes no sense: one error, naming the place and the way out.

Every row goes through the public door, and the message is compared to the last character.  (That other mistakes are
found, and where, is tested beside the module that finds them.)
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

import tutti
from tutti.cli.main import main
from tutti.errors import TuttiError

X = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [4.0, 3.0]])
Y = np.array([0, 1, 0, 1])
CSV = "a,b,y\n1,2,0\n2,1,1\n3,5,0\n4,3,1\n"
JOB = '[data]\nformat = "libsvm"\npath = "t.svm"\n[model]\ntype = "LinearSVC"\n'
Act = Callable[[Path], object]


def libsvm(text: str, **options: object) -> Act:
    def act(folder: Path) -> object:
        (folder / "t.svm").write_text(text)
        return tutti.LinearSVC().fit(tutti.read_libsvm(str(folder / "t.svm"), **options))

    return act


def csv(text: str, model: object = None, **options: object) -> Act:
    def act(folder: Path) -> object:
        (folder / "t.csv").write_text(text)
        return (model or tutti.LinearSVC()).fit(tutti.read_csv(str(folder / "t.csv"), **options))

    return act


def parquet(columns: dict[str, list[object]], **options: object) -> Act:
    def act(folder: Path) -> object:
        pq.write_table(pa.table(columns), folder / "t.parquet")
        return tutti.LinearSVC().fit(tutti.read_parquet(str(folder / "t.parquet"), **options))

    return act


def packed(content: bytes) -> Act:
    def act(folder: Path) -> object:
        (folder / "t.svm.gz").write_bytes(content)
        return tutti.LinearSVC().fit(tutti.read_libsvm(str(folder / "t.svm.gz")))

    return act


def fit(x: object = X, y: object = Y, weight: object = None, **params: object) -> Act:
    return lambda folder: tutti.LinearSVC(**params).fit(x, y, weight)


def predict(x: object) -> Act:
    return lambda folder: tutti.LinearSVC().fit(X, Y).predict(x)


def job(text: str) -> Act:
    """Run the command line on a job file, and raise what it printed."""

    def act(folder: Path) -> None:
        (folder / "t.svm").write_text("0 1:1\n1 2:1\n")
        (folder / "job.toml").write_text(text)
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", said)
            code = main(["train", str(folder / "job.toml")])
        assert code == 2
        raise TuttiError(said.getvalue().removesuffix("\n"))

    return act


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[2, 1] = value
    return x


def damaged(folder: Path) -> object:
    tutti.Ridge().fit(X, Y).save(folder / "model")
    raw = bytearray((folder / "model/model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model/model.safetensors").write_bytes(bytes(raw))
    return tutti.load(folder / "model")


CASES: dict[str, tuple[Act, str]] = {
    "libsvm: no colon": (
        libsvm("0 1:1\n1 1:2 x\n"),
        "DIR/t.svm, line 2: 'x' lacks a colon; features are written index:value",
    ),
    "libsvm: broken value": (
        libsvm("0 1:1\n1 1:1e\n"),
        "DIR/t.svm, line 2: the value in '1:1e' is not a number",
    ),
    "libsvm: NaN": (
        libsvm("0 1:1\n1 1:nan\n"),
        "DIR/t.svm, line 2: the value in '1:nan' is not finite: remove the row, or put a number in its place",
    ),
    "libsvm: infinity": (
        libsvm("0 1:1\n1 1:-inf\n"),
        "DIR/t.svm, line 2: the value in '1:-inf' is not finite: remove the row, or put a number in its place",
    ),
    "libsvm: negative index": (
        libsvm("0 1:1\n1 -1:3\n"),
        "DIR/t.svm, line 2: the index in '-1:3' is negative",
    ),
    "libsvm: index 0": (
        libsvm("0 1:1\n1 0:3\n", zero_based=False),
        "DIR/t.svm, line 2: index 0 in '0:3': indices start at 1 here; if they start at 0 in this file, "
        "pass zero_based=True",
    ),
    "libsvm: unsorted indices": (
        libsvm("0 1:1\n1 3:1 2:1\n"),
        "DIR/t.svm, line 2: index 2 comes after 3; write the indices of a row in rising order",
    ),
    "libsvm: the same index twice": (
        libsvm("0 1:1\n1 3:1 3:1\n"),
        "DIR/t.svm, line 2: index 3 occurs twice; write each index once",
    ),
    "libsvm: index beyond n_features": (
        libsvm("0 1:1\n1 9:1\n", n_features=5),
        "DIR/t.svm, line 2: index 9 in '9:1' is beyond n_features=5",
    ),
    "libsvm: several labels": (
        libsvm("0 1:1\n1,2 1:1\n"),
        "DIR/t.svm, line 2: the label '1,2' is a list of labels; one label a row is supported",
    ),
    "libsvm: empty file": (
        libsvm(""),
        "DIR/t.svm: the file is empty",
    ),
    "libsvm: comments only": (
        libsvm("# nothing\n"),
        "Found array with 0 sample(s) in DIR/t.svm while a minimum of 1 is required: the files hold no rows",
    ),
    "libsvm: one class": (
        libsvm("1 1:1\n1 2:1\n"),
        "This solver needs samples of at least 2 classes in the data, but the data contains only one class: 1",
    ),
    "gzip cut short": (
        packed(gzip.compress(b"0 1:1\n1 2:1\n" * 500)[:-9]),
        "DIR/t.svm.gz: cannot be unpacked, is it damaged or cut short? (...",
    ),
    "gzip that is none": (
        packed(b"0 1:1\n1 2:1\n"),
        "DIR/t.svm.gz: cannot be unpacked, is it damaged or cut short? (...",
    ),
    "csv: text in a feature": (
        csv(CSV.replace("3,5", "3,x")),
        "DIR/t.csv, line 4, column 'b': text 'x' where a number was expected: encode it, or leave it out with columns=",
    ),
    "csv: missing value": (
        csv(CSV.replace("3,5", "3,")),
        "DIR/t.csv, line 4, column 'b': the value is missing (''): fill it, remove the row, or write "
        "read_csv(..., missing=True) for trees",
    ),
    "csv: infinity": (
        csv(CSV.replace("3,5", "3,inf")),
        "DIR/t.csv, line 4, column 'b': the value is inf: remove the row, or put a finite number in its place",
    ),
    "csv: a value too many": (
        csv(CSV.replace("3,5", "3,5,6")),
        "DIR/t.csv, line 4: 4 values, but the file has 3 columns",
    ),
    "csv: missing label column": (
        csv(CSV, label="target"),
        "DIR/t.csv: there is no label column 'target'; the columns are a, b, y. For data without labels "
        "write label=None.",
    ),
    "csv: missing feature column": (
        csv(CSV, columns=["a", "c"]),
        "DIR/t.csv: there is no feature column 'c'; the columns are a, b, y.",
    ),
    "csv: label as text in a regression": (
        csv(CSV.replace("3,5,0", "3,5,no"), tutti.Ridge()),
        "DIR/t.csv, line 4: the target 'no' is text; a regression needs numbers: use a classifier, or convert y",
    ),
    "csv: negative weight": (
        csv("a,y,w\n1,0,1\n2,1,-1\n", weight="w"),
        "DIR/t.csv, line 3: sample_weight is -1.0; weights are finite and not negative",
    ),
    "csv: no such file": (
        lambda folder: tutti.Ridge().fit(tutti.read_csv(str(folder / "none.csv"))),
        "DIR/none.csv: there is no such file or folder",
    ),
    "parquet: without the label": (
        parquet({"a": [1.0, 2.0], "b": [2.0, 1.0]}, label="y"),
        "DIR/t.parquet: there is no label column 'y'; the columns are a, b. For data without labels write label=None.",
    ),
    "parquet: missing value": (
        parquet({"a": [1.0, None], "y": [0, 1]}),
        "DIR/t.parquet, row 1, column 'a': the value is missing: fill it, remove the row, or write "
        "read_parquet(..., missing=True) for trees",
    ),
    "parquet: text in a feature": (
        parquet({"a": ["x", "z"], "y": [0, 1]}),
        "DIR/t.parquet, column 'a': holds string, which is not a number: encode it, or leave it out with columns=",
    ),
    "array: NaN": (
        fit(with_value(np.nan)),
        "row 2, column 1: Input X contains NaN.",
    ),
    "array: infinity": (
        fit(with_value(np.inf)),
        "row 2, column 1: Input X contains infinity or a value too large for dtype('float64').",
    ),
    "array: text": (
        fit(np.array([["a", "b"], ["c", "d"]]), [0, 1]),
        "row 0, column 0: text 'a' where a number was expected",
    ),
    "array: one dimension": (
        fit(X[:, 0]),
        "Expected 2D array, got 1D array instead (Found array with dim 1, shape (4,)). Reshape your "
        "data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, "
        "-1) if it contains a single sample.",
    ),
    "array: no rows": (
        fit(X[:0], Y[:0]),
        "Found array with 0 sample(s) (shape=(0, 2)) while a minimum of 1 is required.",
    ),
    "array: lengths differ": (
        fit(X, Y[:3]),
        "Found input variables with inconsistent numbers of samples: [4, 3]",
    ),
    "array: one class": (
        fit(X, np.zeros(4)),
        "This solver needs samples of at least 2 classes in the data, but the data contains only one class: 0.0",
    ),
    "array: NaN among the labels": (
        fit(X, np.array([0, 1, np.nan, 1])),
        "row 2: Input y contains NaN",
    ),
    "array: negative weight": (
        fit(X, Y, np.array([1.0, -1.0, 1.0, 1.0])),
        "row 1: sample_weight is -1.0; weights are finite and not negative",
    ),
    "sparse: NaN": (
        fit(sp.csr_array(with_value(np.nan))),
        "row 2, column 1: Input X contains NaN.",
    ),
    "C = 0": (
        fit(C=0),
        "C=0 is not possible: write the inverse strength of the regularisation, a finite number > 0",
    ),
    "C < 0": (
        fit(C=-1.0),
        "C=-1.0 is not possible: write the inverse strength of the regularisation, a finite number > 0",
    ),
    "tol = 0": (
        fit(tol=0),
        "tol=0 is not possible: write a relative gap such as 1e-4, a finite number > 0",
    ),
    "unknown loss": (
        fit(loss="hinges"),
        "loss='hinges' is not possible: expected 'squared_hinge' or 'hinge'; did you mean 'hinge'?",
    ),
    "unknown class in class_weight": (
        fit(class_weight={7: 1.0}),
        "class_weight={7: 1.0} is not possible: 7 is not among the classes 0, 1",
    ),
    "no workers": (
        lambda folder: tutti.Threads(0),
        "n=0 is not possible: write a positive number of workers, or None for one per core",
    ),
    "solver and strategy apart": (
        fit(solver="newton", strategy=tutti.CoCoA()),
        "CoCoA adds changes of dual variables, but SampledNewton offers gradient; use "
        "strategy=tutti.AllReduce() with it, or solver='dual' in a model that has one (LinearSVC, "
        "LogisticRegression of two classes, Ridge)",
    ),
    "predict: wrong number of features": (
        predict(np.ones((2, 3))),
        "X has 3 features, but LinearSVC is expecting 2 features as input.",
    ),
    "predict: NaN": (
        predict(np.array([[1.0, np.nan]])),
        "row 0, column 1: Input X contains NaN; impute or drop such rows first",
    ),
    "predict: not fitted": (
        lambda folder: tutti.LinearSVC().predict(X),
        "this LinearSVC is not fitted yet: call fit first",
    ),
    "job: unknown option": (
        job(JOB + "tolerence = 1e-3\n"),
        "tutti: DIR/job.toml, line 6: [model] has no option 'tolerence' for type 'LinearSVC'; did you mean 'tol'?",
    ),
    "job: unknown table": (
        job(JOB + "[modle]\n"),
        "tutti: DIR/job.toml, line 6: unknown table [modle]; did you mean 'model'?; there are 'data', "
        "'model', 'strategy', 'engine', 'output'",
    ),
    "job: wrong type": (
        job(JOB + 'C = "big"\n'),
        "tutti: DIR/job.toml, line 6: [model] C = 'big' is a string; expected a number",
    ),
    "job: C < 0": (
        job(JOB + "C = -1.0\n"),
        "tutti: DIR/job.toml: [model] C=-1.0 is not possible: write the inverse strength of the "
        "regularisation, a finite number > 0",
    ),
    "job: no such file": (
        job(JOB.replace("t.svm", "u.svm")),
        "tutti: DIR/job.toml, line 3: [data] path = 'u.svm': no such file in DIR (paths are relative to "
        "the job file); did you mean 't.svm'?",
    ),
    "job: not TOML": (
        job("[data\n"),
        "tutti: DIR/job.toml: this is not TOML: ...",
    ),
    "model: damaged": (
        damaged,
        "DIR/model/model.safetensors is damaged: its SHA-256 is not the one in model.json",
    ),
    "model: none": (
        lambda folder: tutti.load(folder),
        "DIR is not a tutti model: it has no model.json",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_error(name: str, tmp_path: Path) -> None:
    act, message = CASES[name]
    with pytest.raises((TuttiError, ValueError)) as caught:
        act(tmp_path)
    said = str(caught.value).replace(str(tmp_path), "DIR")
    if message.endswith("..."):  # what follows is a third party's
        assert said.startswith(message.removesuffix("..."))
    else:
        assert said == message
