"""Files by path or URL: local ones are mapped, everything else goes through fsspec, which is imported only then."""

from __future__ import annotations

import glob
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutti.errors import DataError


def is_url(path: str) -> bool:
    """Return True for ``memory://...``, ``s3://...`` and the like, False for local paths."""
    return "://" in path and not path.startswith("file://")


def normal(path: str) -> str:
    """Return the path in the form that means the same in every process of this host."""
    if is_url(path):
        return path
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def expand(paths: Sequence[str]) -> list[tuple[str, int]]:
    """Return (path, bytes) of every file that the paths, globs and folders name, in a fixed order.

    Files of a folder are sorted by name, and those that start with "." or "_" are left out.

    Raises
    ------
    DataError : for a path that names no file.
    """
    found: list[tuple[str, int]] = []
    for path in paths:
        found += _expand_url(path) if is_url(path) else _expand_local(path)
    return found


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _expand_local(path: str) -> list[tuple[str, int]]:
    if os.path.isfile(path):
        return [(path, os.path.getsize(path))]
    if os.path.isdir(path):
        root = Path(path)
        inside = (p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root).as_posix()))
        names = sorted(str(p) for p in inside)
        if not names:
            raise DataError("the folder holds no files (names that start with . or _ are left out)", path=path)
    elif glob.has_magic(path):
        names = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
        if not names:
            raise DataError("the pattern matches no file", path=path)
    else:
        raise DataError("there is no such file or folder", path=path)
    return [(name, os.path.getsize(name)) for name in names]


def _expand_url(path: str) -> list[tuple[str, int]]:
    fs, inner = filesystem(path)
    with _named(path):
        if fs.isfile(inner):
            return [(path, int(fs.size(inner)))]
        if glob.has_magic(inner):
            names = sorted(n for n in fs.glob(inner) if fs.isfile(n))
            problem = "the pattern matches no file"
        elif fs.isdir(inner):
            root = inner.rstrip("/")
            names = sorted(n for n in fs.find(inner) if not _hidden(n[len(root) :].lstrip("/")))
            problem = "the folder holds no files (names that start with . or _ are left out)"
        else:
            names, problem = [], "there is no such file or folder"
        if not names:
            raise DataError(problem, path=path)
        return [(str(fs.unstrip_protocol(n)), int(fs.size(n))) for n in names]


def filesystem(url: str) -> tuple[Any, str]:
    """Return (fsspec file system, path inside it)."""
    import fsspec

    try:
        fs, inner = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot open this kind of address: {error}", path=url) from None
    return fs, inner


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn the errors of an operating system or object store into one that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError("the file is gone; it was there when the data was planned", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from None


def map_file(path: str) -> memoryview:
    """Return the bytes of a local file, mapped."""
    with _named(path), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_range(url: str, start: int, stop: int | None) -> bytes:
    """Return bytes start:stop of a file behind a URL (fewer at its end)."""
    fs, inner = filesystem(url)
    with _named(url):
        return bytes(fs.cat_file(inner, start=start, end=stop))


@contextmanager
def open_arrow(path: str) -> Iterator[Any]:
    """Open a file for pyarrow's readers: mapped if it is local."""
    import pyarrow as pa

    if is_url(path):
        fs, inner = filesystem(path)
        with _named(path), fs.open(inner, "rb") as file:
            yield file
    else:
        with _named(path), pa.memory_map(path) as file:
            yield file
