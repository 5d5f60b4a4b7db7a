"""Whoever cannot prove to belong to a run gets no further than the handshake; what is no frame is refused, whoever sent
it.  The run does not notice, and no secret shows."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.comm.secrets_rank import LOOK, shapes
from tutti._frames import MAX_BYTES, Channel, Door, FrameError, PeerError, PeerLate, connect, listen
from tutti._secure import Credentials, Token, is_loopback
from tutti.engines.processes import Processes
from tutti.errors import ParameterError
from tutti.protocols import Program
from tutti.testing.communicator import on_ranks, tcp_ranks
from tutti.testing.engine import plan

HEADER = struct.Struct("<4sIQQ")
SECONDS = 5.0
LOOK_SECONDS = 0.02
TOKEN = Token.new()


def frame(kind: int, number: int, payload: bytes, length: int | None = None, magic: bytes = b"tut1") -> bytes:
    return HEADER.pack(magic, kind, number, len(payload) if length is None else length) + payload


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    """A raw end, which can send anything, and a channel."""
    raw, sock = socket.socketpair()
    channel = Channel(sock, "rank 7")
    try:
        yield raw, channel
    finally:
        raw.close()
        channel.close()


@contextlib.contextmanager
def opened(credentials: Credentials, seconds: float = SECONDS) -> Iterator[Door]:
    door = Door(listen(credentials=credentials), credentials, seconds)
    try:
        yield door
    finally:
        door.close()


def aside(body: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


# ---- who may speak


def stranger(kind: str, address: tuple[str, int]) -> None:
    """Try to get in, and to say something."""
    with contextlib.suppress(OSError):
        if kind in ("wrong token", "wrong run"):
            wrong = Credentials(Token.new(), "mine") if kind == "wrong token" else Credentials(TOKEN, "another")
            connect(address, wrong, seconds=SECONDS).close()
            return
        with socket.create_connection(address, SECONDS) as sock:
            if kind == "plain text":
                sock.sendall(frame(0, 0, b"hello"))
                sock.recv(100)
            elif kind == "no certificate":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                with context.wrap_socket(sock) as secure:
                    secure.sendall(frame(0, 0, b"hello"))
                    secure.recv(100)
            elif kind == "noise":
                sock.sendall(os.urandom(5000))


@pytest.mark.parametrize("kind", ["no certificate", "wrong token", "wrong run", "plain text", "noise", "hangs up"])
def test_a_stranger_gets_no_further_than_the_handshake(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    own = Credentials(TOKEN, "mine")
    with opened(own) as door, caplog.at_level(logging.WARNING, "tutti"):
        for n in (1, 2, 3):
            knocking = aside(lambda: stranger(kind, door.address))
            while door.n_refused < n:
                assert door.admit(LOOK_SECONDS) == []
            knocking.join(SECONDS)
        assert len(caplog.records) == 1
        assert "refused" in caplog.text
        assert_lets_in(door, own)


def assert_lets_in(door: Door, own: Credentials) -> None:
    made: list[Channel] = []
    knocking = aside(lambda: made.append(connect(door.address, own, seconds=SECONDS)))
    (channel,) = door.admit(SECONDS)
    knocking.join(SECONDS)
    made[0].send(3, b"hello", seconds=SECONDS)
    message = channel.receive(seconds=SECONDS)
    assert (message.kind, bytes(message.payload)) == (3, b"hello")
    made[0].close()
    channel.close()


@pytest.mark.thorough
def test_who_does_not_finish_the_handshake_keeps_nobody_waiting() -> None:
    own = Credentials(TOKEN)
    with opened(own, seconds=1.0) as door, contextlib.ExitStack() as mute:
        for _ in range(40):
            mute.enter_context(socket.create_connection(door.address, SECONDS))
        assert_lets_in(door, own)
        for _ in range(40):  # more than are listened to at a time
            mute.enter_context(socket.create_connection(door.address, SECONDS))
        while door.n_refused < 80:
            assert door.admit(LOOK_SECONDS) == []
        assert_lets_in(door, own)


def test_a_server_of_another_run_is_not_spoken_to() -> None:
    with opened(Credentials(Token.new())) as door:
        failed: list[Exception] = []

        def knock() -> None:
            try:
                connect(door.address, Credentials(TOKEN), seconds=SECONDS)
            except PeerError as error:
                failed.append(error)

        knocking = aside(knock)
        while not door.n_refused:
            assert door.admit(LOOK_SECONDS) == []
        knocking.join(SECONDS)
    assert "could not prove that it belongs to this run" in str(failed[0])


def test_only_this_version_of_tls_is_spoken() -> None:
    for server in (False, True):
        context = Credentials(TOKEN).context(server=server)
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert [dict(c["subject"][0]) for c in context.get_ca_certs()] == [{"commonName": "tutti run"}]


def test_plain_text_is_for_loopback_alone() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("192.0.2.1")
    with pytest.raises(ParameterError, match="loopback"):
        listen("0.0.0.0", credentials=None)
    with pytest.raises(ParameterError, match="loopback"):
        connect(("192.0.2.1", 9), None, seconds=SECONDS)


def test_nobody_listens_where_this_machine_is_not() -> None:
    with pytest.raises(ParameterError, match="nothing can listen there"):
        listen("192.0.2.1", credentials=Credentials(TOKEN))


# ---- token files


def test_a_token_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    TOKEN.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bytes(Token.read(path)) == bytes(TOKEN)
    with pytest.raises(ParameterError, match="cannot be created"):
        TOKEN.write(path)
    path.chmod(0o640)
    with pytest.raises(ParameterError, match="chmod 600"):
        Token.read(path)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31, "ab" * 33, "ab" * 2000])
def test_a_file_without_a_token_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ParameterError, match="it holds no token") as caught:
        Token.read(path)
    assert not text or text not in str(caught.value)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be opened"):
        Token.read(tmp_path / "none")
    with pytest.raises(ParameterError, match="plain file"):
        Token.read(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ParameterError, match="plain file"):
        Token.read(tmp_path / "pipe")


def test_a_token_does_not_show_itself() -> None:
    shown = f"{TOKEN!r} {TOKEN} {Credentials(TOKEN)!r} {vars(Credentials(TOKEN))}".encode()
    assert not any(shape in shown for shape in shapes(bytes(TOKEN)))


# ---- frames


@pytest.mark.parametrize(
    "sent, reason",
    [
        (frame(1, 0, b"ab") + frame(1, 0, b"ab"), "frame 0 where frame 1 was due"),
        (frame(1, 0, b"ab") + frame(1, 2, b"ab"), "frame 2 where frame 1 was due"),
        (frame(1, 0, b"ab") + frame(1, 1, b"", MAX_BYTES + 1), "at most 1048576 are taken"),
        (frame(1, 0, b"ab") + frame(1, 1, b"", 2**64 - 1), "at most 1048576 are taken"),
        (frame(1, 0, b"ab") + frame(1, 1, b"ab", magic=b"tut2"), "not a frame of this library"),
        (frame(1, 0, b"ab") + frame(1, 1, b"ab", 3), "in the middle of a frame"),
        (frame(1, 0, b"ab") + frame(1, 1, b"ab")[:10], "in the middle of a frame"),
        (frame(1, 0, b"ab"), "closed the connection"),
    ],
    ids=["replayed", "left out", "oversize", "boundless", "foreign", "truncated", "cut off", "closed"],
)
def test_what_cannot_be_is_refused_after_what_could(sent: bytes, reason: str) -> None:
    with pair() as (raw, channel):
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        assert bytes(channel.receive(seconds=SECONDS).payload) == b"ab"
        with pytest.raises(PeerError, match=f"rank 7.*{reason}"):
            channel.receive(seconds=SECONDS)


def test_memory_is_the_receivers_choice_before_a_byte_is_read() -> None:
    with pair() as (raw, channel):

        def place(kind: int, length: int) -> memoryview:
            raise ValueError(f"kind {kind} with {length} bytes")

        channel.place = place
        raw.sendall(frame(5, 0, b"", 1 << 60))
        with pytest.raises(FrameError, match="not expected: kind 5 with 1152921504606846976 bytes"):
            channel.receive(seconds=SECONDS)


def test_who_says_nothing_is_late() -> None:
    with pair() as (_, channel), pytest.raises(PeerLate, match="rank 7"):
        channel.receive(seconds=0.05)


def test_a_payload_lands_in_the_memory_that_lay_ready_whatever_the_cut() -> None:
    sent, memory = np.random.default_rng(0).bytes(300_000), np.zeros(300_000, np.uint8)
    with pair() as (raw, channel):
        channel.place = lambda kind, length: memory.data
        wire, found = frame(9, 0, sent), []
        for at in range(0, len(wire), 7777):
            raw.sendall(wire[at : at + 7777])
            found += channel.pump()[0]
    assert [m.kind for m in found] == [9]
    assert memory.tobytes() == sent


FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just("good"), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
        st.tuples(st.just("flipped"), st.integers(0, 2**31), st.binary(max_size=40)),
        st.tuples(st.just("noise"), st.just(0), st.binary(min_size=1, max_size=80)),
    ),
    min_size=20,
    max_size=40,
)


def fuzzed(frames: list[tuple[str, int, bytes]], cut: int) -> None:
    """Only frames that are right in every bit of the header come through, and none after the first wrong one."""
    wire, wanted, number, intact = bytearray(), [], 0, True
    for kind, value, payload in frames:
        if kind == "noise":
            wire += payload
            intact = False
        else:
            one = bytearray(frame(value, number, payload))
            if kind == "flipped":
                bit = value % (8 * HEADER.size)
                one[bit // 8] ^= 1 << bit % 8
                intact &= 32 <= bit < 64  # the kind may be anything
            wire += one
            if intact:
                wanted.append((struct.unpack_from("<I", one, 4)[0], payload))
            number += 1
    with pair() as (raw, channel):
        channel.max_bytes, found, refused = 64, [], False
        for at in range(0, len(wire), cut):
            raw.sendall(wire[at : at + cut])
            try:
                found += channel.pump()[0]
            except PeerError:
                refused = True
                break
        raw.shutdown(socket.SHUT_WR)
        while not refused:
            try:
                found += channel.pump()[0]
            except PeerError:
                refused = True
    came = [(m.kind, bytes(m.payload)) for m in found]
    assert came[: len(wanted)] == wanted
    if intact:
        assert len(came) == len(wanted)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.thorough
@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(FRAMES, st.integers(1, 300))
def test_ten_thousand_fuzzed_frames(frames: list[tuple[str, int, bytes]], cut: int) -> None:
    fuzzed(frames, cut)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=50_000, deadline=None, suppress_health_check=QUIET)
@given(FRAMES, st.integers(1, 300))
def test_a_million_fuzzed_frames(frames: list[tuple[str, int, bytes]], cut: int) -> None:
    fuzzed(frames, cut)


# ---- a run among strangers


def test_a_run_among_strangers_is_unharmed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from tutti.comm.tcp import _rendezvous

    doors: list[tuple[str, int]] = []

    def beset(**settings: Any) -> socket.socket:
        found = listen(**settings)
        doors.append(found.getsockname()[:2])
        for text in (b"GET / HTTP/1.0\r\n\r\n", frame(1, 0, struct.pack("<q", 1)), os.urandom(500)):
            with socket.create_connection(doors[-1], SECONDS) as sock:
                sock.sendall(text)
        return found

    monkeypatch.setattr(_rendezvous, "listen", beset)
    with caplog.at_level(logging.WARNING, "tutti"):
        sums = on_ranks(
            tcp_ranks, 3, lambda comm: comm.all_reduce({comm.rank: np.full(5, comm.rank + 1.0)}, 3).tolist()
        )
    assert sums == [[6.0] * 5] * 3
    assert 1 <= len(caplog.records) <= 3  # once for each rank that was knocked at while it waited
    for address in doors:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, SECONDS)


def test_a_rank_that_sends_what_is_not_due_ends_the_run_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def body(comm: Any) -> None:
        if comm.rank == 1:
            comm._pump._peers[0].channel.post(77, b"not what is due")
        comm.barrier()
        comm.barrier()

    first, second = on_ranks(tcp_ranks, 2, body)
    assert "rank 1: sent a frame that was not expected" in str(first)
    assert isinstance(second, Exception)
    assert len(caplog.records) == 1


@pytest.mark.thorough
def test_no_secret_shows_in_or_around_the_workers(capfd: pytest.CaptureFixture[str]) -> None:
    found = Processes(2, transport="tcp").launch(Program(LOOK), plan(2)).results()
    assert found[0]["token"] == found[1]["token"] != bytes(32)
    assert [f["found"] for f in found] == [[], []]
    assert all(f["right"] for f in found)
    shown = "".join(capfd.readouterr()).encode()
    assert not any(shape in shown for shape in shapes(found[0]["token"]))
    again = Processes(2, transport="tcp").launch(Program(LOOK), plan(2)).results()
    assert again[0]["token"] != found[0]["token"]
