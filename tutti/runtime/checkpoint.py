"""Checkpoints: the whole state of a training, written while it goes on, whole or not there, and checked when read.

A checkpoint is a folder ``step-000000123`` with state.safetensors and checkpoint.json, which holds the hash of the
former.  It does not depend on the number of workers; it says which job it belongs to, so that another one is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutti._spec import Spec, encode
from tutti.clock import WallClock
from tutti.errors import InputError, ParameterError
from tutti.runtime.files import sync_folder, write_durably
from tutti.types import Array, Arrays

PRIVATE = "private"
"""Arrays of shards are stored under "private/SHARD/NAME"."""
FORMAT, FORMAT_VERSION = "tutti-checkpoint", 1
STATE, HEADER = "state.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint(Spec):
    """When to write the state of a training, and where.

    Parameters
    ----------
    path : folder of this training's checkpoints; made if need be, one training at a time.
    every_steps : write every so many global steps; None: by the clock alone.
    every_minutes : write when so much time has passed since the last one; None: by steps alone.
    keep : how many of the newest to keep; the best by validation is kept besides.

    Example
    -------
    >>> Checkpoint("runs/digits", every_steps=100).keep
    3
    """

    path: str
    every_steps: int | None = None
    every_minutes: float | None = 5.0
    keep: int = 3

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ParameterError("every_steps", self.every_steps, "write at least 1, or None")
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise ParameterError("every_minutes", self.every_minutes, "write a number > 0, or None")
        if self.keep < 1:
            raise ParameterError("keep", self.keep, "write at least 1")


def falls(spec: Checkpoint, step: int, steps: int = 1) -> bool:
    """Tell whether the last ``steps`` steps, which led to ``step``, reached or passed a multiple of `every_steps`."""
    return spec.every_steps is not None and step // spec.every_steps > (step - steps) // spec.every_steps


def pack(private: Mapping[int, Arrays]) -> bytes:
    """Return the arrays of some shards as bytes."""
    from safetensors.numpy import save

    named = {f"{PRIVATE}/{s}/{name}": np.array(a, order="C") for s, own in private.items() for name, a in own.items()}
    return bytes(save(named))


def unpack(payload: bytes) -> dict[str, Array]:
    """Return what `pack` was given, under the names by which it is stored."""
    from safetensors.numpy import load

    return dict(load(payload))


def split(start: Arrays | None) -> tuple[Arrays | None, dict[int, dict[str, Array]]]:
    """Return (shared arrays, arrays of each shard) of what a checkpoint held."""
    shared: dict[str, Array] = {}
    private: dict[int, dict[str, Array]] = {}
    for name, array in (start or {}).items():
        if not name.startswith(PRIVATE + "/"):
            shared[name] = array
            continue
        _, shard, own = name.split("/", 2)
        private.setdefault(int(shard), {})[own] = array
    return (None if start is None else shared), private


def fingerprint(job: Any) -> str:
    """Return the hash of what decides the bits of a training; ``job`` is anything that `tutti._spec` can write."""
    text, arrays = encode(job)
    digest = hashlib.sha256(text)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class Writer:
    """Writes checkpoints in a thread of its own; a fault there is told and never ends the training.

    Parameters
    ----------
    spec : when and where.
    job : `fingerprint` of the training.
    tell : called with a sentence for each checkpoint that could not be written.
    """

    def __init__(self, spec: Checkpoint, job: str, tell: Callable[[str], None]) -> None:
        self._spec, self._job, self._tell = spec, job, tell
        self._clock = WallClock()
        self._last = self._clock.now()
        self._thread: threading.Thread | None = None
        self._faults: list[str] = []
        self._folder = Path(spec.path)
        for unfinished in self._folder.glob(".*.tmp"):  # of a run that was killed
            shutil.rmtree(unfinished, ignore_errors=True)

    def offer(self, step: int, state: Callable[[], Arrays], best: bool = False) -> None:
        """Write the state after ``step`` if it is time to, or if it is the best so far; ``state`` is copied at once."""
        if falls(self._spec, step) or self.overdue() or best:
            self.write(step, state, best)

    def overdue(self) -> bool:
        """Tell whether so many minutes have passed since the last checkpoint that the next one is due."""
        minutes = self._spec.every_minutes
        return minutes is not None and self._clock.now() - self._last >= 60 * minutes

    def write(self, step: int, state: Callable[[], Arrays], best: bool = False) -> None:
        """Write the state after ``step``; ``state`` is copied at once."""
        self.wait()
        self._last = self._clock.now()
        copied = {name: np.array(array, order="C") for name, array in state().items()}
        self._thread = threading.Thread(target=self._write, args=(step, copied, best), name="tutti-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when what has been begun is written, and tell what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self._faults:
            self._tell(self._faults.pop(0))

    def close(self) -> None:
        """Wait for the thread; what went wrong there is no longer told."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, arrays: dict[str, Array], best: bool) -> None:
        beside = self._folder / f".{secrets.token_hex(8)}.tmp"
        try:
            beside.mkdir(parents=True, mode=0o700)
            self._fill(beside, step, arrays, best)
            target = self._folder / f"step-{step:09d}"
            shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
            sync_folder(self._folder)
            self._forget()
        except OSError as error:
            self._faults.append(
                f"the checkpoint of step {step} could not be written to {self._folder} ({error.strerror or error}); "
                "training goes on, older checkpoints are as they were"
            )
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _fill(self, folder: Path, step: int, arrays: dict[str, Array], best: bool) -> None:
        from safetensors.numpy import save

        blob = save({name: np.atleast_1d(array) for name, array in arrays.items()})
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "step": step,
            "best": best,
            "job": self._job,
            "scalars": sorted(name for name, array in arrays.items() if array.ndim == 0),
            "bytes": len(blob),
            "sha256": hashlib.sha256(blob).hexdigest(),
        }
        write_durably(folder / STATE, blob)
        write_durably(folder / HEADER, json.dumps(header, indent=2).encode())
        sync_folder(folder)

    def _forget(self) -> None:
        """Remove all but the newest checkpoints and the newest of the best."""
        found = _folders(self._folder)
        best = [f for f in found if _is_best(f)]
        for folder in set(found[: -self._spec.keep]) - set(best[-1:]):
            shutil.rmtree(folder, ignore_errors=True)


def newest(path: str, job: str) -> tuple[int, dict[str, Array]] | None:
    """Return (step, arrays) of the newest checkpoint that is whole, or None where there is none.

    A damaged one is passed over with a warning that names it and the one taken instead.

    Raises
    ------
    InputError : the checkpoints belong to another job: other data, net, seed, shards or settings.
    """
    damaged: list[str] = []
    for folder in reversed(_folders(Path(path))):
        try:
            step, found = _read(folder, job)
        except _DamagedError as error:
            damaged.append(f"{folder.name} ({error})")
            continue
        if damaged:
            warnings.warn(f"{path}: damaged: {', '.join(damaged)}; going on from {folder.name}", stacklevel=2)
        return step, found
    if damaged:
        raise InputError(f"{path}: no checkpoint is whole: {', '.join(damaged)}; remove the folder to start anew")
    return None


class _DamagedError(Exception):
    pass


def _read(folder: Path, job: str) -> tuple[int, dict[str, Array]]:
    from safetensors.numpy import load

    try:
        header = json.loads((folder / HEADER).read_bytes())
        blob = (folder / STATE).read_bytes()
        expected, n_bytes = header["sha256"], header["bytes"]
        if header["format"] != FORMAT or header["format_version"] > FORMAT_VERSION:
            raise _DamagedError("written by a newer tutti")
    except FileNotFoundError as error:
        raise _DamagedError(f"{os.path.basename(error.filename)} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{HEADER} is not what was written: {error}") from None
    if len(blob) != n_bytes:
        raise _DamagedError(f"{STATE} has {len(blob)} bytes, expected {n_bytes}")
    if hashlib.sha256(blob).hexdigest() != expected:
        raise _DamagedError("its SHA-256 is another one")
    if header["job"] != job:
        raise InputError(
            f"{folder} belongs to another job: data, net, seed, shards or settings differ; write resume=False and "
            "another checkpoint folder, or set them as they were"
        )
    arrays = {name: np.array(array) for name, array in load(blob).items()}
    for name in header["scalars"]:
        arrays[name] = arrays[name].reshape(())
    return int(header["step"]), arrays


def _folders(path: Path) -> list[Path]:
    return sorted(f for f in path.glob("step-*") if f.is_dir())


def _is_best(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / HEADER).read_bytes())["best"])
    except (OSError, ValueError, KeyError):
        return False
