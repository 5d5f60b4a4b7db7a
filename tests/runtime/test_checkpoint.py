"""Checkpoints: whole or not there, the damaged are passed over by name, a full disk does not end a training."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from tutti.errors import InputError, ParameterError
from tutti.runtime import checkpoint
from tutti.runtime.checkpoint import Checkpoint, Writer, fingerprint, newest


def state(value: float) -> dict[str, np.ndarray]:
    return {"weights": np.full(5, value, np.float32), "clock": np.arange(3), "scalar": np.array(value)}


def written(path: Path, steps: list[int], keep: int = 3, best: tuple[int, ...] = (), job: str = "job") -> list[str]:
    told: list[str] = []
    writer = Writer(Checkpoint(str(path), every_steps=1, every_minutes=None, keep=keep), job, told.append)
    for step in steps:
        writer.offer(step, lambda step=step: state(step), step in best)
    writer.wait()
    return told


def test_the_newest_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert written(tmp_path / "a", [1, 2]) == []
    step, arrays = newest(str(tmp_path / "a"), "job")
    assert step == 2
    for name, expected in state(2).items():
        assert arrays[name].dtype == expected.dtype
        assert arrays[name].shape == expected.shape
        assert np.array_equal(arrays[name], expected)


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest(str(tmp_path / "none"), "job") is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    written(tmp_path, [1, 2, 3, 4, 5, 6], keep=2, best=(1, 3))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-000000003", "step-000000005", "step-000000006"]


def test_it_writes_by_steps_only_when_they_are_due(tmp_path: Path) -> None:
    writer = Writer(Checkpoint(str(tmp_path), every_steps=10, every_minutes=None), "job", print)
    for step in range(1, 25):
        writer.offer(step, lambda: state(0))
    writer.wait()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-000000010", "step-000000020"]


def cut_short(folder: Path) -> None:
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flip(folder: Path) -> None:
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage, said",
    [
        (cut_short, "state.safetensors has"),
        (flip, "its SHA-256 is another one"),
        (lambda folder: (folder / "state.safetensors").unlink(), "state.safetensors is missing"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "checkpoint.json is not what was written"),
    ],
)
def test_a_damaged_one_is_passed_over_and_both_are_named(tmp_path: Path, damage, said: str) -> None:
    written(tmp_path, [1, 2])
    damage(tmp_path / "step-000000002")
    with pytest.warns(UserWarning, match=rf"damaged: step-000000002 \({said}.*going on from step-000000001"):
        step, _ = newest(str(tmp_path), "job")
    assert step == 1
    damage(tmp_path / "step-000000001")
    with pytest.raises(InputError, match="no checkpoint is whole"):
        newest(str(tmp_path), "job")


def test_the_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [1], job="theirs")
    with pytest.raises(InputError, match="belongs to another job"):
        newest(str(tmp_path), "mine")


def test_a_full_disk_is_told_and_the_old_one_is_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, [1])

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", full)
    (message,) = written(tmp_path, [2])
    assert "the checkpoint of step 2 could not be written" in message
    assert "No space left on device" in message
    assert [f.name for f in tmp_path.iterdir()] == ["step-000000001"]
    assert newest(str(tmp_path), "job")[0] == 1


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".abc.tmp").mkdir()
    written(tmp_path, [1])
    assert [f.name for f in tmp_path.iterdir()] == ["step-000000001"]


def test_fingerprints_tell_jobs_apart() -> None:
    job = {"lr": 0.1, "shape": (3, 4), "names": np.array(["a"], object)}
    assert fingerprint(job) == fingerprint(dict(job))
    assert fingerprint(job) != fingerprint({**job, "lr": 0.2})


@pytest.mark.parametrize("options", [{"every_steps": 0}, {"every_minutes": 0.0}, {"keep": 0}])
def test_settings_that_cannot_be(options: dict) -> None:
    with pytest.raises(ParameterError):
        Checkpoint("x", **options)
