"""Job files: what is accepted, and that every mistake is named with its table, option, line and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tutti
from tutti.cli._accepts import accepts, expected, options_of
from tutti.cli.job import DATA_OPTIONS, ENGINES, MODELS, READERS, STRATEGIES, read_job
from tutti.errors import JobError

DATA = '[data]\nformat = "libsvm"\npath = "train.svm"\n'
MODEL = '[model]\ntype = "LogisticRegression"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.svm").write_text("1 1:0.5\n-1 2:1\n")
    return tmp_path


def job(folder: Path, text: str) -> Any:
    (folder / "job.toml").write_text(text)
    return read_job(folder / "job.toml")


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(JobError) as caught:
        job(folder, text)
    message = str(caught.value)
    assert message.startswith(str(folder / "job.toml"))
    return message.removeprefix(str(folder / "job.toml"))


def test_a_whole_job_has_the_values_of_python(folder: Path) -> None:
    found = job(
        folder,
        """
        [data]
        format = "libsvm"
        path = "train.svm"
        n_features = 1000
        test_size = 0.25
        random_state = 7
        stratify = true
        partition = "balanced"
        cached = "memory"
        [model]
        type = "LogisticRegression"
        C = 2
        tol = 1e-3
        class_weight = "balanced"
        [strategy]
        type = "AllReduce"
        [engine]
        type = "Threads"
        n = 2
        [output]
        model = "out/model"
        report = ["report.json", "report.html"]
        """,
    )
    assert found.reader == "read_libsvm"
    assert found.data == {"path": str(folder / "train.svm"), "n_features": 1000}
    assert found.model_path == folder / "out/model"
    assert found.reports == (folder / "report.json", folder / "report.html")
    estimator = found.estimator(verbose=0)
    assert isinstance(estimator, tutti.LogisticRegression)
    assert (estimator.C, estimator.tol, estimator.class_weight, estimator.verbose) == (2, 1e-3, "balanced", 0)
    assert estimator.engine == tutti.Threads(2)
    assert estimator.strategy == tutti.AllReduce()
    train, test = found.datasets()
    assert train.scheme == "balanced"
    assert (train.keep, test.keep) == ("memory", "memory")
    assert train.views[0].stratify
    assert train.views[0].seed == 7


def test_everything_but_data_and_model_may_be_left_out(folder: Path) -> None:
    found = job(folder, DATA + MODEL)
    assert (found.strategy.type, found.engine.type, found.model_path, found.reports) == ("auto", "auto", None, ())
    estimator = found.estimator(verbose=0)
    assert (estimator.strategy, estimator.engine) == ("auto", "auto")
    assert found.datasets()[1] is None


def test_streaming_is_asked_for_with_false(folder: Path) -> None:
    train, _ = job(folder, DATA + 'cached = false\nlimit = "1GB"\n' + MODEL).datasets()
    assert (train.keep, train.limit) == (None, 10**9)


def test_oversampling_leaves_the_test_rows_alone(folder: Path) -> None:
    train, test = job(folder, DATA + 'test_size = 1\nresample = "oversample"\n' + MODEL).datasets()
    assert len(train.views) == 2
    assert len(test.views) == 1


def test_urls_and_absolute_paths_are_taken_as_they_are(folder: Path) -> None:
    whole = DATA.replace("train.svm", "s3://bucket/train.svm") + MODEL
    assert job(folder, whole).data["path"] == "s3://bucket/train.svm"
    absolute = str(folder / "train.svm")
    assert job(folder, DATA.replace("train.svm", absolute) + MODEL).data["path"] == absolute


def test_a_glob_and_a_list_of_files_are_paths(folder: Path) -> None:
    assert job(folder, DATA.replace("train", "tr*") + MODEL).data["path"] == str(folder / "tr*.svm")
    assert job(folder, DATA.replace('"train.svm"', '["train.svm"]') + MODEL).data["path"] == [str(folder / "train.svm")]


@pytest.mark.parametrize(
    "text, line, message",
    [
        (
            DATA + MODEL + "tolerence = 1e-3\n",
            6,
            "[model] has no option 'tolerence' for type 'LogisticRegression'; did you mean 'tol'?",
        ),
        (DATA + MODEL + "solvr = 'dual'\n", 6, "did you mean 'solver'?"),
        (DATA + MODEL + "C = 'big'\n", 6, "[model] C = 'big' is a string; expected a number"),
        (DATA + MODEL + "fit_intercept = 1\n", 6, "fit_intercept = 1 is a whole number; expected true or false"),
        (DATA + MODEL + "n_shards = 2.5\n", 6, "[model] n_shards = 2.5 is a number; expected a whole number"),
        (DATA + MODEL + "n_shards = true\n", 6, "[model] n_shards = True is true or false; expected a whole number"),
        (DATA + MODEL + "engine = 'auto'\n", 6, "[model] has no option 'engine'"),
        (DATA + MODEL.replace("Logistic", "Logstic"), 5, "is unknown; did you mean 'LogisticRegression'?"),
        (DATA + "[model]\nC = 1.0\n", 4, "[model] needs the option 'type'; there are 'LogisticRegression'"),
        (DATA + MODEL + "[modle]\n", 6, "unknown table [modle]; did you mean 'model'?"),
        (MODEL, None, "the table [data] is missing"),
        (DATA, None, "the table [model] is missing"),
        ("data = 'x.svm'\n" + MODEL, 1, "'data' is a string; write a table that begins with the line [data]"),
        ("[data]\npath = 'x.svm'\n" + MODEL, 1, "[data] needs the option 'format'"),
        (DATA.replace("libsvm", "libsvn") + MODEL, 2, "[data] format = 'libsvn' is unknown; did you mean 'libsvm'?"),
        (DATA + "label = 'y'\n" + MODEL, 4, "[data] has no option 'label' for format 'libsvm'"),
        (DATA + "n_features = 'many'\n" + MODEL, 4, "[data] n_features = 'many' is a string; expected a whole number"),
        (DATA + "partition = 'even'\n" + MODEL, 4, 'expected "contiguous" or "round_robin"'),
        (DATA + "stratify = true\n" + MODEL, 4, "there is no test_size"),
        (DATA.replace("train", "tran") + MODEL, 3, "[data] path = 'tran.svm': no such file"),
        (DATA + MODEL + "[engine]\nn = 2\n", 6, "[engine] needs the option 'type'; there are 'auto', 'Threads'"),
        (DATA + MODEL + "[engine]\ntype = 'auto'\nn = 2\n", 8, "[engine] type = \"auto\" takes no options"),
        (DATA + MODEL + "[engine]\ntype = 'Threads'\nn = 0\n", 6, "[engine] n=0 is not possible"),
        (DATA + MODEL + "[strategy]\ntype = 'Ring'\n", 7, "type = 'Ring' is unknown; there are 'auto', 'AllReduce'"),
        (DATA + MODEL + "[strategy]\ntype = 'eval'\n", 7, "[strategy] type = 'eval' is unknown"),
        (DATA + MODEL + "[output]\nreport = 'report.pdf'\n", 7, "use .json or .html or .txt"),
        (DATA + MODEL + "[output]\nmodels = 'm'\n", 7, "[output] has no option 'models'; did you mean 'model'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_and_its_remedy(
    folder: Path, text: str, line: int | None, message: str
) -> None:
    found = complaint(folder, text)
    assert message in found
    assert found.startswith(f", line {line}: " if line else ": ")


def test_a_missing_file_near_an_existing_one_is_suggested(folder: Path) -> None:
    found = complaint(folder, DATA.replace("train", "trian") + MODEL)
    assert "did you mean 'train.svm'?" in found
    assert "paths are relative to the job file" in found


def test_invalid_toml_is_named_with_its_line(folder: Path) -> None:
    assert "this is not TOML: " in complaint(folder, "[data\n")
    assert "line 2" in complaint(folder, "[data]\nformat =\n")


def test_a_job_file_that_is_not_there_or_not_text_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such job file"):
        read_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(JobError, match="cannot be read"):
        read_job(tmp_path / "binary.toml")


@pytest.mark.parametrize("name", [*MODELS, *STRATEGIES, *ENGINES, *READERS.values()])
def test_every_name_of_the_tables_is_public_and_every_option_has_a_type(name: str) -> None:
    assert name in tutti.__all__
    for option, annotation in options_of(getattr(tutti, name)).items():
        assert not isinstance(annotation, str), f"{name}: {option} is annotated with text that cannot be resolved"


def test_every_option_that_can_be_written_in_toml_is_described_in_words() -> None:
    for annotation in (*DATA_OPTIONS.values(), dict[str, float], int | None):
        assert expected(annotation)


@pytest.mark.parametrize(
    "value, annotation, fits",
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        (1.0, int, False),
        ("a", str | None, True),
        (3, int | None, True),
        ("a", Any, True),
        ({"a": 1.0}, dict[str, float], True),
        ({"a": "b"}, dict[str, float], False),
        ([1, 2], list[int], True),
        ([1, "b"], tuple[int, ...], False),
        ("a", object(), False),
    ],
)
def test_values_fit_annotations(value: object, annotation: Any, fits: bool) -> None:
    assert accepts(value, annotation) is fits
