"""What a host leaves without an answer, told from what a process leaves unread; see also engines/test_cut_data.py."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from tutti._path import Path

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this system does not tell")


@pytest.mark.thorough
def test_a_peer_that_reads_nothing_for_long_is_not_cut_off() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as full,
        server.accept()[0] as idle,
    ):
        full.setblocking(False)
        paths = [Path(full, 0.6), Path(idle, 0.6)]
        with contextlib.suppress(BlockingIOError):
            while True:
                full.send(bytes(1 << 16))
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            assert all(path.look() for path in paths)
            time.sleep(0.02)
