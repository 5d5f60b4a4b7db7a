"""The bar of long commands: on a terminal, after a second, gone at the end; otherwise nothing at all."""

from __future__ import annotations

import io
import sys

import pytest

from tutti.cli._progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def show(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO) -> None:
    """In the test and not in a fixture: pytest puts its own stderr back between the two."""
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")


def count_to_three(clock: Clock, step: float, quiet: bool = False) -> None:
    with progress("counting", None, quiet, clock) as advance:
        for _ in range(3):
            clock.now += step
            advance(1)


@pytest.mark.parametrize(
    "step, quiet, shown", [(0.6, False, True), (0.3, False, False), (5.0, True, False)], ids=["long", "short", "quiet"]
)
def test_only_a_long_command_shows_how_far_it_is(
    step: float, quiet: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    show(monkeypatch, screen)
    count_to_three(Clock(), step, quiet)
    assert ("counting" in screen.getvalue()) == shown
    assert shown or screen.getvalue() == ""


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    show(monkeypatch, file)
    count_to_three(Clock(), 5.0)
    assert file.getvalue() == ""


def test_an_error_takes_the_bar_away_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(), Terminal()
    show(monkeypatch, screen)

    def fail() -> None:
        with progress("counting", 9, clock=clock) as advance:
            clock.now = 2.0
            advance(1)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert "counting" in screen.getvalue()
