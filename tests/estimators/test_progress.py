"""The line of a fit that takes its time."""

from __future__ import annotations

import io
import math

import pytest

from tutti.estimators import _progress
from tutti.estimators._progress import EpochProgress, RoundProgress
from tutti.types import Round, Started


def console(terminal):
    from rich.console import Console

    return Console(file=io.StringIO(), force_terminal=terminal, width=160)


def rounds(gap=0.5):
    return [Round(step, 0.1 * step, 200.0, gap, float(step)) for step in (1, 2)]


def watched(verbose, terminal, patience, monkeypatch, events=None):
    monkeypatch.setattr(_progress, "PATIENCE_SECONDS", patience)
    out = console(terminal)
    with RoundProgress("LinearSVC", verbose, out) as watch:
        for event in events or [Started(1, 0.0), *rounds()]:
            watch(event)
    return out.file.getvalue()


def test_a_long_fit_shows_its_rounds_on_a_terminal(monkeypatch):
    text = watched(True, True, 0.0, monkeypatch)
    assert "LinearSVC  round 2" in text
    assert "2.0 passes" in text
    assert "objective 200" in text
    assert "certified within 2.5e-03" in text


def test_an_unknown_gap_is_said(monkeypatch):
    assert "not certified yet" in watched(True, True, 0.0, monkeypatch, rounds(math.inf))


@pytest.mark.parametrize("verbose, terminal, patience", [(False, True, 0.0), (True, False, 0.0), (True, True, 60.0)])
def test_it_is_quiet_otherwise(verbose, terminal, patience, monkeypatch):
    assert watched(verbose, terminal, patience, monkeypatch) == ""


def test_the_terminal_is_left_in_order_when_the_fit_fails(monkeypatch):
    monkeypatch.setattr(_progress, "PATIENCE_SECONDS", 0.0)
    out = console(True)

    def failing_fit():
        with RoundProgress("x", True, out) as watch:
            watch(rounds()[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_fit()
    assert out.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_a_training_shows_epochs_speed_and_what_is_left():
    metrics = {"lr": 0.1, "valid_loss": 0.5}
    event = Round(step=40, seconds=8.0, objective=0.25, gap=math.inf, passes=4.0, metrics=metrics)
    line = EpochProgress("Net", True, epochs=10, n_rows=1000)._line(event, 8.0)
    assert line == "Net  epoch 4/10  loss 0.25  valid_loss 0.5  500 rows/s  12 s left"
