"""The measured tables of docs/imbalance.md, from benchmarks/results/imbalance.txt; empty where it is missing.

`scripts/refresh_pages.py` puts them between the page's ``<!-- measured: NAME -->`` and ``<!-- end of measured -->``.
"""

from __future__ import annotations

import re

from _measured import Results

SETS = ("MNIST", "diabetes", "breast cancer")
FORESTS = {f"imbalance of forests, {name}": f"forests on {name}" for name in SETS}
BLOCKS = {**{f"imbalance, {name}": name for name in SETS}, **FORESTS}
COLUMNS = ("balanced accuracy", "F1", "average precision", "ROC AUC", "Brier score", "mean p")
THRESHOLDS = {
    "threshold, balanced accuracy": '`TunedThresholdClassifier(scoring="balanced_accuracy")`',
    "threshold, F1": '`TunedThresholdClassifier(scoring="f1")`',
}
LINEAR = {
    "plain": "plain",
    'class_weight="balanced"': '`class_weight="balanced"`',
    'resample("oversample")': '`resample("oversample")`',
    'resample("undersample")': '`resample("undersample")`',
    **THRESHOLDS,
}
FOREST = {
    "plain": "plain",
    'class_weight="balanced"': '`class_weight="balanced"`',
    '"balanced_subsample"': '`class_weight="balanced_subsample"`',
    'bootstrap="balanced"': '`bootstrap="balanced"`',
    **THRESHOLDS,
}
HEAD = re.compile(r"^(?P<name>[^:\n]+): (?P<rows>[\d,]+) x (?P<d>\d+), (?P<rare>\d+) .*\((?P<share>[\d.]+)%\)", re.M)


def numbers(name: str, results: Results) -> dict[str, list[float]]:
    """Return by method its numbers, in the order of `COLUMNS`, on the set whose name starts so."""
    for part in results.text("imbalance").split("\n\n"):
        if part.startswith(BLOCKS[name]):
            rows = (re.fullmatch(r"(.{32})((?: +-?[\d.]+)+)", line) for line in part.splitlines()[2:])
            return {row[1].strip(): [float(word) for word in row[2].split()] for row in rows if row}
    return {}


def block(name: str, results: Results | None = None) -> str:
    """Return the table of one set, the best of each column in bold."""
    results = results or Results()
    found = numbers(name, results)
    if not found:
        return ""
    head = next(h for h in HEAD.finditer(results.text("imbalance")) if h["name"].startswith(BLOCKS[name]))
    share = float(head["share"]) / 100
    better = [max(column) for column in zip(*found.values(), strict=True)]
    better[4] = min(row[4] for row in found.values())
    better[5] = min((row[5] for row in found.values()), key=lambda p: abs(p - share))
    kind = f"{head['name'].removeprefix('forests on ')}: " if name in FORESTS else ""
    lines = [
        f"{kind}{head['rows']} x {head['d']}, {head['rare']} rows of the rare class ({head['share']} %)",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for method, row in found.items():
        cells = (f"**{v:.3f}**" if v == best else f"{v:.3f}" for v, best in zip(row, better, strict=True))
        lines.append(f"| {(LINEAR | FOREST)[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
