"""The record of a run as JSON, text and HTML, from values alone."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tutti.cli.page import curve_svg, history_curve, page, run_sections
from tutti.cli.record import plain, to_json, write_record
from tutti.runtime.report import Report
from tutti.types import RankReport


def record(**changes: Any) -> dict[str, Any]:
    phases = {"read": 0.5, "compute": 1.0, "exchange": 0.0, "wait": 0.25}
    report = Report(
        seconds=1.5,
        phases=phases,
        sent_bytes=4096,
        rounds=3,
        faults=0,
        sha256="ab" * 32,
        objective=2.0,
        gap=0.001,
        converged=True,
        ranks=(RankReport(0, "host-a", 7, phases, 4096, 3),),
    )
    found = plain(
        {
            "command": "tutti train <job>.toml",
            "job": "job.toml",
            "finished": "2026-01-01T00:00:00+00:00",
            "versions": {"tutti": "0.1.0"},
            "model": {"type": "LogisticRegression", "options": {"C": 1.0}},
            "plan": {},
            "plan_text": "plan for 3 rows\n└─ time about 1 s",
            "report": report.to_dict(),
            "report_text": str(report),
            "history": [
                {"step": i, "seconds": 0.1 * i, "objective": 2.0, "gap": math.inf if i == 0 else 10.0**-i}
                for i in range(5)
            ],
            "scores": {"test": {"accuracy": 0.75}},
            "saved": None,
        }
    )
    return {**found, **changes}


def test_json_has_null_where_a_number_is_unknown() -> None:
    text = to_json({"a": math.inf, "b": [np.float32("nan"), np.int64(3)], 1: (True, None, "ü")})
    assert json.loads(text) == {"a": None, "b": [None, 3], "1": [True, None, "ü"]}


@pytest.mark.parametrize("suffix", [".json", ".txt", ".html"])
def test_each_suffix_holds_hash_plan_certificate_and_score(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"report{suffix}"
    write_record(record(), path)
    text = path.read_text(encoding="utf-8")
    for expected in ("ab" * 32, "plan for 3 rows", "LogisticRegression", "0.75", "0.1.0"):
        assert expected in text or (suffix == ".txt" and expected == "LogisticRegression")
    if suffix == ".json":
        assert json.loads(text) == record()


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_shows() -> None:
    html = page("a <b>", run_sections(record()))
    assert not re.search(r"(src|href)=|@import|url\(|<script", html)
    assert "a &lt;b&gt;" in html
    assert "tutti train &lt;job&gt;.toml" in html
    assert "<job>" not in html


def test_a_fit_that_did_not_converge_says_so_on_the_page() -> None:
    report = {**record()["report"], "converged": False, "gap": None, "relative_gap": None}
    html = run_sections(record(report=report))
    assert "NOT converged" in html
    assert "unknown" in html


def test_the_curve_has_one_point_per_certified_round() -> None:
    label, points = history_curve("fit", record()["history"])
    assert [y for _, y in points] == pytest.approx([0.05, 0.005, 0.0005, 0.00005])
    svg = ET.fromstring(curve_svg([(label, points)], "seconds", "gap"))
    assert len(svg.findall("circle")) == 4
    assert [t.text for t in svg.findall("text")][:4] == ["1e-5", "1e-4", "1e-3", "1e-2"]


def test_without_two_certified_rounds_there_is_a_sentence_instead_of_a_curve() -> None:
    assert "no curve" in curve_svg([("fit", [(0.1, 0.5)])], "seconds", "gap")
    assert "no curve" in curve_svg([("fit", [])], "seconds", "gap")


def test_a_curve_of_equal_values_is_drawn() -> None:
    ET.fromstring(curve_svg([("fit", [(0.0, 1e-3), (0.0, 1e-3)])], "seconds", "gap"))
