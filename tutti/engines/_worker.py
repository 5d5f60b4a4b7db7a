"""The process of a rank: waits for a program, runs it, sends back what came out, waits for the next.

A second thread shows that the process lives, and ends it at once when the caller is gone, whatever the first one does.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from tutti._arena import Arena, ShmLink
from tutti._board import BEAT, STEP, Board
from tutti._parcel import unpack
from tutti._spec import check_plain, resolve
from tutti.engines import _wire
from tutti.engines._common import aborted, describe
from tutti.engines._malloc import give_back_memory, keep_memory
from tutti.engines._peers import HostLink, Peers
from tutti.errors import Aborted, Unreachable
from tutti.types import Event, Seat

_PULSE_SECONDS = 0.2


class _Pulse(threading.Thread):
    """Counts up the BEAT word during a run; ends the process when the caller's end of the channel is closed."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="tutti-pulse", daemon=True)
        self._poll = select.poll()
        self._poll.register(sock, 0)  # a hang-up is reported without being asked for
        self._beating: tuple[Board, int] | None = None

    def begin(self, board: Board, rank: int) -> None:
        board.set(rank, BEAT, 1)
        self._beating = (board, rank)

    def end(self) -> None:
        self._beating = None

    def run(self) -> None:
        while not self._poll.poll(_PULSE_SECONDS * 1e3):
            beating = self._beating
            if beating is not None:
                board, rank = beating
                board.set(rank, BEAT, board.get(rank, BEAT) + 1)
        os._exit(0)


class _Context:
    def __init__(self, seat: Seat, link: ShmLink, sock: socket.socket) -> None:
        self.seat, self.link = seat, link
        self._sock = sock

    def emit(self, event: Event) -> None:
        parcel = _wire.pack(event)
        _wire.send(self._sock, _wire.EVENT, parcel)
        parcel.close()
        self._go_on()

    def at_step(self, step: int) -> None:
        self.link.board.set(self.link.rank, STEP, step)
        self._go_on()

    def _go_on(self) -> None:
        if self.link.board.aborted():
            raise aborted(self.link.rank)


class _Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = _wire.Inbox(sock)
        self._pulse = _Pulse(sock)
        self._arena: Arena | None = None
        self._context: _Context | None = None

    def serve(self) -> NoReturn:
        self._pulse.start()
        _wire.send(self._sock, _wire.READY, _wire.pack(None))
        while not self._inbox.closed:
            for frame in self._inbox.receive():
                if frame.kind == _wire.SEAT:
                    self._sit(frame)
                else:
                    self._answer(frame)
        os._exit(0)

    def _sit(self, frame: _wire.Frame) -> None:
        """Learn who this process is in the coming run."""
        order = unpack(frame.n_text, frame.body)
        fds = list(frame.fds)
        if order["arena"]:
            if self._arena is not None:
                self._arena.close()
            self._arena = Arena(fds.pop(0))
        _adopt(order["surroundings"])
        assert self._arena is not None
        if order["transport"] == "tcp":
            from tutti._secure import forbid_core_dumps

            forbid_core_dumps()
        seat, size = order["seat"], order["size"]
        board = Board(self._arena.words(size), size)
        link: ShmLink
        if order.get("peers") is None:
            link = ShmLink(self._arena, board, seat.rank, size, order["transport"])
        else:
            link = HostLink(self._arena, board, seat.rank, size, Peers(fds.pop(0), **order["peers"]), order["hosts"])
        self._context = _Context(seat, link, self._sock)
        self._pulse.begin(board, seat.rank)

    def _answer(self, frame: _wire.Frame) -> None:
        kind, parcel = self._run(frame)
        self._pulse.end()
        if self._context is not None and isinstance(self._context.link, HostLink):
            self._context.link.close()
        self._context = None
        if kind == _wire.FAILURE:
            gc.collect()  # the traceback of a failure holds the program's arrays in cycles
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        _wire.send(self._sock, kind, parcel)
        parcel.close()
        give_back_memory()

    def _run(self, frame: _wire.Frame) -> tuple[int, _wire.Parcel]:
        context = self._context
        assert context is not None
        try:
            program = frame.value(share=True)
            if isinstance(context.link, HostLink):
                check_plain(program)
            value = resolve(program["function"])(context, **program["arguments"])
            context.link.board.finish(context.link.rank)
            return _wire.VALUE, _wire.pack(value)
        except BaseException as error:
            what, trace = describe(error)
            secondary = isinstance(error, Aborted)
            written: dict[str, Any] = {"secondary": secondary, "what": what, "trace": trace}
            written["unreachable"] = isinstance(error, Unreachable)
            written["input"] = _wire.pack_error(error)
            return _wire.FAILURE, _wire.pack(written)


def _adopt(surroundings: dict[str, Any]) -> None:
    """Take over what has changed around the caller: import path, working directory, environment."""
    if "path" in surroundings and sys.path != surroundings["path"]:
        sys.path[:] = surroundings["path"]
        importlib.invalidate_caches()
    if surroundings.get("folder") is not None:
        os.chdir(surroundings["folder"])
    if "environment" in surroundings:
        wanted = surroundings["environment"]
        for name in os.environ.keys() - wanted.keys():
            del os.environ[name]
        os.environ.update(wanted)


def main(fd: int) -> NoReturn:
    """Serve the caller at the other end of the socket ``fd`` until it closes it."""
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears Ctrl-C and decides
    _Worker(socket.socket(fileno=fd)).serve()
