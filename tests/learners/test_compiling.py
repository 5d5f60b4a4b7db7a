"""What a first fit compiles: kernels of kernels have no way in from Python, and the log says that it takes a while."""

from __future__ import annotations

import ast
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core import event

import tutti
from tutti.learners._kernels import tree_grow
from tutti.learners._kernels.compiling import Compilations

KERNELS = "tutti.learners._kernels"
HALF = "from numba import njit\n\n@njit(cache=True)\ndef half(x):\n    return 0.5 * x\n"
OUTER = (
    "from numba import njit\nfrom tutti.learners._kernels.half import half\n\n"
    "@njit(cache=True)\ndef outer(x):\n    return half(x)\n"
)
ROOT = Path(tutti.__file__).parent.parent


def _inner_kernels() -> dict[str, set[str]]:
    """Names of the functions under ``@inner(...)``, by module."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tutti/learners/_kernels").glob("*.py"):
        for f in ast.parse(path.read_text()).body:
            if isinstance(f, ast.FunctionDef) and any(ast.unparse(d).startswith("inner(") for d in f.decorator_list):
                found.setdefault(path.stem, set()).add(f.name)
    return found


def _called(tree: ast.AST, inner: dict[str, set[str]]) -> list[str]:
    """What a file imports of the inner kernels, or takes from a module of kernels that it imports."""
    found, names = [], set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(KERNELS):
            own = (node.module or "")[len(KERNELS) + 1 :]
            found += [a.name for a in node.names if a.name in inner.get(own, ())]
            names |= {name for a in node.names if not own for name in inner.get(a.name, ())}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) != "self":
            found.append(node.attr)
    return found


def test_only_kernels_call_inner_kernels() -> None:
    """From Python the call would jump to address 0."""
    inner = _inner_kernels()
    assert "best_split" in inner["tree_grow"]
    wrong = []
    for folder in ("tutti", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent.name != "_kernels":
                tree = ast.parse(path.read_text())
                wrong += [f"{path.relative_to(ROOT)}: {name}" for name in _called(tree, inner)]
    assert not wrong


def test_the_first_compilation_of_ours_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for listener in event._registered["numba:compile"]:  # what this process has compiled before must not matter
        if isinstance(listener, Compilations):
            monkeypatch.setattr(listener, "told", False)
    with caplog.at_level(logging.INFO, "tutti"):
        njit(lambda x: x + 1)(1)  # not ours
        assert not caplog.records
        for _ in range(2):
            njit(tree_grow.times_drawn.py_func)(np.uint64(1), 0, 1, np.zeros(6, np.int64), np.zeros(1, np.uint8))
    assert [r.message.split()[0] for r in caplog.records] == ["compiling"]


def test_a_kernel_on_disk_is_old_when_any_kernel_has_changed(tmp_path: Path) -> None:
    """`outer` is compiled with `half` inside; the file of `half` changes, that of `outer` does not."""
    package = tmp_path / "tutti"
    shutil.copytree(ROOT / "tutti", package, ignore=shutil.ignore_patterns("__pycache__"))
    kernels = package / "learners/_kernels"
    (kernels / "half.py").write_text(HALF)
    (kernels / "outer.py").write_text(OUTER)
    code = "from tutti.learners._kernels.outer import outer; print(outer(8.0), *outer.stats.cache_hits)"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> str:
        return subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert run() == "4.0\n"
    assert run() == "4.0 (float64,)\n"
    (kernels / "half.py").write_text(HALF.replace("0.5", "0.25"))
    assert run() == "2.0\n"
