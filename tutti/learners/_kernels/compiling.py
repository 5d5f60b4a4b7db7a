"""While one of our kernels is compiled Python's collector of cycles waits; the first time is announced in the log.

A compilation makes millions of small objects and keeps most of them until it ends, and the collector would walk over
all of them again and again.  It is told to wait only where it is on, and goes on when the compilation ends.  Kernels
that are found in numba's cache on disk are not compiled, and nothing is said.
"""

from __future__ import annotations

import gc
import logging
from typing import Any

from numba.core import event

LOG = logging.getLogger("tutti")


class Compilations(event.Listener):
    """What numba tells: compiling a kernel contains compiling those that it calls, all under numba's one lock."""

    def __init__(self) -> None:
        self.depth, self.paused, self.told = 0, False, False

    def on_start(self, event: Any) -> None:
        self.depth += 1
        if self.depth > 1 or not event.data["dispatcher"].py_func.__module__.startswith("tutti."):
            return
        if not self.told:
            self.told = True
            LOG.info("compiling kernels for this machine, which happens once: a first fit takes some seconds more")
        self.paused = gc.isenabled()
        if self.paused:
            gc.disable()

    def on_end(self, event: Any) -> None:
        self.depth -= 1
        if self.depth == 0 and self.paused:
            self.paused = False
            gc.enable()


event.register("numba:compile", Compilations())
