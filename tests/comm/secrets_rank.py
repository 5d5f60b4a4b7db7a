"""A program for worker processes: where in and around this process can the secrets of its run be seen?"""

from __future__ import annotations

import base64
import os
import resource
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tutti._secure import Token
from tutti.comm import connect
from tutti.protocols import RankContext

LOOK = "tests.comm.secrets_rank:look"


def look(context: RankContext) -> dict[str, Any]:
    """Return the token as this rank saw it, whether a sum was right, and where the token or a key can be found."""
    tokens: list[bytes] = []
    made = Token.__init__

    def noting(self: Token, secret: bytes) -> None:
        made(self, secret)
        tokens.append(bytes(secret))

    with mock.patch.object(Token, "__init__", noting):
        comm = connect(context.link)
    total = comm.all_reduce({comm.rank: np.full(1000, 1.0 + comm.rank)}, comm.size)
    found = []
    for pid in ("self", str(os.getppid())):
        for name in ("environ", "cmdline"):
            if any(shown in Path("/proc", pid, name).read_bytes() for shown in shapes(tokens[-1])):
                found.append(f"{pid}/{name}")
    found += [name for fd in os.listdir("/proc/self/fd") if "key" in (name := _target(fd))]
    arena = context.link.allocate.__self__  # type: ignore[attr-defined]
    found += [
        "shared memory" for memory in arena._maps.values() if any(s in memory.tobytes() for s in shapes(tokens[-1]))
    ]
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
        found.append("a core file")
    comm.barrier()
    comm.close()
    return {"token": tokens[-1], "right": bool((total == 3.0).all()), "found": found}


def shapes(token: bytes) -> list[bytes]:
    """Return how a token may be written down."""
    return [token, token.hex().encode(), base64.b64encode(token), repr(token).encode()]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
