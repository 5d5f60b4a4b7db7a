"""Compiled kernels on disk are used only while the sources of all kernels are what they were.

A kernel holds the machine code of the kernels that it calls, but numba's cache looks at the kernel's own file alone:
after an upgrade in place a new kernel would go on with old ones inside, and end in other bits or worse.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from numba.core.caching import CacheImpl

_ROOT = Path(__file__).parent


@functools.cache
def sources() -> str:
    """Return the SHA-256 of the sources of all kernels."""
    found = hashlib.sha256()
    for path in sorted(_ROOT.glob("*/_kernels/*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _of_all(locator: Any) -> Any:
    """Return a locator of numba's that says of a file of ours what it and all other kernels hold."""

    class OfAll(locator):  # type: ignore[misc]
        @classmethod
        def from_function(cls, py_func: Any, py_file: str) -> Any:
            path = Path(py_file)
            ours = path.parent.name == "_kernels" and path.is_relative_to(_ROOT)
            return super().from_function(py_func, py_file) if ours else None

        def get_source_stamp(self) -> Any:
            return super().get_source_stamp(), sources()

    return OfAll


def register() -> None:
    """Let numba ask these locators first; other packages' functions are none of theirs."""
    known = CacheImpl._locator_classes
    if not any(each.__module__ == __name__ for each in known):
        known[:0] = [_of_all(each) for each in known]


register()
