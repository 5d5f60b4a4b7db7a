"""Predictions reach the disk whole, in every format, with the same values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tutti.cli._files import prediction_writer, replacing, write_text
from tutti.errors import InputError

LABELS = np.array(["ham", "spam", "ham"])
PROBABILITIES = np.array([[0.9, 0.1], [0.25, 0.75], [0.6, 0.4]])


def write(path: Path, proba: bool = True) -> None:
    with prediction_writer(path, ["ham", "spam"], proba) as put:
        for s in (slice(0, 2), slice(2, 3)):
            put(LABELS[s], PROBABILITIES[s] if proba else None)


def read(path: Path) -> dict[str, list[object]]:
    if path.suffix == ".npy":
        table = np.load(path, allow_pickle=False)
        return {name: table[name].tolist() for name in table.dtype.names or ()} or {"prediction": table.tolist()}
    if path.suffix == ".csv":
        import pyarrow.csv

        return dict(pyarrow.csv.read_csv(path).to_pydict())
    import pyarrow.parquet

    return dict(pyarrow.parquet.read_table(path).to_pydict())


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_every_format_gives_back_labels_and_probabilities(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path)
    assert read(path) == {
        "prediction": ["ham", "spam", "ham"],
        "probability_ham": [0.9, 0.25, 0.6],
        "probability_spam": [0.1, 0.75, 0.4],
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_without_probabilities_there_is_one_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, proba=False)
    assert read(path) == {"prediction": ["ham", "spam", "ham"]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_no_rows_give_an_empty_file_with_the_right_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with prediction_writer(path, ["a", "b"], True):
        pass
    assert read(path) == {"prediction": [], "probability_a": [], "probability_b": []}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with prediction_writer(path, None, False) as put:
            put(np.array([1.0, 2.0]))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"use \.csv or \.parquet or \.npy"),
        prediction_writer(tmp_path / "out.xls", None, False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_gets_the_usual_permissions_and_its_folder_is_made(tmp_path: Path) -> None:
    beside = tmp_path / "usual"
    beside.touch()
    write_text(tmp_path / "new" / "report.txt", "text")
    made = tmp_path / "new" / "report.txt"
    assert made.read_text() == "text"
    assert made.stat().st_mode == beside.stat().st_mode


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("ne")
        assert path.read_text() == "old"
        draft.write_text("new")
    assert path.read_text() == "new"
