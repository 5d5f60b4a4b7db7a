"""The house rules: a fast import, nothing public undocumented, no option by accident, pages whose code runs."""

from __future__ import annotations

import argparse
import ast
import difflib
import doctest
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tutti
from tests.test_layers import tree_of

try:  # here and not in a test: it sets environment variables, and tests leave nothing behind
    import sklearn.datasets
    import sklearn.model_selection
    import sklearn.pipeline  # noqa: F401

    HAS_SKLEARN = True
except ImportError:
    HAS_SKLEARN = False

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_name("options.golden.txt")
IMPORT_BUDGET_SECONDS = 0.150
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_KERNEL_LINES = 500, 75, 120  # one loop over bytes is not cut into calls
CONTRACT = {"wants", "offers"}
"""Members that protocols.py documents for all who have them."""
HEAVY = ("torch", "numba", "ray", "pyspark", "sklearn", "scipy", "pandas", "polars", "pyarrow", "xgboost", "rich")
PUBLIC = [name for name in tutti.__all__ if name != "__version__"]


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout: which files belong to the project is unknown")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def package_files() -> list[Path]:
    return sorted((ROOT / "tutti").rglob("*.py"))


# ---- import


@pytest.mark.alone
def test_import_takes_at_most_150_ms_and_loads_nothing_heavy() -> None:
    code = "import time; t = time.perf_counter(); import tutti; s = time.perf_counter() - t; import sys\n"
    code += f"print(s, *[m for m in {HEAVY} if m in sys.modules])"
    medians = []
    for _ in range(4):  # a busy machine gets more chances; the code has none
        shots = []
        for _ in range(5):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds, *loaded = done.stdout.split()
            assert loaded == []
            shots.append(float(seconds))
        medians.append(sorted(shots)[2])
        if medians[-1] <= IMPORT_BUDGET_SECONDS:
            return
    pytest.fail(f"import tutti took {medians} s, budget {IMPORT_BUDGET_SECONDS} s")


# ---- documentation


def public_members() -> Iterator[tuple[str, Any]]:
    for name in PUBLIC:
        found = getattr(tutti, name)
        yield name, found
        if inspect.isclass(found):
            for member, value in inspect.getmembers(found):
                if (
                    not member.startswith("_")
                    and member not in CONTRACT
                    and (inspect.isfunction(value) or isinstance(value, property))
                ):
                    yield f"{name}.{member}", value


def test_every_public_name_and_method_has_a_docstring() -> None:
    assert [name for name, found in public_members() if not (inspect.getdoc(found) or "").strip()] == []


def test_every_module_says_what_is_special_about_it() -> None:
    bare = [p for p in package_files() if p.read_text().strip() and not ast.get_docstring(tree_of(p.read_text()))]
    assert [str(p.relative_to(ROOT)) for p in bare] == []


def test_the_reference_names_everything_public() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    assert [name for name in PUBLIC if f"`{name}" not in text and f"`tutti.{name}" not in text] == []


def test_the_reference_names_every_option_error_and_exit_code() -> None:
    from tutti import errors
    from tutti.cli.job import DATA_OPTIONS, OUTPUT_OPTIONS

    text = (ROOT / "docs/reference.md").read_text()
    missing = [o for o in command_line_options() if f"`{o.split()[1]}" not in text]
    missing += [o for o in (*DATA_OPTIONS, *OUTPUT_OPTIONS) if f"`{o}`" not in text]
    missing += [n for n, e in vars(errors).items() if inspect.isclass(e) and issubclass(e, Exception) and n not in text]
    missing += [code for code in ("0", "1", "2", "3", "130") if f"| {code} |" not in text]
    assert missing == []


@pytest.mark.parametrize(
    "module", [p for p in package_files() if ">>> " in p.read_text()], ids=lambda p: str(p.relative_to(ROOT))
)
def test_examples_in_docstrings_are_true(module: Path) -> None:
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    if ">>> import torch" in module.read_text():
        pytest.importorskip("torch", reason="torch is not installed")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 0
    assert results.failed == 0


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


FENCE = re.compile(r"(?P<skip><!-- not run: [^>]*-->\n)?```(?P<kind>python|text)\n(?P<body>.*?)```", re.S)
CHANGING = {
    re.compile(r"\bon \S+: shards"): "on <host>: shards",
    re.compile(r"\b[0-9a-f]{16,}\b"): "<hash>",
    re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?"): "#",
    re.compile(r"# (?:ms|s|min)\b"): "# seconds",
    re.compile(r"# (?:B|kB|MB|GB)\b"): "# bytes",
}
"""What differs from machine to machine; a page promises words and layout."""


def same_shape(text: str) -> str:
    for pattern, stands_for in CHANGING.items():
        text = pattern.sub(stands_for, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.thorough
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/how-to.md", "docs/imbalance.md"])
def test_code_on_the_pages_runs_and_prints_what_they_show(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not HAS_SKLEARN:
        pytest.skip("the pages use scikit-learn's small data sets, and it is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["page"])
    text = (ROOT / page).read_text()
    names: dict[str, Any] = {"__name__": "__page__"}
    printed, ran = "", 0
    for block in FENCE.finditer(text):
        line = text[: block.start()].count("\n") + 1
        if block["kind"] == "text":
            if not block["skip"]:
                assert same_shape(block["body"]) == same_shape(printed), f"{page}, line {line}"
            continue
        if not block["skip"]:
            exec(compile("\n" * line + block["body"], page, "exec"), names)
            printed, ran = capsys.readouterr().out, ran + 1
    assert ran > 0


def test_the_table_of_measurements_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("refresh_pages", ROOT / "scripts" / "refresh_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    found = pages.TABLE.search((ROOT / "README.md").read_text())
    assert found[0] == found["head"] + pages.measured_table() + found["tail"]


# ---- options


def command_line_options() -> list[str]:
    from tutti.cli.main import build_parser

    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = []
    for name, parser in commands.choices.items():
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                options.append(f"{name} {', '.join(action.option_strings) or action.metavar}")
    return options


def surface() -> str:
    """Every option of the public classes, functions and commands, one line each."""
    from tutti.cli import job

    lines = [f"{name}{inspect.signature(getattr(tutti, name))}" for name in sorted(PUBLIC)]
    for name in sorted(PUBLIC):
        if inspect.isclass(getattr(tutti, name)):
            members = [m for m in dir(getattr(tutti, name)) if not m.startswith("_")]
            lines.append(f"{name}: {', '.join(members)}")
    lines += [f"tutti {option}" for option in command_line_options()]
    lines.append(f"[data] {', '.join(job.DATA_OPTIONS)}")
    lines.append(f"[output] {', '.join(job.OUTPUT_OPTIONS)}")
    for table in ("READERS", "MODELS", "STRATEGIES", "ENGINES"):
        lines.append(f"{table}: {', '.join(getattr(job, table))}")
    return "\n".join(lines) + "\n"


def test_no_option_appears_or_disappears_by_accident() -> None:
    """A change of the public surface is a decision: write it down with
    python -m tests.test_house > tests/options.golden.txt, and describe it in docs/reference.md."""
    difference = difflib.unified_diff(
        GOLDEN.read_text().splitlines(), surface().splitlines(), "options.golden.txt", "now", lineterm=""
    )
    assert "\n".join(difference) == ""


def test_job_files_know_every_model_strategy_and_engine() -> None:
    from tutti.cli import job
    from tutti.estimators._base import Estimator
    from tutti.protocols import Engine, Strategy

    known = {*job.MODELS, *job.STRATEGIES, *job.ENGINES}
    classes = {name: getattr(tutti, name) for name in PUBLIC if inspect.isclass(getattr(tutti, name))}
    wanted = {n for n, c in classes.items() if issubclass(c, Estimator) or isinstance(c, Strategy | Engine)}
    assert {n for n in wanted if n not in known} == set()


# ---- size and tidiness


def test_files_and_functions_fit_on_a_few_screens() -> None:
    long = []
    for path in package_files():
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(tree_of(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = (node.end_lineno or 0) - node.lineno + 1
                if body > (MAX_KERNEL_LINES if "_kernels" in path.parts else MAX_FUNCTION_LINES):
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {body} lines")
    assert long == []


def test_no_file_speaks_of_one_machine() -> None:
    own = re.compile(r"(?<![\w./:>~-])/(?:work|root|home|Users)/\w")
    found = []
    for path in tracked():
        if path.suffix in {".png", ".npy", ".gz", ".parquet"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if own.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_unfinished_business_is_left_in_the_code() -> None:
    marks = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|breakpoint\(\)|set_trace\(\)")
    found = []
    for path in tracked("*.py", "*.md", "*.toml", "Makefile"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if marks.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


PICKLES = "tutti/_carried.py"
"""Live objects travel to the workers that this very process has started, in memory only they can see."""


def test_nothing_pickles_or_evaluates_what_comes_from_outside() -> None:
    banned = {"eval", "exec", "pickle", "cloudpickle", "dill", "marshal", "shelve", "system", "popen"}
    found = []
    for path in package_files():
        for node in ast.walk(tree_of(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [a.name.split(".")[0] for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call):
                called = node.func
                names = [called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")]
                names += ["shell=True" for k in node.keywords if k.arg == "shell"]
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in names if n in banned or n == "shell=True"]
    assert [f for f in found if not f.startswith(PICKLES)] == []


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[:2] == ["#!/usr/bin/env bash", "set -eu"]
    assert re.findall(r"\bmake\b.*", script.read_text()) == ["make test"]


if __name__ == "__main__":
    print(surface(), end="")
