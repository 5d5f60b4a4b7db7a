"""Nets in a job file: code by its place, layers as plain tables, files relative to the job.

Code is run because the person who wrote the job file, or the command line, names it; a model folder never does.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutti.errors import InputError, ParameterError

NETS = ("NeuralNetClassifier", "NeuralNetRegressor")
CODE = ("module", "optimizer", "loss", "lr_schedule", "augment")
"""Options whose value is code where it has a colon: "package.module:name" or "file.py:name"."""


def settable(known: Mapping[str, Any], options: Mapping[str, Any], owners: tuple[str, ...]) -> dict[str, Any]:
    """Return what a job file may set: Python's options, ``layers``, and ``module__*`` and its like as they came."""
    nested = {n: Any for n in options if "__" in n and n.partition("__")[0] in owners}
    own = {"layers": list[Any], "checkpoint": dict[str, Any], **dict.fromkeys(CODE, str)}
    return {**known, **nested, **own}


def made(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the options of a net with objects in the place of their names.

    Raises
    ------
    ParameterError : naming the option.
    """
    from tutti.learners.module.layers import Layers
    from tutti.runtime.checkpoint import Checkpoint

    if ("module" in options) == ("layers" in options):
        came = "both" if "module" in options else None
        raise ParameterError(
            "module", came, 'write module = "file.py:Net", or layers = [{ type = "Linear", ... }, ...]'
        )
    found = {name: value for name, value in options.items() if name != "layers"}
    for name in CODE:
        if ":" in str(options.get(name, "")):
            found[name] = code(name, options[name], folder)
    if isinstance(found.get("module"), str):
        raise ParameterError("module", found["module"], 'write "package.module:Net" or "file.py:Net"')
    if "layers" in options:
        found["module"] = Layers(options["layers"])
        found["module"]()  # so that a wrong argument is found before any data is read
    if "checkpoint" in options:
        table = dict(options["checkpoint"])
        try:
            found["checkpoint"] = Checkpoint(**{**table, "path": str(folder / table["path"])})
        except (KeyError, TypeError) as error:
            raise ParameterError(
                "checkpoint", table, f'write {{ path = "kept", every_steps = 100 }} ({error})'
            ) from None
    if "log" in options:
        places = options["log"] if isinstance(options["log"], list) else [options["log"]]
        found["log"] = [_placed(place, folder) for place in places]
    return found


def code(option: str, text: str, folder: Path) -> Any:
    """Return what "package.module:name" or "file.py:name" names; a file is relative to ``folder``.

    Raises
    ------
    ParameterError : there is no such thing, or its code fails.
    """
    home, _, name = text.rpartition(":")
    if not home or not name:
        raise ParameterError(option, text, 'write "package.module:name" or "file.py:name"')
    try:
        found = _run_file(folder / Path(home).expanduser()) if home.endswith(".py") else importlib.import_module(home)
    except FileNotFoundError:
        raise ParameterError(option, text, f"there is no file {folder / home}") from None
    except Exception as error:  # whatever the code of others does
        raise ParameterError(option, text, f"{home} failed: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, vars(found), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(option, text, f"{home} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _run_file(path: Path) -> Any:
    """Return a file's module.  It is not left in sys.modules, so its classes travel to the workers by value."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # a dataclass looks itself up there
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
        if before is not None:
            sys.modules[path.stem] = before
    return module


def _placed(place: Any, folder: Path) -> Any:
    kind, _, rest = str(place).partition(":")
    if kind == "tensorboard" and rest:
        return f"tensorboard:{folder / rest}"
    return place if kind == "mlflow" else str(folder / str(place))
