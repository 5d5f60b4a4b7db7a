"""Inert parameter objects, and the one way to write a program down so that another process can run it.

A `Spec` is a frozen dataclass with scikit-learn's ``get_params`` / ``set_params`` grammar.  `encode` turns plain
values, arrays and dataclasses into JSON plus a list of arrays; `decode` turns them back.  No code travels: a
dataclass is written as its import path and its fields, and decoding refuses whatever is not a dataclass.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tutti.errors import InputError, ParameterError
from tutti.types import Array


class Spec:
    """Mixin of frozen dataclasses: scikit-learn's parameter grammar for strategies, engines and learners."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {f.name: getattr(self, f.name) for f in _public_fields(self)}

    def set_params(self, **params: Any) -> Spec:
        """Set parameters in place (as a grid search does through ``strategy__staleness``) and return self."""
        names = [f.name for f in _public_fields(self)]
        for name, value in params.items():
            if name not in names:
                raise ParameterError(name, value, f"{type(self).__name__} has {', '.join(names) or 'no parameters'}")
            object.__setattr__(self, name, value)
        check = getattr(self, "__post_init__", None)
        if check is not None:
            check()
        return self


def _public_fields(spec: Any) -> list[Any]:
    return [f for f in dataclasses.fields(spec) if f.init and not f.name.startswith("_")]


def encode(value: Any, put: Callable[[Array], Any] | None = None) -> tuple[bytes, list[Array]]:
    """Write ``value`` as JSON and a list of the arrays in it.

    Parameters
    ----------
    value : None, bool, int, float, str, bytes, array, tuple, list, set, dict, slice or dataclass, nested at will.
    put : called with each array; a JSON-able return value other than None replaces the array (for example a place in
        shared memory), None keeps it in the list.

    Raises
    ------
    InputError : for a value that cannot be written, or a class that another process could not import.

    Example
    -------
    >>> text, arrays = encode({"a": (1, 2.5), "b": None})
    >>> decode(text, arrays)
    {'a': (1, 2.5), 'b': None}
    """
    arrays: list[Array] = []
    return json.dumps(_write(value, arrays, put)).encode(), arrays


def decode(text: bytes, arrays: list[Array], get: Callable[[Any], Array] | None = None) -> Any:
    """Turn what `encode` wrote back into the value; ``get`` is the inverse of its ``put``."""
    return _read(json.loads(text), arrays, get)


def _write(v: Any, arrays: list[Array], put: Callable[[Array], Any] | None) -> Any:
    if v is None or isinstance(v, bool | str):
        return v
    if isinstance(v, int | float) and not isinstance(v, np.generic):
        return v if isinstance(v, int) else {"f": v.hex()}
    if isinstance(v, np.generic):
        return {"s": [v.dtype.str, v.item() if v.dtype.kind != "f" else float(v).hex()]}
    if isinstance(v, np.ndarray):
        if v.dtype.kind == "O":
            return {"o": [_write(e, arrays, put) for e in v.ravel().tolist()], "shape": list(v.shape)}
        placed = put(v) if put is not None else None
        if placed is not None:
            return {"p": placed}
        arrays.append(v)
        return {"a": len(arrays) - 1}
    if isinstance(v, bytes):
        return {"b": v.hex()}
    if isinstance(v, tuple):
        return {"t": [_write(e, arrays, put) for e in v]}
    if isinstance(v, list):
        return [_write(e, arrays, put) for e in v]
    if isinstance(v, frozenset | set):
        return {"fs" if isinstance(v, frozenset) else "set": [_write(e, arrays, put) for e in sorted(v)]}
    if isinstance(v, slice):
        return {"sl": [v.start, v.stop, v.step]}
    if isinstance(v, Mapping):
        return {"d": [[_write(k, arrays, put), _write(e, arrays, put)] for k, e in v.items()]}
    if dataclasses.is_dataclass(v) and not isinstance(v, type):
        return _write_dataclass(v, arrays, put)
    raise InputError(
        f"a {type(v).__name__} cannot be sent to another process; use plain values, arrays and dataclasses"
    )


def _write_dataclass(v: Any, arrays: list[Array], put: Callable[[Array], Any] | None) -> Any:
    cls = type(v)
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise InputError(
            f"{cls.__qualname__} is defined in {cls.__module__}, where other processes cannot import it; "
            "move it into a module of its own, or use engine=tutti.Threads()"
        )
    fields = {f.name: _write(getattr(v, f.name), arrays, put) for f in dataclasses.fields(v) if f.init}
    return {"c": f"{cls.__module__}:{cls.__qualname__}", "k": fields}


def _read(v: Any, arrays: list[Array], get: Callable[[Any], Array] | None) -> Any:
    if isinstance(v, list):
        return [_read(e, arrays, get) for e in v]
    if not isinstance(v, dict):
        return v
    if "c" in v:
        cls = resolve(v["c"])
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise InputError(f"{v['c']} is not a dataclass")
        return cls(**{k: _read(e, arrays, get) for k, e in v["k"].items()})
    if "o" in v:
        flat = np.empty(len(v["o"]), dtype=object)
        flat[:] = [_read(e, arrays, get) for e in v["o"]]
        return flat.reshape(v["shape"])
    ((tag, e),) = v.items()
    if tag == "p":
        if get is None:
            raise InputError("an array was placed in shared memory, but nothing was given to read it with")
        return get(e)
    simple: dict[str, Callable[[Any], Any]] = {
        "f": float.fromhex,
        "a": lambda i: arrays[i],
        "b": bytes.fromhex,
        "t": lambda e: tuple(_read(x, arrays, get) for x in e),
        "fs": lambda e: frozenset(_read(x, arrays, get) for x in e),
        "set": lambda e: {_read(x, arrays, get) for x in e},
        "sl": lambda e: slice(*e),
        "d": lambda e: {_read(k, arrays, get): _read(x, arrays, get) for k, x in e},
        "s": lambda e: np.dtype(e[0]).type(float.fromhex(e[1]) if isinstance(e[1], str) and e[0][1] == "f" else e[1]),
    }
    return simple[tag](e)


def check_plain(value: Any) -> None:
    """Raise `InputError` if something in ``value`` may not leave this host: a dataclass that says ``_code = True``.

    It holds code, which only the process that wrote it and its children may read.
    """
    if isinstance(value, Mapping):
        for inner in (*value.keys(), *value.values()):
            check_plain(inner)
    elif isinstance(value, tuple | list | set | frozenset):
        for inner in value:
            check_plain(inner)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if getattr(value, "_code", False):
            raise InputError(
                f"a {type(value).__name__} holds code, which is not sent to other hosts; for a net over several hosts "
                "write its module, loss and optimizer as names: torch's own layers, or an importable class or "
                "function with plain parameters (module__*)"
            )
        for f in dataclasses.fields(value):
            check_plain(getattr(value, f.name, None))


def resolve(path: str) -> Any:
    """Import "module:name.inner" and return what it names."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
