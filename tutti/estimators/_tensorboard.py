"""Event files as TensorBoard reads them, written without it: a few fields of protocol buffers in TFRecord frames.

A frame is: length (8 bytes), masked CRC-32C of it, the Event, masked CRC-32C of it.  An Event has wall_time (field 1,
double), step (2, varint) and file_version (3, text) or summary (5); a summary is a list of values (1) with tag (1,
text) and simple_value (2, float).  Source: tensorflow, core/lib/io/record_writer.h, core/util/event.proto.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_row(byte) for byte in range(256)]


class EventFile:
    """Scalars of a training in a new event file of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None

    def __repr__(self) -> str:
        return f"tensorboard:{self._folder}"

    def open(self, settings: Mapping[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        self._file = (self._folder / name).open("xb")
        self._put(_double(1, now) + _bytes(3, b"brain.Event:2"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        shown = {k: v for k, v in values.items() if k != "seconds"}  # every event has its wall time
        summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, v)) for tag, v in shown.items())
        self._put(_double(1, time.time()) + _whole(2, step) + _bytes(5, summary))

    def close(self, failed: bool) -> None:
        self._file.close()

    def _put(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(n: int) -> bytes:
    found = bytearray()
    while n > 0x7F:
        found.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*found, n])


def _whole(field: int, n: int) -> bytes:
    return _varint(field << 3) + _varint(n)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _float(field: int, value: float) -> bytes:
    with np.errstate(over="ignore"):  # inf, where struct would raise
        single = float(np.float32(value))
    return _varint(field << 3 | 5) + struct.pack("<f", single)
