"""Two plots as SVG, without a library: curves with letters that name them, and bars with their values at their ends.

Colours follow the reader's light or dark scheme; every plot has a ground of its own, so it is readable on any page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LIGHT = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#9a6700", "#bf3989", "#57606a")
DARK = ("#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#d29922", "#f778ba", "#9ea7b3")
GREY = len(LIGHT) - 1
"""The colour of rivals and of what is compared with."""
SHADES = {
    "text": ("fill", "#1f2328", "#e6edf3"),
    ".soft": ("fill", "#57606a", "#9ea7b3"),
    ".card": ("fill", "#ffffff", "#0d1117"),
    ".rim, .grid": ("stroke", "#d0d7de", "#30363d"),
    ".axis": ("stroke", "#57606a", "#9ea7b3"),
}


@dataclass(frozen=True)
class Curve:
    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """``value`` may be inf or nan: then there is no bar, and only ``text`` says why."""

    name: str
    value: float
    text: str
    colour: int = 0


def _style() -> str:
    def rules(dark: bool) -> str:
        found = [f"{name}{{{what}:{(light, night)[dark]}}}" for name, (what, light, night) in SHADES.items()]
        for i, colour in enumerate(DARK if dark else LIGHT):
            found += [f".l{i}{{stroke:{colour}}}", f".f{i}{{fill:{colour}}}"]
        return "".join(found)

    fixed = "text{font:13px system-ui,sans-serif}.head{font-weight:600;font-size:15px}.line{fill:none;stroke-width:2.2}"
    fixed += ".rim{fill:none}.grid,.axis{stroke-width:1}.dash{stroke-dasharray:6 4}"
    return f"<style>{fixed}{rules(False)}@media (prefers-color-scheme:dark){{{rules(True)}}}</style>"


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{turned}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _picture(title: str, height: float, parts: Iterable[str]) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    box = f'x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="6"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{escape(title)}</title>',
            _style(),
            f'<rect {box} class="card"/><rect {box} class="rim"/>',
            _text(20, 30, title, "head"),
            *parts,
            "</svg>\n",
        ]
    )


def ticks(top: float) -> list[float]:
    """Return some four to eight round numbers from 0 to at most ``top``.

    >>> ticks(27.9)
    [0, 5, 10, 15, 20, 25]
    """
    step = 10 ** math.floor(math.log10(top / 4))
    step *= next(k for k in (1, 2, 5, 10) if top / (k * step) < 8)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places near the wanted ones, in their order, at least ``gap`` from each other.

    >>> apart([10.0, 12.0, 40.0], 10.0)
    [6.0, 16.0, 40.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    heaps: list[list[int]] = []

    def spread(heap: list[int]) -> list[float]:
        middle = sum(wanted[i] for i in heap) / len(heap)
        return [middle + gap * (k - (len(heap) - 1) / 2) for k in range(len(heap))]

    for i in order:
        heaps.append([i])
        while len(heaps) > 1 and spread(heaps[-1])[0] - spread(heaps[-2])[-1] < gap:
            last = heaps.pop()
            heaps[-1] += last
    places = {i: y for heap in heaps for i, y in zip(heap, spread(heap), strict=True)}
    return [places[i] for i in range(len(wanted))]


def curves(title: str, across: str, up: str, each: Sequence[Curve], target: float | None = None) -> str:
    """Return curves over a linear axis from 0 and a logarithmic one; ``target`` is a level with its value.

    A letter at its end leads from a curve to its name; names come in the order in which the curves end.
    """
    each = sorted(each, key=lambda curve: curve.points[-1][0])
    left, right, top, bottom = 74.0, 274.0, 50.0, 370.0
    width = WIDTH - left - right
    every = [y for curve in each for _, y in curve.points] + ([target] if target else [])
    most = max(x for curve in each for x, _ in curve.points)
    low, high = math.log10(min(every)) - 0.12, math.log10(max(every)) + 0.05

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most, bottom - (bottom - top) * (math.log10(y) - low) / (high - low)

    parts = []
    for power in range(math.floor(low), math.ceil(high)):
        for digit in (1, 2, 5):
            level = digit * 10.0**power
            if low <= math.log10(level) <= high:
                y = at(0, level)[1]
                parts += [_line(left, y, left + width, y, "grid"), _text(left - 8, y + 4, f"{level:g}", "soft", "end")]
    for x in ticks(most):
        parts.append(_text(at(x, every[0])[0], bottom + 20, f"{x:g}", "soft", "middle"))
    parts += [_line(left, bottom, left + width, bottom, "axis"), _line(left, top, left, bottom, "axis")]
    parts.append(_text(left + width / 2, bottom + 42, across, "soft", "middle"))
    parts.append(_text(24, (top + bottom) / 2, up, "soft", "middle", turn=True))
    if target:
        y = at(0, target)[1]
        parts.append(_line(left, y, left + width, y, f"line l{GREY} dash"))
        parts.append(_text(left + width - 4, y - 6, f"target {target:g}", "soft", "end"))
    ends = [at(*curve.points[-1]) for curve in each]
    letters = apart([x for x, _ in ends], 12.0)
    for i, (curve, (x, y), letter) in enumerate(zip(each, ends, letters, strict=True)):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*p) for p in curve.points))
        line, key = f"line l{curve.colour}{' dash' * curve.dashed}", left + width + 16
        parts.append(f'<polyline points="{path}" class="{line}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="f{curve.colour}"/>')
        parts.append(_text(letter, y + 17, "abcdefghij"[i], f"f{curve.colour}", "middle"))
        parts.append(_line(key, top + 20 * i + 6, key + 26, top + 20 * i + 6, line))
        parts.append(_text(key + 32, top + 20 * i + 10, f"{'abcdefghij'[i]}  {curve.name}", f"f{curve.colour}"))
    return _picture(title, bottom + 60, parts)


def bars(
    title: str, across: str, groups: Sequence[tuple[str, Sequence[Bar]]], mark: tuple[float, str] | None = None
) -> str:
    """Return groups of bars, each under its heading, over one axis from 0; ``mark`` is a level with its name."""
    left, right, row = 190.0, 190.0, 24.0
    width = WIDTH - left - right
    known = [bar.value for _, each in groups for bar in each if math.isfinite(bar.value)]
    most = max([*known, mark[0] if mark else 0.0])
    parts, y = [], 52.0
    top = y
    for heading, each in groups:
        if heading:
            parts.append(_text(20, y + 14, heading, "soft"))
            y += row
        for bar in each:
            long = width * bar.value / most if math.isfinite(bar.value) else 0.0
            parts.append(_text(left - 10, y + 15, bar.name, anchor="end"))
            parts.append(f'<rect x="{left:.1f}" y="{y + 2:.1f}" width="{long:.1f}" height="18" class="f{bar.colour}"/>')
            parts.append(_text(left + max(long, width * mark[0] / most if mark else 0.0) + 8, y + 15, bar.text))
            y += row
        y += 8
    parts.append(_line(left, y, left + width, y, "axis"))
    for x in ticks(most):
        parts.append(_line(left + width * x / most, y, left + width * x / most, y + 5, "axis"))
        parts.append(_text(left + width * x / most, y + 20, f"{x:,g}", "soft", "middle"))
    if mark:
        x = left + width * mark[0] / most
        parts += [_line(x, top, x, y, f"line l{GREY} dash"), _text(x, top - 4, mark[1], "soft", "middle")]
    parts.append(_text(left + width / 2, y + 42, across, "soft", "middle"))
    return _picture(title, y + 60, parts)
