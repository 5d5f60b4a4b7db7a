"""Shards that are streamed or kept on disk leave nothing behind and hold no more than they may."""

from __future__ import annotations

import gc
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tutti.data import Dataset, from_arrays, read_csv, read_libsvm
from tutti.data.opened import BLOCK_ROWS, DiskShard, MemoryShard, PieceMemory, StreamShard, part_bytes
from tutti.protocols import Part
from tutti.types import Csr, Schema

Write = Callable[[str, Any], str]


@pytest.fixture
def data(write: Write) -> Dataset:
    return read_libsvm(write("t.svm", "".join(f"{i % 2} {i % 7 + 1}:{i}\n" for i in range(400))))


@pytest.fixture
def schema(data: Dataset) -> Schema:
    return data.schema("classification")


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_disk_blocks_are_private_mapped_and_removed_on_close(data: Dataset, schema: Schema, temp: Path) -> None:
    shard = data.cached("disk").open(1, 2, schema)
    assert isinstance(shard, DiskShard)
    assert not list(temp.iterdir())
    block = shard.block(0)
    (folder,) = temp.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert isinstance(block.x, Csr)
    assert (block.x.values == shard.block(0).x.values).all()
    with pytest.raises(ValueError, match="read-only"):
        block.y[0] = 1
    shard.close()
    shard.close()
    assert not list(temp.iterdir())
    assert (shard.block(0).x.values == block.x.values).all()
    shard.close()


@pytest.mark.thorough
def test_disk_blocks_are_removed_when_the_shard_is_forgotten(data: Dataset, schema: Schema, temp: Path) -> None:
    shard = data.cached("disk").open(0, 2, schema)
    shard.block(0)
    assert list(temp.iterdir())
    del shard
    gc.collect()
    assert not list(temp.iterdir())


def test_a_block_is_decoded_once_when_kept_on_disk(
    data: Dataset, schema: Schema, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = data.cached("disk").open(0, 2, schema)
    before = [shard.block(i).x.values.copy() for i in range(len(shard.bounds))]
    monkeypatch.setattr(type(data.source), "read", None)
    assert all((shard.block(i).x.values == b).all() for i, b in enumerate(before))
    shard.close()


def test_rows_without_values_can_be_kept_on_disk(write: Write, temp: Path) -> None:
    ds = read_libsvm(write("e.svm", "1\n0\n" + "1 3:1\n"), n_features=3).cached("disk")
    shard = ds.open(0, 3, ds.schema("classification"))
    assert shard.block(0).x.shape == (1, 3)
    shard.close()


def test_memory_shards_are_one_block_and_empty_ones_none(data: Dataset, schema: Schema) -> None:
    shard = data.open(0, 2, schema)
    assert isinstance(shard, MemoryShard)
    assert shard.bounds == ((0, 200),)
    assert shard.block(0) is shard.block(0)
    with pytest.raises(IndexError):
        shard.block(1)
    small = from_arrays([[1.0], [2.0]], [0, 1])
    empty = small.open(0, 3, small.schema("classification"))
    assert (empty.n_rows, empty.bounds) == (0, ())
    for keep in (None, "disk"):
        ds = data.cached(keep)  # type: ignore[arg-type]
        assert any(ds.open(s, 500, schema).bounds == () for s in range(500))


def test_streamed_blocks_never_exceed_their_size(write: Write) -> None:
    ds = read_csv(write("t.csv", "a,y\n" + "1,0\n2,1\n" * 70_000)).cached(None)
    shard = ds.open(0, 1, ds.schema("classification"))
    assert isinstance(shard, StreamShard)
    assert max(hi - lo for lo, hi in shard.bounds) <= BLOCK_ROWS
    assert shard.bounds[-1][1] == 140_000


def test_consecutive_blocks_of_a_piece_read_it_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    text = "a,y\n" + "1,0\n2,1\n" * 70_000
    ds = read_csv(write("t.csv.gz", gzip.compress(text.encode(), 1))).cached(None)
    shard = ds.open(0, 1, ds.schema("classification"))
    reads = []
    read = type(ds.source).read
    monkeypatch.setattr(type(ds.source), "read", lambda *a: reads.append(1) or read(*a))
    assert len([shard.block(i) for i in range(len(shard.bounds))]) == 3
    assert len(reads) == 1
    shard.close()
    shard.block(0)
    assert len(reads) == 2


def test_kept_pieces_stay_below_the_limit() -> None:
    part = Part(np.zeros((10, 10)), None)
    memory = PieceMemory(limit=2 * part_bytes(part))
    for shard in range(4):
        memory.put(shard, shard, part)
    assert [memory.get(9, p) is not None for p in range(4)] == [False, False, True, True]
    memory.forget(9)
    memory.forget(2)
    memory.forget(3)
    assert memory.get(8, 2) is None
    memory.put(0, 7, part)
    memory.put(1, 7, part)
    memory.put(2, 8, part)
    assert memory.get(0, 7) is not None  # two shards that hold the same piece count once


def test_shards_of_one_data_set_can_be_read_by_many_threads(data: Dataset, schema: Schema) -> None:
    for keep in ("memory", "disk", None):
        ds = data.cached(keep)  # type: ignore[arg-type]
        shards = [ds.open(s, 8, schema) for s in range(8)]
        sums = np.zeros(8)

        def work(s: int, shards: Any = shards, sums: Any = sums) -> None:
            for _ in range(5):
                sums[s] = sum(shards[s].block(i).x.values.sum() for i in range(len(shards[s].bounds)))

        threads = [Thread(target=work, args=(s,)) for s in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert sums.sum() == sum(range(400))
        for shard in shards:
            shard.close()


def test_a_file_of_temporary_blocks_is_gone_when_the_process_ends(write: Write, tmp_path: Path) -> None:
    import subprocess
    import sys

    path = write("t.svm", "1 1:1\n0 2:1\n")
    program = (
        "from tutti.data import read_libsvm; "
        f"ds = read_libsvm({path!r}).cached('disk'); "
        "s = ds.open(0, 1, ds.schema('classification')); s.block(0); print(s._folder.exists())"
    )
    folder = tmp_path / "t"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"
    assert not list(folder.iterdir())
