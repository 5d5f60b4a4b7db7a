"""How much memory there is, and sizes as people write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tutti.errors import ParameterError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_bytes(limit: int | str | None) -> int | None:
    """Return a number of bytes from an int or from text such as "2GB" or "512 MiB".

    Example
    -------
    >>> parse_bytes("2GB"), parse_bytes("1 KiB")
    (2000000000, 1024)
    """
    if limit is None:
        return None
    if isinstance(limit, str):
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", limit.upper())
        if found is None or found[2] not in _UNITS:
            raise ParameterError("limit", limit, 'write bytes as an int, or text such as "2GB" or "512MiB"')
        return int(float(found[1]) * _UNITS[found[2]])
    if isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0:
        raise ParameterError("limit", limit, 'write a positive number of bytes, or text such as "2GB"')
    return limit


def available_bytes() -> int:
    """Return the bytes that can be allocated without swapping, container limits included."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024
        cap = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if cap != "max":
            found = min(found, int(cap) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):  # not Linux, or no cgroup v2: the number found so far stands
        pass
    return max(found, 0)


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
