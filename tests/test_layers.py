"""The arrows between the layers, read from the source with ast: lazy and type-only imports count like any other."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "tutti"

LEVELS: dict[str, int] = {
    "types": 0, "errors": 0, "_board": 0, "calling": 0, "forms": 0, "pieces": 0, "_kernel_cache": 0, "_pages": 1,
    "protocols": 1, "_path": 1, "_secure": 1, "_spec": 1,
    "seeds": 2, "clock": 2, "serving": 2, "tasking": 2, "counting": 2, "nesting": 2, "_carried": 2, "_arena": 2,
    "_frames": 2, "_parcel": 2, "_merging": 2,
    "data": 3, "comm": 3, "learners": 3, "transforms": 3, "strategies": 3, "engines": 3,
    "runtime": 4,
    "planner": 5, "sim": 5, "testing": 5,
    "estimators": 6, "export": 6, "torch_backend": 6,
    "": 7,  # tutti/__init__.py: the public names
    "cli": 8, "serve": 8, "__main__": 9,
}  # fmt: skip

RUNTIME = {"numpy", "numba", "llvmlite", "pyarrow", "fsspec", "safetensors", "threadpoolctl", "rich", "cryptography"}
"""What pyproject.toml installs; anything else is optional and has its home below."""

HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("learners.module", "comm.torch", "engines.torchrun"),
    "ray": ("engines.ray",),
    "pyspark": ("engines.spark",),
    "xgboost": ("learners.boosting",),
    "sklearn": ("estimators",),
    "scipy": ("estimators", "data"),
    "pandas": ("estimators", "data"),
    "polars": ("estimators", "data"),
    "s3fs": ("data",),
    "cloudpickle": ("_carried",),
    "mlflow": ("estimators",),
    "joblib": ("estimators",),
    "optuna": ("estimators._optuna",),
}
"""Optional third parties and the only modules (or folders) that may import them: inside a function, or in a private
module, which `heavy_at_import` keeps from being loaded by a public one."""

HEAVY = {"numba", "llvmlite", "pyarrow", "safetensors", "threadpoolctl", "rich", "fsspec", "cryptography", *HOMES}
"""Never imported by merely importing a public module: `import tutti` and a notebook's tab key stay fast."""

STDLIB = sys.stdlib_module_names


@dataclass(frozen=True)
class Import:
    """``module`` imports ``target`` in line ``line``; ``eager`` unless inside a function or under TYPE_CHECKING."""

    module: str
    target: str
    line: int
    eager: bool


BY_NAME = re.compile(r"tutti(\.\w+)*:\w+(\.\w+)*")
"""How a program is written down for another process (`tutti._spec.resolve`): an import in disguise, never eager."""

Sources = Mapping[str, str]
"""Source text by dotted name below the package: "" is tutti/__init__.py, "comm.reduction", ..."""


def read_package(root: Path = ROOT) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def unit(module: str) -> str:
    """The folder or single file of level 0-9 that a module belongs to."""
    return module.split(".")[0]


def imports_of(module: str, source: str, sources: Sources) -> Iterator[Import]:
    """Every import of a module: ``import``, ``from``, relative, import_module("..."), and names "tutti.module:name"."""

    def own(dotted: str) -> str:
        return "tutti" if not dotted else f"tutti.{dotted}"

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = any(m.startswith(f"{module}.") for m in sources) or not module
                up = module.split(".") if module else []
                up = up[: len(up) - node.level + (1 if is_package else 0)]
                base = own(".".join([*up, *([base] if base else [])]))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner.removeprefix("tutti.") in sources else base
        elif isinstance(node, ast.Call) and _called(node.func) in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and BY_NAME.fullmatch(node.value):
            yield node.value.split(":")[0]

    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(module, target, node.lineno, eager and not isinstance(node, ast.Constant))  # type: ignore[attr-defined]
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and _called(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, eager and not inside and not typing_only)

    yield from walk(tree_of(source), True)


@functools.cache
def tree_of(source: str) -> ast.Module:
    """The syntax of a file, which is parsed once for all planted mistakes."""
    return ast.parse(source)


def _called(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def all_imports(sources: Sources) -> list[Import]:
    return [i for module, source in sources.items() for i in imports_of(module, source, sources)]


def is_own(target: str) -> bool:
    return target == "tutti" or target.startswith("tutti.")


def wrong_arrows(sources: Sources) -> list[str]:
    """Imports that go up, or sideways between units of one level."""
    found = []
    for i in all_imports(sources):
        if not is_own(i.target):
            continue
        here, there = unit(i.module), unit(i.target.removeprefix("tutti").removeprefix("."))
        if here == there:
            continue
        for name in {here, there} - LEVELS.keys():
            found.append(f"tutti.{i.module}:{i.line} belongs to no layer: {name!r}; add it to LEVELS")
        up, down = LEVELS.get(here, 99), LEVELS.get(there, -1)
        if down >= up and not (here == "" or there not in LEVELS):
            arrow = "up" if down > up else "sideways"
            found.append(f"tutti.{i.module}:{i.line} (level {up}) imports {i.target} (level {down}): {arrow}")
    return found


def homeless_parts(sources: Sources) -> list[str]:
    """Third parties imported outside the one place that wraps them, or that nobody declared."""
    found = []
    for i in all_imports(sources):
        party = i.target.split(".")[0]
        if is_own(i.target) or party in STDLIB or party in RUNTIME:
            continue
        homes = HOMES.get(party)
        where = f"tutti.{i.module}:{i.line} imports {i.target}"
        if homes is None:
            found.append(f"{where}, which is neither a dependency nor a declared optional part")
        elif not any(i.module == h or i.module.startswith(f"{h}.") for h in homes):
            found.append(f"{where}; only {', '.join(homes)} may")
        elif i.eager and not i.module.split(".")[-1].startswith("_"):
            found.append(f"{where} at module level; optional parts are imported inside functions")
    return found


def heavy_at_import(sources: Sources) -> list[str]:
    """Public modules that load a heavy third party when they are merely imported, with the way there."""
    eager: dict[str, list[Import]] = {}
    for i in all_imports(sources):
        if i.eager:
            eager.setdefault(i.module, []).append(i)

    def way(module: str, seen: set[str]) -> list[str] | None:
        seen.add(module)
        parents = [module.rsplit(".", k)[0] for k in range(1, module.count(".") + 1)]
        for i in eager.get(module, []):
            if i.target.split(".")[0] in HEAVY:
                return [f"tutti.{module}:{i.line}", i.target]
        nearer = [i.target.removeprefix("tutti").removeprefix(".") for i in eager.get(module, []) if is_own(i.target)]
        for below in [*parents, *nearer]:
            found = way(below, seen) if below in sources and below not in seen else None
            if found:
                return [f"tutti.{module}", *found]
        return None

    public = [m for m in sources if not any(part.startswith("_") for part in m.split("."))]
    return [" -> ".join(found) for m in public if (found := way(m, set()))]


def test_imports_go_down_only() -> None:
    assert wrong_arrows(read_package()) == []


def test_each_third_party_lives_in_its_one_place() -> None:
    assert homeless_parts(read_package()) == []


def test_importing_a_public_module_loads_nothing_heavy() -> None:
    assert heavy_at_import(read_package()) == []


def test_every_unit_of_the_package_has_a_level() -> None:
    assert {unit(m) for m in read_package()} <= LEVELS.keys()


@pytest.mark.parametrize(
    "module, source",
    [
        ("comm.planted", "import tutti.runtime.driver"),
        ("comm.planted", "from tutti.data import read_csv"),
        ("comm.planted", "from tutti import runtime"),
        ("comm.planted", "from tutti import Ridge"),
        ("comm.planted", "from ..runtime import driver"),
        ("comm.planted", "def f():\n    from tutti.strategies import all_reduce"),
        ("comm.planted", "class A:\n    def f(self):\n        import tutti.learners._problem"),
        ("comm.planted", "if TYPE_CHECKING:\n    from tutti.planner import choose"),
        ("comm.planted", "import importlib\nm = importlib.import_module('tutti.engines.threads')"),
        ("comm.planted", "program = 'tutti.runtime.worker:fit_rank'"),
        ("types", "from tutti.errors import InputError"),
        ("errors", "from tutti.types import Plan"),
        ("estimators.planted", "def f():\n    from tutti.cli import job"),
    ],
)
def test_the_checker_catches_a_planted_arrow(module: str, source: str) -> None:
    sources = {
        **dict.fromkeys(["runtime", "data", "strategies", "planner", "cli", "comm", "comm.x"], ""),
        module: source,
    }
    (found,) = wrong_arrows(sources)
    assert found.startswith(f"tutti.{module}:")


def test_the_checker_lets_arrows_down_pass() -> None:
    sources = {
        "comm.a": "from tutti.comm import b\nfrom .b import f\nfrom tutti.types import Plan\nimport numpy",
        "comm.b": "import math",
        "types": "",
        "cli.main": "import tutti\nfrom tutti.cli.job import Job",
        "": "import importlib",
    }
    assert wrong_arrows(sources) == homeless_parts(sources) == heavy_at_import(sources) == []


def test_the_checker_catches_a_unit_without_a_level() -> None:
    (found,) = wrong_arrows({"surprise": "import tutti.types", "types": ""})
    assert "belongs to no layer: 'surprise'" in found


@pytest.mark.parametrize(
    "module, source, wrong",
    [
        ("strategies.planted", "def f():\n    import ray", "only engines.ray may"),
        ("engines.ray", "import ray", "inside functions"),
        ("runtime.planted", "def f():\n    import requests", "neither a dependency"),
        ("learners.dual", "from sklearn.base import clone", "only estimators may"),
    ],
)
def test_the_checker_catches_a_third_party_out_of_place(module: str, source: str, wrong: str) -> None:
    (found,) = homeless_parts({module: source})
    assert wrong in found


def test_the_checker_lets_a_wrapped_third_party_pass() -> None:
    assert homeless_parts({"engines.ray": "def f():\n    import ray\n    from ray.util import placement_group"}) == []


def test_the_checker_follows_private_modules_to_a_heavy_import() -> None:
    sources = {
        "learners": "",
        "learners._kernels": "",
        "learners._kernels.dual": "from numba import njit",
        "learners.dual": "from tutti.learners._kernels.dual import epoch",
        "learners.lazy": "def f():\n    from tutti.learners._kernels.dual import epoch",
    }
    assert heavy_at_import(sources) == ["tutti.learners.dual -> tutti.learners._kernels.dual:1 -> numba"]
