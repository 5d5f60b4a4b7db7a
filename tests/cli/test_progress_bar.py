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


@pytest.fixture()
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


def count_to_three(clock: Clock, step: float, quiet: bool = False) -> None:
    with progress("counting", None, quiet, clock) as advance:
        for _ in range(3):
            clock.now += step
            advance(1)


def test_a_long_command_shows_how_far_it_is(terminal: Terminal) -> None:
    count_to_three(Clock(), 0.6)
    assert "counting" in terminal.getvalue()


def test_a_short_command_shows_nothing(terminal: Terminal) -> None:
    count_to_three(Clock(), 0.3)
    assert terminal.getvalue() == ""


def test_a_quiet_command_shows_nothing(terminal: Terminal) -> None:
    count_to_three(Clock(), 5.0, quiet=True)
    assert terminal.getvalue() == ""


def test_a_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    count_to_three(Clock(), 5.0)
    assert file.getvalue() == ""


def test_an_error_takes_the_bar_away_and_goes_on(terminal: Terminal) -> None:
    clock = Clock()

    def fail() -> None:
        with progress("counting", 9, clock=clock) as advance:
            clock.now = 2.0
            advance(1)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert "counting" in terminal.getvalue()
