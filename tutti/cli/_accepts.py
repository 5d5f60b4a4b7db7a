"""Does a value from a job file fit the annotation of a Python parameter, and how is that said to a person?

The signatures of the public classes are the one truth about options, so a job file knows no option that Python does
not know, and the other way round.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

_SIMPLE: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a string"),
}


def options_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of the parameters of a class or function, by name, in their order."""
    signature = inspect.signature(target, eval_str=True)
    named = (p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return {p.name: Any if p.annotation is p.empty else p.annotation for p in named if p.name != "self"}


def accepts(value: Any, annotation: Any) -> bool:
    """True if a value of a TOML file may be given where Python expects ``annotation``."""
    if annotation is Any or annotation is object:
        return True
    if annotation in _SIMPLE:
        kinds, _ = _SIMPLE[annotation]
        return isinstance(value, kinds) and (annotation is bool or not isinstance(value, bool))
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(accepts(value, a) for a in args)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    kind = origin or annotation
    if not isinstance(kind, type):
        return False
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and (len(args) < 2 or all(accepts(v, args[1]) for v in value.values()))
    if issubclass(kind, Sequence):
        inner = [a for a in args if a is not Ellipsis]
        return isinstance(value, list) and all(any(accepts(v, a) for a in inner) or not inner for v in value)
    return False


def expected(annotation: Any) -> str:
    """Say in words what `accepts` accepts."""
    if annotation in _SIMPLE:
        return _SIMPLE[annotation][1]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(w for a in args if a is not type(None) and (w := expected(a))))
        return " or ".join(words) or "nothing (leave the option out)"
    if origin is Literal:
        return " or ".join(f'"{a}"' if isinstance(a, str) else str(a) for a in args)
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a table { name = value, ... }"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        inner = " or ".join(w for a in args if a is not Ellipsis and (w := expected(a)))
        return f"a list of {inner.removeprefix('a ')}s" if inner.startswith("a ") else "a list"
    return ""


def came(value: Any) -> str:
    """Name the TOML type of a value, as in "'big' is a string"."""
    for kind, name in (
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "a string"),
        (list, "a list"),
        (dict, "a table"),
    ):
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"
