"""Parcels and frames: every value comes back, large arrays lie once in nameless memory, any cut is fine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutti.engines import _wire
from tutti.errors import DataError, InputError, JobError, ParameterError, PlanError
from tutti.types import Place, Seat


def there_and_back(value: Any, *, share: bool) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parcel = _wire.pack(value)
        _wire.send(ours, _wire.VALUE, parcel)
        parcel.close()
        inbox, frames = _wire.Inbox(theirs), []
        while not frames:
            frames = inbox.receive()
        (frame,) = frames
        return frame.value(share=share)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    assert there_and_back(value, share=False) == value


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("n", [0, 1, 100, 100_000])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?", "U3", "S2", "M8[ns]", ">f8", "c16"])
def test_arrays_come_back(n: int, dtype: str, share: bool) -> None:
    array = np.arange(n).astype("u1").astype(dtype) if dtype != "M8[ns]" else np.arange(n).astype(dtype)
    came = there_and_back({"a": array, "b": [array[::2]]}, share=share)
    assert came["a"].dtype == array.dtype
    assert np.array_equal(came["a"], array)
    assert np.array_equal(came["b"][0], array[::2])
    assert came["a"].flags.writeable == (not share)


@pytest.mark.parametrize("shape", [(300, 400), (30, 40, 50), (0, 7), (1, 100_000), ()])
def test_column_order_is_kept(shape: tuple[int, ...]) -> None:
    array = np.asfortranarray(np.random.default_rng(0).normal(size=shape))
    for view in (array, array.T, array[..., ::-1] if array.ndim else array):
        came = there_and_back(view, share=True)
        assert np.array_equal(came, view)
        if view.flags.f_contiguous and not view.flags.c_contiguous:
            assert came.flags.f_contiguous


def test_an_array_that_occurs_twice_lies_there_once() -> None:
    x = np.ones(1 << 20)
    parcel = _wire.pack({"train": x, "again": [x, x[:]], "other": x[1:]})
    assert parcel.fd is not None
    assert os.fstat(parcel.fd).st_size < 2.1 * x.nbytes
    parcel.close()


def test_large_parcels_have_no_name_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for fd in (_wire.anonymous_memory(1 << 20), _without_memfd(monkeypatch)):
        assert os.fstat(fd).st_nlink == 0
        os.close(fd)
    assert list(tmp_path.iterdir()) == []


def _without_memfd(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    return _wire.anonymous_memory(1 << 20)


def test_frames_survive_any_cut_of_the_stream() -> None:
    ours, theirs = socket.socketpair()
    values = [{"k": k, "text": "x" * (k * 37 % 5000)} for k in range(20)]
    with ours, theirs:
        for value in values:
            _wire.send(ours, _wire.EVENT, _wire.pack(value))
        ours.close()
        stream = b""
        while data := theirs.recv(1 << 16):
            stream += data
    for cut in (1, 7, 1000):
        a, b = socket.socketpair()
        with a, b:
            b.setblocking(False)
            inbox, came = _wire.Inbox(b), []
            for at in range(0, len(stream), cut):
                a.sendall(stream[at : at + cut])
                came += [frame.value(share=False) for frame in inbox.receive()]
            assert came == values


def test_a_damaged_frame_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\xff" * 64)
        with pytest.raises(ConnectionError, match="cannot be"):
            _wire.Inbox(theirs).receive()


def test_dataclasses_travel_and_functions_do_not() -> None:
    seat = Seat(3, Place("host", 2), (1, 2))
    assert there_and_back(seat, share=True) == seat
    for wrong in (print, object(), np.zeros(2, "i4,f8")):
        with pytest.raises(InputError, match="cannot be sent"):
            _wire.pack({"x": wrong})


@pytest.mark.parametrize(
    "error",
    [
        InputError("plain"),
        PlanError("no sense"),
        JobError("table"),
        DataError("bad", path="a.csv", row=3, column="b"),
        DataError("bad", row=0, column=2),
        ParameterError("C", -1.0, "write a positive number"),
        ParameterError("strategy", object, "write a strategy"),
    ],
    ids=repr,
)
def test_input_errors_come_back_as_themselves(error: InputError) -> None:
    written = _wire.pack_error(error)
    assert written is not None
    came = _wire.unpack_error(there_and_back(written, share=False))
    assert type(came) is type(error)
    assert str(came) == str(error)
    if isinstance(error, DataError) and isinstance(came, DataError):
        assert (came.path, came.row, came.column, came.message) == (error.path, error.row, error.column, error.message)


def test_other_errors_are_not_written_down_as_input_errors() -> None:
    assert _wire.pack_error(ValueError("x")) is None
