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
KEPT = ("average precision", "ROC AUC", "Brier score", "mean p")


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


def by_method(imbalance: ModuleType, measured: ModuleType, name: str) -> dict[str, dict[str, float]]:
    rows = imbalance.numbers(name, measured.Results()).items()
    return {method: dict(zip(imbalance.COLUMNS, row, strict=True)) for method, row in rows}


def test_the_tables_are_those_of_the_results(scripts: tuple[ModuleType, ...]) -> None:
    imbalance, _, pages = scripts
    text = PAGE.read_text()
    assert [found["name"] for found in pages.TABLE.finditer(text)] == list(imbalance.BLOCKS)
    assert pages.TABLE.sub(pages.measured, text) == text, "run: python scripts/refresh_pages.py docs/imbalance.md"


def test_the_words_of_the_page_hold_in_every_table(scripts: tuple[ModuleType, ...]) -> None:
    imbalance, measured, _ = scripts
    for name in imbalance.BLOCKS.keys() - imbalance.FORESTS.keys():
        found = by_method(imbalance, measured, name)
        assert list(found) == list(imbalance.LINEAR)
        plain = found["plain"]
        for method in (*SHIFTING, *THRESHOLDS):
            assert found[method]["balanced accuracy"] > plain["balanced accuracy"], (name, method)
        for method in SHIFTING:
            assert found[method]["Brier score"] > 1.3 * plain["Brier score"], (name, method)
            assert found[method]["mean p"] > 1.3 * plain["mean p"], (name, method)
        for method in THRESHOLDS:
            assert {k: found[method][k] for k in KEPT} == {k: plain[k] for k in KEPT}, (name, method)
        assert max(found, key=lambda method: found[method]["F1"]) == "threshold, F1", name
        weights, over, under = (found[method] for method in SHIFTING)
        assert weights["balanced accuracy"] == pytest.approx(over["balanced accuracy"], abs=0.01), name
        assert abs(weights["average precision"] - plain["average precision"]) < 0.03, name
        assert under["average precision"] < max(weights["average precision"], plain["average precision"]), name


def test_the_words_about_forests_hold_in_every_table(scripts: tuple[ModuleType, ...]) -> None:
    imbalance, measured, _ = scripts
    for name in imbalance.FORESTS:
        found = by_method(imbalance, measured, name)
        if not found:
            pytest.skip("forests are not measured yet: run python benchmarks/imbalance.py")
        assert list(found) == list(imbalance.FOREST)
        plain, balanced = found["plain"], found['bootstrap="balanced"']
        for method in ('class_weight="balanced"', '"balanced_subsample"'):
            assert abs(found[method]["balanced accuracy"] - plain["balanced accuracy"]) < 0.05, (name, method)
            assert balanced["balanced accuracy"] > found[method]["balanced accuracy"] + 0.05, (name, method)
        assert balanced["balanced accuracy"] > plain["balanced accuracy"] + 0.05, name
        assert balanced["Brier score"] > 1.3 * plain["Brier score"], name
        assert balanced["mean p"] > 1.3 * plain["mean p"], name
        for method in THRESHOLDS:
            assert found[method]["balanced accuracy"] > plain["balanced accuracy"], (name, method)
            assert {k: found[method][k] for k in KEPT} == {k: plain[k] for k in KEPT}, (name, method)


def test_what_is_not_measured_has_no_table(scripts: tuple[ModuleType, ...], tmp_path: Path) -> None:
    imbalance, measured, _ = scripts
    assert [imbalance.block(name, measured.Results(tmp_path)) for name in imbalance.BLOCKS] == [""] * 6
