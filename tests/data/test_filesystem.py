"""Paths, globs, folders and URLs all name the same kind of files, in a fixed order."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from tutti.data import filesystem, read_csv, read_libsvm, read_parquet
from tutti.data.formats import text
from tutti.errors import DataError

Write = Callable[[str, Any], str]


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def names(paths: list[str]) -> list[str]:
    return [os.path.basename(p) for p, _ in filesystem.expand(paths)]


def test_files_lists_globs_and_folders(write: Write, tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "sub/c.csv", "_SUCCESS", ".hidden", "sub/.crc/d.csv"):
        write(name, "x")
    assert names([str(tmp_path / "b.csv"), str(tmp_path / "a.csv")]) == ["b.csv", "a.csv"]
    assert names([str(tmp_path / "*.csv")]) == ["a.csv", "b.csv"]
    assert names([str(tmp_path / "**/*.csv")]) == ["a.csv", "b.csv", "c.csv"]
    assert names([str(tmp_path)]) == ["a.csv", "b.csv", "c.csv"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(write: Write) -> None:
    assert names([write("a[1].csv", "x")]) == ["a[1].csv"]


def test_what_names_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("none.csv", "there is no such file or folder"),
        ("*.csv", "the pattern matches no file"),
        ("empty", "the folder holds no files"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_csv(str(tmp_path / path)).schema("classification")
        assert caught.value.path == str(tmp_path / path)


def test_urls_that_name_no_file_are_refused(memory: Any) -> None:
    memory.mkdir("/empty")
    for path, message in (
        ("memory://none.csv", "there is no such file or folder"),
        ("memory://x/*.csv", "the pattern matches no file"),
        ("memory://empty", "the folder holds no files"),
        ("nothing://a.csv", "cannot open this kind of address"),
    ):
        with pytest.raises(DataError, match=message):
            read_csv(path).schema("classification")


def test_relative_paths_mean_the_same_everywhere(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("a.csv", "x,y\n1,0\n2,1\n")
    monkeypatch.chdir(tmp_path)
    ds = read_csv("a.csv")
    monkeypatch.chdir("/")
    assert ds.n_rows == 2
    assert read_csv(f"file://{tmp_path}/a.csv").n_rows == 2


def test_object_stores_are_read_in_pieces(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_SMALLEST", 100)
    monkeypatch.setattr(text, "_LOOK_AHEAD", 7)
    lines = [f"{i % 2} 1:{i + 1} 2:0.5 # {'x' * (i % 40)}" for i in range(300)]
    memory.pipe("/data/part-0.svm", "\n".join(lines[:200]).encode())
    memory.pipe("/data/part-1.svm", ("\n".join(lines[200:]) + "\n").encode())
    memory.pipe("/data/_SUCCESS", b"")
    ds = read_libsvm("memory://data")
    schema = ds.schema("classification")
    assert len(ds.source.pieces()) >= 16
    assert schema.class_counts == (150, 150)
    for keep in ("memory", None):
        shards = [ds.cached(keep).open(s, 4, schema) for s in range(4)]  # type: ignore[arg-type]
        values = [v for s in shards for i in range(len(s.bounds)) for v in s.block(i).x.values[::2].tolist()]
        assert values == list(range(1, 301))
    assert ds.open(3, 4, schema).place(74) == ("memory:///data/part-1.svm", 100)
    memory.pipe("/data/part-1.svm", b"\n".join([b"1 1:1"] * 90 + [b"1 oops"]) + b"\n")
    with pytest.raises(DataError, match=r"memory:///data/part-1.svm, line 91: 'oops' lacks a colon"):
        read_libsvm("memory://data/part-*.svm").schema("classification")


def test_csv_and_parquet_are_read_from_object_stores(memory: Any) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    memory.pipe("/t.csv", frame.to_csv(index=False).encode())
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    memory.pipe("/t.parquet", buffer.getvalue())
    for ds in (read_csv("memory://t.csv"), read_parquet("memory://t.parquet")):
        assert ds.schema("classification").class_counts == (2, 1)
        assert [v for b in ds.predict_blocks(1) for v in b.x[:, 0].tolist()] == [1, 2, 3]
    memory.rm("/t.parquet")
    with pytest.raises(DataError, match="no such file"):
        read_parquet("memory://t.parquet").schema("classification")


def test_a_file_that_may_not_be_read_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.svm", "1 1:1\n")

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"a.svm: cannot be read: Permission denied"):
        read_libsvm(path).schema("regression")


def test_pieces_are_planned_by_size_alone(write: Write) -> None:
    path = write("a.svm", b"\0" * (5 << 20))
    pieces = read_libsvm(path).source.pieces()
    assert len(pieces) == 16
    assert [p.start for p in pieces[1:]] == [p.stop for p in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].stop) == (0, 5 << 20)
    assert len(read_libsvm(write("b.svm.gz", b"\0" * (5 << 20))).source.pieces()) == 1


def test_heavy_libraries_are_not_imported_for_a_data_set() -> None:
    program = (
        "import sys, tutti.data, numpy as np; "
        "d = tutti.data.from_arrays(np.eye(3), [0, 1, 0]); d.open(0, 2, d.schema('classification')).block(0); "
        "print([m for m in ('numba', 'pyarrow', 'scipy', 'pandas', 'torch', 'fsspec', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
