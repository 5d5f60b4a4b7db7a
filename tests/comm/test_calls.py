"""Requests over connections that break: carried out once each, answered each."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tutti._frames import Channel, Door, PeerCut, PeerLate, connect, listen
from tutti._secure import Credentials, Token
from tutti.comm.tcp.calls import Answerer, Caller, Request, answers

ADD, GET = 1, 2
pytestmark = pytest.mark.timeout(60)


class Sums:
    """A server that adds what it is sent, in a thread of its own."""

    def __init__(self, credentials: Credentials | None, length: int, disturb: Callable[[Answerer], None]) -> None:
        self.total, self.n_requests = np.zeros(length), 0
        self._door = Door(listen(credentials=credentials), credentials)
        self.address = self._door.address
        self.answerer = Answerer(self._door, 8 * length)
        self._disturb, self._over = disturb, threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            for request in self.answerer.wait(0.05):
                self._handle(request)
            self._disturb(self.answerer)
        self.answerer.close()

    def _handle(self, request: Request) -> None:
        if request.kind == ADD:
            self.total += np.frombuffer(request.body)
            self.n_requests += 1
            self.answerer.reply(request, ADD, np.array([self.n_requests]))
        else:
            self.answerer.reply(request, GET, self.total.copy())

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def server(
    credentials: Credentials | None, length: int, disturb: Callable[[Answerer], None] = lambda a: None
) -> Iterator[Sums]:
    sums = Sums(credentials, length, disturb)
    try:
        yield sums
    finally:
        sums.close()


def caller(of: Sums, credentials: Credentials | None, seconds: float = 20.0) -> Caller:
    return Caller(lambda: of.address, credentials, seconds=seconds, max_bytes=1 << 20)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_request_is_answered(secure: bool) -> None:
    credentials = Credentials(Token.new()) if secure else None
    with server(credentials, 1000) as sums:
        one = caller(sums, credentials)
        for k in range(3):
            one.ask(ADD, np.full(400, 1.0 + k), np.full(600, 2.0))
            assert np.frombuffer(one.answer().payload, np.int64).tolist() == [k + 1]
        one.ask(GET)
        got = np.frombuffer(one.answer().payload)
        np.testing.assert_array_equal(got, np.r_[np.full(400, 6.0), np.full(600, 6.0)])
        assert one.n_connections == 1
        one.close()


@pytest.mark.thorough
@pytest.mark.parametrize(("secure", "n"), [(False, 1000), (True, 15)], ids=["plain", "tls"])
def test_no_request_is_lost_or_carried_out_twice_when_connections_break(secure: bool, n: int) -> None:
    """``n`` breaks, by either side, at random moments: before, inside and after frames of 200 kB."""
    credentials = Credentials(Token.new()) if secure else None
    draw, length = random.Random(1), 25_000
    servers_draw = random.Random(2)

    def disturb(answerer: Answerer) -> None:
        if servers_draw.random() < 0.2 and answerer._channels:
            answerer._close(servers_draw.choice(list(answerer._channels.values()))[0])

    with server(credentials, length, disturb) as sums:
        callers, broken, asked = [caller(sums, credentials) for _ in range(3)], 0, 0
        while broken < n or sum(c.n_connections for c in callers) < n:
            for c in callers:
                c.ask(ADD, np.full(length, 1.0))
                asked += 1
            waiting, left = list(callers), [draw.randint(0, 3) for _ in callers]  # a request gets through in the end
            while waiting:
                c = draw.choice(waiting)
                if left[callers.index(c)] and draw.random() < 0.3:
                    left[callers.index(c)] -= 1
                    c.break_connection()
                    broken += 1
                if c.pump() is not None:
                    waiting.remove(c)
        assert sums.n_requests == asked
        np.testing.assert_array_equal(sums.total, asked)
        for c in callers:
            c.close()


def test_requests_to_several_servers_travel_side_by_side() -> None:
    with server(None, 10) as first, server(None, 20) as second:
        both = [caller(first, None), caller(second, None)]
        both[0].ask(ADD, np.ones(10))
        both[1].ask(ADD, np.ones(20))
        assert [m.kind for m in answers(both)] == [ADD, ADD]
        assert (first.n_requests, second.n_requests) == (1, 1)
        for c in both:
            c.close()


def test_a_server_that_is_not_there_is_given_up_in_time() -> None:
    listening = listen(credentials=None)
    address = listening.getsockname()[:2]
    listening.close()
    one = Caller(lambda: address, None, seconds=0.3, max_bytes=100)
    one.ask(GET)
    with pytest.raises(PeerLate, match=r"0\.3 s"):
        one.answer()


def test_a_server_that_starts_anew_at_another_port_is_found() -> None:
    with server(None, 5) as first, server(None, 5) as second:
        addresses = [first.address]
        one = Caller(lambda: addresses[-1], None, seconds=10, max_bytes=100)
        one.ask(ADD, np.ones(5))
        one.answer()
        addresses.append(second.address)
        one.break_connection()
        one.ask(ADD, np.ones(5))
        one.answer()
        assert (first.n_requests, second.n_requests) == (1, 1)
        one.close()


def test_the_caller_may_end_its_wait() -> None:
    class Stop(Exception):
        pass

    def look() -> None:
        raise Stop

    with server(None, 5, disturb=lambda a: None) as sums:
        one = Caller(lambda: ("127.0.0.1", 1), None, seconds=10, max_bytes=100, look=look)
        one.ask(GET)
        with pytest.raises(Stop):
            one.answer()
        assert sums.n_requests == 0


@pytest.mark.parametrize("payload", [b"", b"x" * 15, b"x" * 2000], ids=["empty", "no name", "too long"])
def test_who_does_not_say_who_it_is_is_sent_away_and_others_are_served(payload: bytes) -> None:
    with server(None, 10) as sums:
        stranger = connect(sums.address, None, seconds=5)
        stranger.send(7, payload, seconds=5)
        with pytest.raises(ConnectionError):
            stranger.receive(seconds=5)
        stranger.close()
        one = caller(sums, None)
        one.ask(ADD, np.ones(10))
        one.answer()
        assert sums.n_requests == 1
        one.close()


def cuts(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Have the next ``n`` looks at connections find that nothing comes through any more."""
    left = iter(range(n))

    def look(channel: Channel) -> None:
        if next(left, None) is not None:
            raise PeerCut(channel.peer, "its host has not answered")

    monkeypatch.setattr(Channel, "look", look)


def test_a_connection_on_which_nothing_comes_through_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials(Token.new())
    with server(credentials, 100) as sums:
        one = Caller(lambda: sums.address, credentials, seconds=20.0, max_bytes=1 << 20, patience_seconds=1.0)
        one.ask(ADD, np.ones(100))
        one.answer()
        cuts(monkeypatch, 1)
        one.ask(ADD, np.ones(100))
        one.answer()
        assert (one.n_connections, sums.n_requests) == (2, 2)
        one.close()


@pytest.mark.thorough
@pytest.mark.alone
def test_a_server_that_no_new_connection_reaches_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials(Token.new())
    with server(credentials, 100) as sums, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(3)]  # beyond these the system drops who wants to connect
        try:
            for other in others:
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            address = [sums.address]
            given = {"seconds": 20.0, "max_bytes": 1 << 20, "patience_seconds": 1.0, "peer": "rank 3"}
            one = Caller(lambda: address[0], credentials, **given)  # type: ignore[arg-type]
            one.ask(ADD, np.ones(100))
            one.answer()
            address[0] = full.getsockname()
            cuts(monkeypatch, 1)
            one.ask(ADD, np.ones(100))
            began = time.monotonic()
            with pytest.raises(PeerCut, match="rank 3: its host cannot be reached"):
                one.answer()
            assert time.monotonic() - began < 4.0
            one.close()
        finally:
            for other in others:
                other.close()
