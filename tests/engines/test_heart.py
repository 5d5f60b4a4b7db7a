"""Beats of a connection, on the virtual clock: a cut in one direction is noticed at both ends."""

from __future__ import annotations

import pytest

from tutti.clock import VirtualClock
from tutti.engines._heart import Heart


def play(seconds: float, *, to_b: bool = True, to_a: bool = True, timeout: float = 2.0) -> tuple[float | None, ...]:
    """Return when each of two ends misses the other, after a good second; a cut end still sends."""
    clock = VirtualClock()
    ends = Heart(timeout, clock.now()), Heart(timeout, clock.now())
    missed: list[float | None] = [None, None]
    for _ in range(int((1 + seconds) / 0.05)):
        clock.advance(0.05)
        for i, open_ in ((0, to_b), (1, to_a)):
            beat = ends[i].beat(clock.now())
            if beat is not None and (open_ or clock.now() <= 1.0):
                ends[1 - i].take(beat)
        for i in (0, 1):
            if not ends[i].look(clock.now()) and missed[i] is None:
                missed[i] = clock.now() - 1.0
    return tuple(missed)


def test_nobody_is_missed_while_beats_come_and_go() -> None:
    assert play(100.0) == (None, None)


@pytest.mark.parametrize("to_b, to_a", [(False, True), (True, False), (False, False)])
def test_a_cut_is_noticed_at_both_ends_in_time(to_b: bool, to_a: bool) -> None:
    for missed in play(4.0, to_b=to_b, to_a=to_a):
        assert missed is not None
        assert 1.5 < missed < 2.5


def test_time_in_which_nobody_looked_is_nobodys_silence() -> None:
    heart = Heart(2.0, 0.0)
    assert heart.look(3600.0)
    assert heart.silence == 0.5


def test_part_of_a_large_message_is_a_sign_of_life() -> None:
    heart = Heart(2.0, 0.0)
    for k in range(1, 100):
        heart.moved()
        assert heart.look(k * 0.5)


@pytest.mark.parametrize("beat", [b"", b"\0" * 15, b"\0" * 17, b"\0" * 8 + b"\xff" * 8])
def test_what_is_no_beat_is_refused(beat: bytes) -> None:
    with pytest.raises(ValueError, match="beat"):
        Heart(2.0, 0.0).take(beat)
