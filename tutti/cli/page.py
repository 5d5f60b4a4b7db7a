"""One HTML file without anything from outside: the plan, what was measured, the curve and the certificate of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Curve = tuple[str, Sequence[tuple[float, float]]]
"""A label and points (x, y)."""

_COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } .dim { color: var(--dim); }
pre, code { font: 13px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; }
code { overflow-wrap: anywhere; }
.good { color: #2b8a3e; font-weight: 600; } .bad { color: #c92a2a; font-weight: 600; }
.bar { display: inline-block; height: .7rem; background: #1f6feb; vertical-align: middle; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
"""


def page(title: str, body: str) -> str:
    """Return a complete HTML document around ``body``."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """Return a headed part of the page; ``body`` is HTML."""
    return f"<h2>{escape(title)}</h2>\n{body}\n"


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return a table; numbers are set to the right."""

    def cell(value: object) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f'<td class="n">{value:,}</td>' if number else f"<td>{escape(str(value))}</td>"

    head = f"<tr>{''.join(f'<th>{escape(h)}</th>' for h in header)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def run_sections(record: Mapping[str, Any]) -> str:
    """Return the HTML of one run; ``record`` is what `tutti.cli.record.make_record` returned."""
    report, history = record["report"], record["history"]
    if any("loss" in event for event in history):  # a net: no certificate, but a curve of its own
        verdict = section("Training", _outcome(history[-1], report))
        way = section("Losses", curve_svg(loss_curves(history), "seconds", "loss"))
    else:
        curve = history_curve(record["model"]["type"], history)
        verdict = section("Certificate", _certificate(report))
        way = section("Way to the optimum", curve_svg([curve], "seconds", "certified gap / |objective|"))
    parts = [
        verdict,
        section("Plan", f"<pre>{escape(record['plan_text'])}</pre>"),
        section("Where the time went", _phases(report)),
        way,
    ]
    if record["scores"]:
        rows = [(on, name, _short(value)) for on, found in record["scores"].items() for name, value in found.items()]
        parts.insert(1, section("Scores", table(rows, ("rows of", "score", "value"))))
    parts.append(section("Model", _model(record)))
    return "".join(parts)


def _certificate(report: Mapping[str, Any]) -> str:
    verdict = (
        '<p class="good">converged: the optimum is certified</p>'
        if report["converged"]
        else '<p class="bad">NOT converged: the gap is larger than tol allows</p>'
    )
    return verdict + table(
        [
            ("objective", _short(report["objective"])),
            ("objective - optimum is at most", _short(report["gap"])),
            ("relative to the objective", _short(report["relative_gap"])),
            ("SHA-256 of the model", report["sha256"]),
        ]
    )


def _outcome(last: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    told = [
        (name, _short(last[name])) for name in ("epoch", "step", "loss", "valid_loss", "valid_accuracy") if name in last
    ]
    return table([*told, ("SHA-256 of the model", report["sha256"])])


def _phases(report: Mapping[str, Any]) -> str:
    phases = report["phases"]
    longest = max(phases.values(), default=0.0) or 1.0
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{seconds:.3f} s</td>'
        f'<td><span class="bar" style="width:{20 * seconds / longest:.2f}rem"></span></td></tr>'
        for name, seconds in phases.items()
    )
    ranks = [
        (r["rank"], r["host"], *(f"{r['seconds'].get(p, 0.0):.3f}" for p in phases), r["sent_bytes"], r["rounds"])
        for r in report["ranks"]
    ]
    head = ("rank", "host", *(f"{p} s" for p in phases), "sent bytes", "rounds")
    return (
        f"<p>{report['seconds']:.3f} s from start to model, {report['sent_bytes']:,} bytes sent, "
        f"{report['faults']} faults; seconds below are summed over the ranks.</p><table>{rows}</table>"
        + table(ranks, head)
    )


def _model(record: Mapping[str, Any]) -> str:
    params = ", ".join(f"{k}={v!r}" for k, v in record["model"]["options"].items())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    rows = [
        ("model", f"{record['model']['type']}({params})"),
        ("saved to", record["saved"] or "not saved"),
        ("job file", record["job"]),
        ("command", record["command"]),
        ("finished", record["finished"]),
        ("versions", versions),
    ]
    return table(rows)


def history_curve(label: str, history: Sequence[Mapping[str, Any]]) -> Curve:
    """Return the certified relative gap over the seconds of a run, where it is known."""
    points = []
    for event in history:
        gap, objective = event["gap"], event["objective"]
        if gap is not None and objective and math.isfinite(gap) and math.isfinite(objective) and gap > 0:
            points.append((event["seconds"], gap / abs(objective)))
    return label, points


def loss_curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the training and validation losses over the seconds of a run, where they are known."""
    curves: list[Curve] = []
    for label, name in (("training", "loss"), ("validation", "valid_loss")):
        points = [(event["seconds"], event[name]) for event in history if name in event]
        known = [(x, y) for x, y in points if y is not None and math.isfinite(y) and y > 0]
        if known:
            curves.append((label, known))
    return curves


def curve_svg(curves: Sequence[Curve], x_name: str, y_name: str) -> str:
    """Return an inline SVG of curves with a logarithmic y axis; a sentence where there is nothing to draw."""
    points = [p for _, curve in curves for p in curve]
    if len(points) < 2:
        return '<p class="dim">Fewer than two certified rounds: no curve to draw.</p>'
    width, height, left, bottom, top, right = 760, 300, 70, 45, 15, 20
    x_max = max(x for x, _ in points) or 1.0
    lowest = math.floor(math.log10(min(y for _, y in points)))
    highest = max(math.ceil(math.log10(max(y for _, y in points))), lowest + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        up = (math.log10(y) - lowest) / (highest - lowest)
        return left + x / x_max * (width - left - right), height - bottom - up * (height - bottom - top)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_name)} over {escape(x_name)}">']
    every = -(-(highest - lowest) // 8)
    for power in range(lowest, highest + 1, every):
        _, y = at(0, 10.0**power)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for i in range(5):
        x, _ = at(x_max * i / 4, 10.0**lowest)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{x_max * i / 4:.3g}</text>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="{left}" y="{top - 3}">{escape(y_name)}</text>')
    for i, (label, curve) in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        placed = [at(x, y) for x, y in curve]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(
            f'<text x="{width - right}" y="{top + 15 * (i + 1)}" text-anchor="end" style="fill:{colour}">'
            f"{escape(label)}</text>"
        )
    return "".join([*parts, "</svg>"])


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"
