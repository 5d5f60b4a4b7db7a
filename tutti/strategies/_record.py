"""The folder in which an asynchronous run is recorded: what it was, and the order in which updates were applied.

    run.json              what the run was: seed, parts, ranges, hashes of the rows and of the weights it began with
    order-RANK-LIFE.bin   16 bytes that say what the file is, then an `ENTRY` for each move
    end.json              written when the run has ended: hashes of the other files and of the model

Every entry is written before its range is free again, so a rank that is killed leaves all that it has moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tutti.errors import InputError, RunError
from tutti.protocols import Commons, Learner, ShardData, Worker
from tutti.serving import Pairs
from tutti.strategies._order import ENTRY, NEVER, RESTORED, TORN
from tutti.types import Array, Csr, Seat

FORMAT, FORMAT_VERSION = "tutti-order", 1
RUN, END, JOB, PLACE = "run.json", "end.json", "job.toml", "job.json"
_MAGIC = struct.pack("<12sI", b"tutti-order\0", FORMAT_VERSION)
_LINE = struct.Struct("<IHHII")
DIGEST = 32  # bytes
_MOST = 2**16 - 3  # parts and ranges that an entry has room for


def order_file(rank: int, life: int) -> str:
    return f"order-{rank}-{life}.bin"


class Log:
    """A file of entries, each of which is whole or the last one.

    Parameters
    ----------
    folder : of the record, which is there.   rank, life : of who writes.
    """

    def __init__(self, folder: Path, rank: int, life: int) -> None:
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(folder / order_file(rank, life), flags, 0o600)
        write_whole(self._file, _MAGIC, folder)

    def write(self, *entry: int) -> None:
        """Write one entry: step, part, range, read, moved."""
        write_whole(self._file, _LINE.pack(*entry), self._folder)

    def close(self) -> None:
        os.close(self._file)

    @staticmethod
    def entries(folder: Path, rank: int, life: int) -> Array:
        """Return what a process has written, whether or not it has ended."""
        path = folder / order_file(rank, life)
        return _log(path, None) if path.is_file() else np.empty(0, ENTRY)


class Recorder:
    """Writes what one rank applies.

    Parameters
    ----------
    folder : of the record, which is there.
    seat, size, parts : of this rank, of how many; items of a step.
    commons : has room for what every rank has read last, and in which life, so that others can write it down for one
        that is lost.
    n_ranges : key ranges, the sums among them.
    """

    def __init__(self, folder: Path, seat: Seat, size: int, parts: int, commons: Commons, n_ranges: int) -> None:
        self.folder, self._parts = folder, parts
        self._reads = commons.memory(8 * size * (n_ranges + 1)).view(np.int64).reshape(size, n_ranges + 1)
        self._mine, self._life = self._reads[seat.rank], seat.life
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(folder / order_file(seat.rank, seat.life), flags, 0o600)
        write_whole(self._file, _MAGIC, folder)

    def read(self, versions: Sequence[int]) -> None:
        """Note the versions that this rank computes on."""
        self._mine[:-1] = versions
        self._mine[-1] = self._life

    def note(self, item: int, i: int, read: int, moved: int = NEVER) -> None:
        """Write down that an item has moved range ``i`` from a version, or has only read it."""
        write_whole(self._file, _LINE.pack(*divmod(item, self._parts), i, read, moved), self.folder)

    def lost(self, rank: int, item: int, moved: Collection[int], torn: Collection[int]) -> None:
        """Write down for a rank that is lost what it had read, and which moves were cut in the middle."""
        if not moved:
            return
        *versions, life = self._reads[rank].tolist()
        file = os.open(self.folder / order_file(rank, life), os.O_WRONLY | os.O_APPEND)
        try:
            for i, version in enumerate(versions):
                how = TORN if i in torn else NEVER
                write_whole(file, _LINE.pack(*divmod(item, self._parts), i, version, how), self.folder)
        finally:
            os.close(file)

    def close(self) -> None:
        """End this rank's file."""
        os.close(self._file)


def write_whole(file: int, content: bytes, folder: Path) -> None:
    """Write all of it in one piece.

    Raises
    ------
    RunError : the disk is full, for instance.
    """
    try:
        if os.write(file, content) == len(content):
            return
        why = "the disk took only a part of it"
    except OSError as error:
        why = error.strerror or str(error)
    raise RunError(f"the order of updates cannot be written to {folder}: {why}; make room, or train without record")


def check_free(folder: Path) -> None:
    """Raise `InputError` unless a record may be written there: nothing, an empty folder, or a record to replace."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"record={str(folder)!r} is a file; name a folder")
    names = [f.name for f in folder.iterdir()]
    if {*names} - {JOB, PLACE} and RUN not in names:
        raise InputError(f"record={str(folder)!r} has files that are no record; name another folder, or remove them")


def known(
    worker: Worker, learner: Learner, copies: Sequence[Pairs], rows: Array, first: int, pause: int
) -> dict[str, Any]:
    """Return what has to be the same for a run to be repeated.

    Parameters
    ----------
    copies : what the first items read.   rows : `rows_sha256` of every shard.
    first, pause : the step it begins with, and the one before which all meet for the first time.
    """
    return {
        "learner": type(learner).__name__,
        "n_shards": worker.n_shards,
        "n_features": worker.schema.n_features,
        "rows": [digest.tobytes().hex() for digest in rows],
        "seed": worker.seed,
        "settings": worker.job or repr(learner),
        "first": first,
        "pause": pause,
        "began": arrays_sha256([own for pairs in copies for _, own in pairs]),
    }


_ADVICE = {
    "learner": "it is of another kind of model",
    "n_shards": "it has {theirs} shards, this one {ours}: write n_shards={theirs}, and exact=True for both",
    "n_features": "its rows have {theirs} features, these have {ours}",
    "rows": "its rows are not these: give the same data, in the same order, with the same weights of rows",
    "seed": "its seed is {theirs}, this one's {ours}: write random_state={theirs}",
    "settings": "a setting that decides the bits differs: write optimizer, lr, batch_size, ... as they were",
    "first": "it began with step {theirs}, this one with {ours}: start from the same checkpoint or fitted model",
    "pause": "its first pause was at step {theirs}, this one's at {ours}: write epochs and patience as they were",
    "began": "it began with other weights: give the same module, and start from the same checkpoint or fitted model",
}


def check_same(record: Record, ours: Mapping[str, Any]) -> None:
    """Raise `InputError` unless this is the run that was recorded."""
    for name, advice in _ADVICE.items():
        if record.facts.get(name) != ours[name]:
            why = advice.format(theirs=record.facts.get(name), ours=ours[name])
            raise InputError(f"{record.folder} is the record of another run: {why}")


def make_room(folder: Path) -> None:
    """Make the folder ready, instead of an older record."""
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in (folder / END, folder / RUN, *folder.glob("order-*.bin")):
        old.unlink(missing_ok=True)


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say what the run is."""
    if max(len(facts["parts"]), len(facts["ranges"]) + 1) > _MOST:
        raise InputError(f"an entry of a record has room for {_MOST:,} parts and ranges; write fewer servers")
    write_json(folder / RUN, {"format": FORMAT, "format_version": FORMAT_VERSION, **facts})


def seal(folder: Path, steps: int, model_sha256: str) -> None:
    """Say that the run has ended, at which step and with which model, and what was recorded of it."""
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in (folder / RUN, *_orders(folder))}
    write_json(folder / END, {"steps": steps, "model_sha256": model_sha256, "sha256": files})


def _orders(folder: Path) -> list[Path]:
    return sorted(folder.glob("order-*.bin"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a table as a private file."""
    write_private(path, json.dumps(value, indent=2).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


@dataclass(frozen=True)
class Record:
    """A recorded run.

    Parameters
    ----------
    folder : where it was found.   facts : what `begin` was told.   logs : entries of every worker.
    steps : at which the run ended; None for one that was cut short.   model_sha256 : of its model; "" if unknown.
    kept : (range, version) that a lost server was set back to, and the step of the pause before.
    """

    folder: Path
    facts: Mapping[str, Any]
    logs: tuple[Array, ...]
    steps: int | None
    model_sha256: str
    kept: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def parts(self) -> list[list[int]]:
        """The shards of each part of a step."""
        parts: list[list[int]] = self.facts["parts"]
        return parts

    @property
    def n_ranges(self) -> int:
        """Key ranges, the sums among them."""
        return len(self.facts["ranges"]) + 1

    def last_step(self) -> int:
        """Return the last step of which something is recorded, -1 if nothing is."""
        return max((int(log["step"].max()) for log in self.logs if len(log)), default=-1)

    def between(self, first: int, limit: int) -> list[Array]:
        """Return the entries of some steps, by worker."""
        return [log[(log["step"] >= first) & (log["step"] < limit)] for log in self.logs]


def read_facts(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what `begin` and `end` have written.

    Raises
    ------
    InputError : there is no record, it is damaged, or was written by a newer tutti.
    """
    if not (folder / RUN).is_file():
        raise InputError(f"{folder}: there is no recorded run here; record one with ParameterServer(record=...)")
    text = (folder / RUN).read_bytes()
    facts = _json(folder / RUN, text)
    if facts.get("format") != FORMAT or not isinstance(facts.get("format_version"), int):
        raise InputError(f"{folder / RUN} is not what describes a recorded run")
    if facts["format_version"] > FORMAT_VERSION:
        raise InputError(f"{folder} was recorded by a newer tutti: format {facts['format_version']}")
    _check(folder, facts)
    ended = _json(folder / END, (folder / END).read_bytes()) if (folder / END).is_file() else None
    if ended is not None:
        _check_end(folder, ended)
    if ended is not None and ended["sha256"].get(RUN) != hashlib.sha256(text).hexdigest():
        raise InputError(f"{folder / RUN} was changed after the run: its SHA-256 is another one; record the run again")
    return facts, ended


def read(folder: Path) -> Record:
    """Return a recorded run; raises as `read_facts`."""
    facts, ended = read_facts(folder)
    hashes = None if ended is None else ended["sha256"]
    names = {f.name for f in _orders(folder)} | {name for name in hashes or () if name != RUN}
    logs = [_log(folder / name, hashes) for name in sorted(names)]
    kept: dict[tuple[int, int], int] = {}
    if facts.get("servers_write"):
        from tutti.strategies._server_record import by_attempt

        logs, kept = by_attempt(logs)
    for log in [log[log["part"] != RESTORED] for log in logs]:
        if len(log) and (
            int(log["part"].max()) >= len(facts["parts"]) or int(log["range"].max()) > len(facts["ranges"])
        ):
            raise InputError(f"{folder} has entries of parts or ranges that its {RUN} does not know")
    steps = None if ended is None else int(ended["steps"])
    return Record(folder, facts, tuple(logs), steps, "" if ended is None else str(ended.get("model_sha256", "")), kept)


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not what was written: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not what was written: it holds no table")
    return found


def _check(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the parts are all shards and the ranges all keys, in order."""
    try:
        shards = [s for part in facts["parts"] for s in part]
        edges = [int(edge) for pair in facts["ranges"] for edge in pair]
        right = sorted(shards) == list(range(facts["n_shards"])) and edges[0] == 0 and edges[1:-1:2] == edges[2::2]
        right = right and all(isinstance(facts[name], int) for name in ("first", "pause", "seed"))
        right = right and isinstance(facts["keeps"], int | None) and isinstance(facts["server_optimizer"], dict | None)
        right = right and 0 < len(facts["parts"]) <= _MOST and len(edges) < 2 * _MOST and edges == sorted(edges)
    except (KeyError, TypeError, ValueError, IndexError):
        right = False
    if not right:
        raise InputError(f"{folder / RUN} is not what was written: its parts or ranges make no sense")


def _check_end(folder: Path, ended: Mapping[str, Any]) -> None:
    """Raise `InputError` unless it has the steps and hashes of files that lie in the folder."""
    files = ended.get("sha256")
    names = [name for name in files if name != RUN] if isinstance(files, dict) else ["none"]
    if not isinstance(ended.get("steps"), int) or not all(re.fullmatch(r"order-\d+-\d+\.bin", n) for n in names):
        raise InputError(f"{folder / END} is not what was written: its steps or hashes make no sense")


def _log(path: Path, hashes: Mapping[str, str] | None) -> Array:
    if not path.is_file():
        raise InputError(f"{path} is missing: the record is not whole; record the run again")
    content = path.read_bytes()
    if hashes is not None and hashlib.sha256(content).hexdigest() != hashes.get(path.name):
        raise InputError(f"{path} was changed after the run: its SHA-256 is another one; record the run again")
    if content[: len(_MAGIC)] != _MAGIC:
        raise InputError(f"{path} does not begin like an order of updates of format {FORMAT_VERSION}")
    body = content[len(_MAGIC) :]
    return np.frombuffer(body[: len(body) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)


def rows_sha256(data: ShardData) -> bytes:
    """Return the SHA-256 of a shard's rows."""
    digest = hashlib.sha256()
    for i in range(len(data.bounds)):
        block = data.block(i)
        x = block.x
        arrays = [x.indptr, x.indices, x.values] if isinstance(x, Csr) else [x]
        for array in (*arrays, block.y, *([] if block.weight is None else [block.weight])):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.digest()


def arrays_sha256(arrays: Sequence[Array]) -> str:
    """Return the SHA-256 of some arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
