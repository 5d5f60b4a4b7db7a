"""The page on rare classes says what the results say, in its tables and in its words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "imbalance.md"
SHIFTING = ('class_weight="balanced"', 'resample("oversample")', 'resample("undersample")')
THRESHOLDS = ("threshold, balanced accuracy", "threshold, F1")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ...]]:
    """Return the modules that read the results and write the page."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _imbalance
    import _measured
    import refresh_pages

    yield _imbalance, _measured, refresh_pages
    for name in ("_imbalance", "_measured", "_modes", "_svg", "draw_modes", "refresh_pages"):
        sys.modules.pop(name, None)


def test_the_tables_are_those_of_the_results(scripts: tuple[ModuleType, ...]) -> None:
    imbalance, _, pages = scripts
    text = PAGE.read_text()
    assert [found["name"] for found in pages.TABLE.finditer(text)] == list(imbalance.BLOCKS)
    assert pages.TABLE.sub(pages.measured, text) == text, "run: python scripts/refresh_pages.py docs/imbalance.md"


def test_the_words_of_the_page_hold_in_every_table(scripts: tuple[ModuleType, ...]) -> None:
    imbalance, measured, _ = scripts
    for name in imbalance.BLOCKS:
        found = {
            method: dict(zip(imbalance.COLUMNS, row, strict=True))
            for method, row in imbalance.numbers(name, measured.Results()).items()
        }
        assert list(found) == list(imbalance.METHODS)
        plain = found["plain"]
        for method in (*SHIFTING, *THRESHOLDS):
            assert found[method]["balanced accuracy"] > plain["balanced accuracy"], (name, method)
        for method in SHIFTING:
            assert found[method]["Brier score"] > 1.3 * plain["Brier score"], (name, method)
            assert found[method]["mean p"] > 1.3 * plain["mean p"], (name, method)
        for method in THRESHOLDS:
            kept = ("average precision", "ROC AUC", "Brier score", "mean p")
            assert {k: found[method][k] for k in kept} == {k: plain[k] for k in kept}, (name, method)
        assert max(found, key=lambda method: found[method]["F1"]) == "threshold, F1", name
        weights, over, under = (found[method] for method in SHIFTING)
        assert weights["balanced accuracy"] == pytest.approx(over["balanced accuracy"], abs=0.01), name
        assert abs(weights["average precision"] - plain["average precision"]) < 0.03, name
        assert under["average precision"] < max(weights["average precision"], plain["average precision"]), name


def test_what_is_not_measured_has_no_table(scripts: tuple[ModuleType, ...], tmp_path: Path) -> None:
    imbalance, measured, _ = scripts
    assert [imbalance.block(name, measured.Results(tmp_path)) for name in imbalance.BLOCKS] == [""] * 3
