"""The guide of modes says what the results say, its lines of code are true, and its plots are those of the results."""

from __future__ import annotations

import doctest
import math
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tutti

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "modes.md"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ...]]:
    """Return the modules that measure, draw and write the guide."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _measured
    import _modes
    import draw_modes
    import refresh_pages

    yield _measured, _modes, draw_modes, refresh_pages
    for name in ("_measured", "_modes", "_svg", "draw_modes", "refresh_pages"):
        sys.modules.pop(name, None)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Return a folder with the results of this repository, and made-up ones of those that may be missing."""
    for file in (ROOT / "benchmarks" / "results").glob("*.txt"):
        (tmp_path / file.name).write_text(file.read_text())
    modes = ("synchronous, dealt", "synchronous, dealt, 2 shards", "synchronous, claimed", "asynchronous, claimed")
    modes += ("staleness 4, dealt", "asynchronous, dealt", "staleness 4, claimed")
    text, curves = "seconds to a loss of 0.05\n", "kind,mode,repeat,seconds,loss\n"
    for kind, title in (("slow", "one of two workers four times slower"), ("random", "random delays, mean one step")):
        text += f"\n{title:40}{'seconds':>9}{'sooner':>9}{'final loss':>12}{'all epochs s':>14}\n"
        for i, mode in enumerate(modes):
            text += f"{mode:40}{10.0 / (i + 1):9.2f}{i + 1:8.2f}x{0.02:12.4f}{12.0:14.2f}\n"
            for repeat in (0, 1, 2):
                curves += "".join(f'{kind},"{mode}",{repeat},{e * 9 / (i + 1) + repeat},{0.5**e}\n' for e in (1, 2, 6))
    (tmp_path / "staleness.txt").write_text(text)
    (tmp_path / "staleness.csv").write_text(curves)
    text, curves = f"\n{'':24}{'loss 0.05':>12}\n", "mode,repeat,seconds,loss\n"
    for name, seconds in {"AllReduce": 40.0, "ddp": math.nan, "TopK + Int8": 5.0, "LocalSGD 16 + Int8": 4.0}.items():
        text += f"{name:24}{seconds:10.2f} s{40 / seconds:11.2f}x{math.nan:11.2f}x{0.01234:12.5f}\n"
        curves += "".join(f"{name},0,{e * 4},{0.5**e}\n" for e in range(1, 7))
    (tmp_path / "slow_link.txt").write_text(text)
    (tmp_path / "slow_link.csv").write_text(curves)
    systems = ("ours-async", "ours-sync", "rpc-async", "rpc-sync")
    text = "\nmodel    " + "".join(f"{s:>12}" for s in systems) + "      updates a second\n"
    text += "mlp256   " + "".join(f"{r:12.1f}" for r in (600.0, 400.0, 300.0, math.nan))
    text += "\n\nmlp256    ours-async 2.00x the best rival, rpc-async (goal 1.3x)\n"
    (tmp_path / "updates.txt").write_text(text)
    return tmp_path


def test_the_guide_says_what_the_results_say(scripts: tuple[ModuleType, ...]) -> None:
    _, modes, _, pages = scripts
    text = PAGE.read_text()
    names = [found["name"] for found in pages.TABLE.finditer(text)]
    assert sorted(names) == sorted(modes.BLOCKS), "a measured part is missing on the page, or nobody writes it"
    assert pages.TABLE.sub(pages.measured, text) == text, "run: python scripts/refresh_pages.py docs/modes.md"


def test_its_plots_are_those_of_the_results(scripts: tuple[ModuleType, ...]) -> None:
    measured, _, draw, _ = scripts
    drawn = {f"{name}.svg": svg for name, figure in draw.FIGURES.items() if (svg := figure(measured.Results()))}
    kept = {file.name: file.read_text() for file in draw.IMAGES.glob("*.svg")}
    assert kept == drawn, "run: python scripts/draw_modes.py"


def test_every_part_and_plot_is_there_once_all_is_measured(scripts: tuple[ModuleType, ...], full: Path) -> None:
    measured, modes, draw, _ = scripts
    results = measured.Results(full)
    assert [name for name in modes.BLOCKS if not modes.block(name, results) and name != "auto"] == []
    assert [name for name, figure in draw.FIGURES.items() if figure(results) is None] == []
    assert set(modes.gains(results)) >= {"alike", "slow", "free", "delays", "rare", "lossy", "hosts"}
    everything = "".join(modes.block(name, results) for name in modes.BLOCKS)
    assert "nan" not in everything
    assert "inf " not in everything.replace("math.inf ", "")
    assert "not reached" in modes.block("slow_link", results)


def test_what_is_not_measured_has_no_number_and_no_plot(scripts: tuple[ModuleType, ...], tmp_path: Path) -> None:
    measured, modes, draw, _ = scripts
    nothing = measured.Results(tmp_path)
    assert [name for name in modes.BLOCKS if modes.block(name, nothing) and name != "decisions"] == []
    assert [name for name, figure in draw.FIGURES.items() if figure(nothing) is not None] == []
    assert modes.gains(nothing) == {}


def test_places_and_ticks_are_as_its_examples_say(scripts: tuple[ModuleType, ...]) -> None:
    results = doctest.testmod(sys.modules["_svg"])
    assert results.attempted > 0
    assert results.failed == 0


def test_text_of_a_plot_stays_within_it(scripts: tuple[ModuleType, ...], full: Path) -> None:
    measured, _, draw, _ = scripts
    for name, figure in draw.FIGURES.items():
        root = ET.fromstring(figure(measured.Results(full)))
        _, _, width, height = map(float, root.get("viewBox").split())
        words = root.findall(f"{SVG}text")
        assert len(words) > 5, name
        for text in words:
            long = 7.0 * len(text.text)  # a wide font
            x = float(text.get("x")) - {"start": 0.0, "middle": long / 2, "end": long}[text.get("text-anchor")]
            if text.get("transform") is None:
                assert x >= 0, (name, text.text)
                assert x + long <= width, (name, text.text)
            assert 0 < float(text.get("y")) < height, (name, text.text)


def test_the_strategies_in_its_table_can_be_written_so(scripts: tuple[ModuleType, ...]) -> None:
    _, modes, _, _ = scripts
    for _, _, code, *_ in modes.ROWS:
        made = eval(f"dict({code})", {"tutti": tutti, "math": math, "dict": dict})
        assert made
    for code in re.findall(r"`(tutti\.\w+\(.*?\))`(?=[ ,|])", PAGE.read_text()):
        assert eval(code, {"tutti": tutti, "math": math}) is not None
