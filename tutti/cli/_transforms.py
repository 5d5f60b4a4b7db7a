"""How a job file writes transforms: "auto", a table with a type, or a list of such tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

TRANSFORMS = ("Half", "Int8", "TopK", "PowerSGD")


def made(written: Any, public: Callable[[str], Any]) -> Any:
    """Return what Python's ``compress=`` gets; ValueError says what is wrong.

    Example
    -------
    >>> import tutti
    >>> made([{"type": "TopK", "share": 0.01}, {"type": "Int8"}], lambda name: getattr(tutti, name))
    (TopK(share=0.01), Int8(block=512))
    """
    if isinstance(written, list):
        return tuple(_one(table, public) for table in written)
    return _one(written, public) if isinstance(written, Mapping) else written


def _one(table: Any, public: Callable[[str], Any]) -> Any:
    if not isinstance(table, Mapping) or table.get("type") not in TRANSFORMS:
        raise ValueError(f'write a table such as {{ type = "TopK", share = 0.01 }}; types: {", ".join(TRANSFORMS)}')
    options = {name: value for name, value in table.items() if name != "type"}
    try:
        return public(table["type"])(**options)
    except TypeError:
        known = ", ".join(public(table["type"])().get_params())
        raise ValueError(f"{table['type']} has the options {known}; came {', '.join(options)}") from None
