"""How programs, events and results cross a private socket pair: JSON and raw arrays, never pickles.

A parcel is JSON text plus arrays laid one after the other.  A small parcel travels inside its frame; a large one lies
in anonymous memory whose descriptor travels with the frame.  Such memory has no name, so nothing can stay behind, not
even after kill -9.  A frame always fits the socket's buffer: sending to a frozen process does not block.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._parcel import lay_out, raw, unpack
from tutti.errors import DataError, InputError, JobError, ParameterError, PlanError

_INLINE = 1 << 16  # bytes of a parcel that still travels inside its frame
_HEADER = struct.Struct("<BBHIQ")  # kind, flags, descriptors, bytes in the frame, bytes of text in the parcel
_PLACED = 1  # flag: the parcel lies in the memory whose descriptor comes last
_MAX_FRAME = 1 << 20
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

SEAT, PROGRAM, READY, EVENT, VALUE, FAILURE = range(6)


def anonymous_memory(n_bytes: int) -> int:
    """Return a descriptor of ``n_bytes`` of memory without a name; pages that are never touched cost nothing."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("tutti", os.MFD_CLOEXEC)
    else:
        import tempfile

        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        fd, name = tempfile.mkstemp(prefix="tutti-", dir=folder)
        os.unlink(name)
    try:
        os.ftruncate(fd, n_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


@dataclass(frozen=True)
class Parcel:
    """A value written down: ``body`` if it is small, else ``fd``, memory that holds it; close it after sending."""

    n_text: int
    body: bytes = b""
    fd: int | None = None

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


def pack(value: Any) -> Parcel:
    """Write a value down.

    Raises
    ------
    InputError : for a value that cannot be written down (`tutti._spec.encode`).
    """
    text, arrays, n_bytes = lay_out(value)
    if n_bytes <= _INLINE:
        body = bytearray(n_bytes)
        body[: len(text)] = text
        for at, array in arrays:
            body[at : at + array.nbytes] = raw(array)
        return Parcel(len(text), bytes(body))
    fd = anonymous_memory(n_bytes)
    try:
        _write(fd, memoryview(text), 0)
        for at, array in arrays:
            _write(fd, raw(array), at)
    except BaseException:
        os.close(fd)
        raise
    return Parcel(len(text), fd=fd)


def _write(fd: int, data: memoryview, at: int) -> None:
    while len(data):
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done


@dataclass(frozen=True)
class Frame:
    """One message.  ``fds`` belong to whoever received it."""

    kind: int
    n_text: int
    body: bytes
    placed: bool
    fds: tuple[int, ...]

    def value(self, *, share: bool) -> Any:
        """Read the parcel and close its descriptor.

        Parameters
        ----------
        share : True: arrays are read-only views of the sender's memory; False: they are copies of one's own.
        """
        if not self.placed:
            return unpack(self.n_text, self.body if share else bytearray(self.body))
        fd = self.fds[-1]
        try:
            n_bytes = os.fstat(fd).st_size
            if share:
                return unpack(self.n_text, mmap.mmap(fd, n_bytes, prot=mmap.PROT_READ))
            memory = np.empty(n_bytes, np.uint8)
            at = 0
            while at < n_bytes:
                at += os.preadv(fd, [memory[at:].data], at)
            return unpack(self.n_text, memory)
        finally:
            os.close(fd)

    def take(self) -> bytes | mmap.mmap:
        """Return the memory of the parcel as it came, and close its descriptor."""
        if not self.placed:
            return self.body
        try:
            return mmap.mmap(self.fds[-1], 0, prot=mmap.PROT_READ)
        finally:
            self.close()

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def send(sock: socket.socket, kind: int, parcel: Parcel, fds: tuple[int, ...] = ()) -> None:
    """Send one frame; ``fds`` travel before the parcel's own."""
    all_fds = [*fds, parcel.fd] if parcel.fd is not None else [*fds]
    header = _HEADER.pack(kind, _PLACED if parcel.fd is not None else 0, len(all_fds), len(parcel.body), parcel.n_text)
    data = memoryview(header + parcel.body)
    sent = socket.send_fds(sock, [data], all_fds) if all_fds else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


class Inbox:
    """Takes frames apart that arrive on a socket in any cut; never blocks if the socket does not."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self._fds: deque[int] = deque()
        self.closed = False

    def receive(self) -> list[Frame]:
        """Read what is there (or wait for something, on a blocking socket) and return the frames now complete."""
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 17, 16, _CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionError:
            data, fds = b"", []
        self._fds.extend(fds)
        self.closed = self.closed or not data
        self._data += data
        frames = []
        while len(self._data) >= _HEADER.size:
            kind, flags, n_fds, n_body, n_text = _HEADER.unpack_from(self._data)
            if n_body > _MAX_FRAME:
                raise ConnectionError(f"a frame of {n_body} bytes cannot be; the channel is damaged")
            end = _HEADER.size + n_body
            if len(self._data) < end:
                break
            own = tuple(self._fds.popleft() for _ in range(n_fds))
            frames.append(Frame(kind, n_text, bytes(self._data[_HEADER.size : end]), bool(flags & _PLACED), own))
            del self._data[:end]
        return frames

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


class _Shown(str):
    """Text that stands for a value which could not travel; its repr is the value's."""

    def __repr__(self) -> str:
        return str(self)


def pack_error(error: BaseException) -> dict[str, Any] | None:
    """Write an `InputError` down so that `unpack_error` makes the same again; None for any other exception."""
    if isinstance(error, DataError):
        return {
            "kind": "DataError",
            "message": error.message,
            "path": error.path,
            "row": error.row,
            "column": error.column,
        }
    if isinstance(error, ParameterError):
        came: Any = error.came
        if not isinstance(came, None | bool | int | float | str):
            came = {"shown": repr(came)}
        return {"kind": "ParameterError", "name": error.name, "came": came, "expected": error.expected}
    for cls in (JobError, PlanError, InputError):
        if isinstance(error, cls):
            return {"kind": cls.__name__, "message": str(error)}
    return None


def unpack_error(written: dict[str, Any]) -> InputError:
    """Make the exception again that `pack_error` wrote down."""
    kind = written["kind"]
    if kind == "DataError":
        row, column = written["row"], written["column"]
        return DataError(written["message"], path=written["path"], row=row, column=column)
    if kind == "ParameterError":
        came = written["came"]
        return ParameterError(
            written["name"], _Shown(came["shown"]) if isinstance(came, dict) else came, written["expected"]
        )
    return {"JobError": JobError, "PlanError": PlanError, "InputError": InputError}[kind](written["message"])
