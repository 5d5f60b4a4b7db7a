"""The first time that one of our kernels is compiled the log says so: a first fit on a machine takes some seconds more.

Kernels that are found in numba's cache on disk are not compiled, and nothing is said.
"""

from __future__ import annotations

import logging
from typing import Any

from numba.core import event

LOG = logging.getLogger("tutti")


class Compilations(event.Listener):
    """What numba tells of the kernels that it compiles, all under its one lock."""

    def __init__(self) -> None:
        self.told = False

    def on_start(self, event: Any) -> None:
        if not self.told and event.data["dispatcher"].py_func.__module__.startswith("tutti."):
            self.told = True
            LOG.info("compiling kernels for this machine, which happens once: a first fit takes some seconds more")

    def on_end(self, event: Any) -> None:
        """Nothing is said at the end."""


event.register("numba:compile", Compilations())
