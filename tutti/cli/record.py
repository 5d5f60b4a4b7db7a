"""The record of a training run as plain values, and the files it is written to: .json, .txt, .html."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tutti.cli._files import write_text
from tutti.cli.page import page, run_sections

_PARTS = ("numpy", "numba", "pyarrow", "safetensors")


def make_record(
    *,
    command: str,
    job: str,
    model: Mapping[str, Any],
    plan: Any,
    report: Any,
    history: Any,
    scores: Mapping[str, Mapping[str, float]],
    saved: str | None,
) -> dict[str, Any]:
    """Return everything a reader needs to judge or repeat a run, as values that JSON knows.

    Parameters
    ----------
    command, job : how the run was started.
    model : {"type": name, "options": {...}}.
    plan : an explanation with ``to_dict()`` and ``str()``.
    report : the fit's report with ``to_dict()``.
    history : one mapping per round: step, seconds, objective, gap, passes.
    scores : by the name of the rows they were taken on.
    saved : folder of the model.
    """
    record: dict[str, Any] = plain(
        {
            "command": command,
            "job": job,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "model": dict(model),
            "plan": plan.to_dict(),
            "plan_text": str(plan),
            "report": report.to_dict(),
            "report_text": str(report),
            "history": [dict(event) for event in history],
            "scores": {on: dict(found) for on, found in scores.items()},
            "saved": saved,
        }
    )
    return record


def versions() -> dict[str, str]:
    """Return the versions of tutti, Python and the parts that compute, and the platform."""
    from tutti import __version__

    found = {"tutti": __version__, "python": platform.python_version()}
    for part in _PARTS:
        found[part] = metadata.version(part)
    return {**found, "platform": platform.platform()}


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write the record to a .json, .txt or .html file, whole or not at all."""
    if path.suffix == ".json":
        write_text(path, to_json(record, indent=2) + "\n")
    elif path.suffix == ".html":
        write_text(path, page(f"tutti: {record['model']['type']}", run_sections(record)))
    else:
        write_text(path, as_text(record))


def as_text(record: Mapping[str, Any]) -> str:
    """Return the record for people: plan, report, scores, origin."""
    scores = [f"  {on}  {_scores(found)}" for on, found in record["scores"].items()]
    parts = [
        record["plan_text"],
        record["report_text"],
        *(["scores", *scores] if scores else []),
        f"model    {record['saved'] or 'not saved'}",
        f"command  {record['command']}",
        f"versions {', '.join(f'{k} {v}' for k, v in record['versions'].items())}",
    ]
    return "\n".join(parts) + "\n"


def _scores(found: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'unknown' if value is None else format(value, '.6g')}" for name, value in found.items())


def to_json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON: nan and infinity, which JSON has no words for, become null."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Return nested values as what JSON knows; nan and infinity become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    return str(value)
