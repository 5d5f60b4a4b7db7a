"""The canonical reduction: one fixed binary tree over the shard ids, whoever holds the shards.

Level by level, neighbours are added: (0+1), (2+3), ...; then ((0+1)+(2+3)), ...; an odd one out moves up unchanged.
The shape depends on ``n_shards`` alone, so the sum has the same bits for any number of workers, any assignment of
shards to them and any cut of the array into stripes (addition is elementwise).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tutti.types import Array, Arrays

_CHUNK_BYTES = 1 << 17  # the scratch of a chunk stays in the second cache, and the calls into numpy are few
_SMALL_BYTES = 1 << 17


@np.errstate(invalid="ignore", over="ignore")  # a NaN in a sum is judged by who asked for it
def tree_sum(
    slots: Array | Sequence[Array], out: Array | None = None, start: int = 0, stop: int | None = None
) -> Array:
    """Sum the rows of ``slots``, an array (n_shards, length) or one array per shard, in the canonical tree.

    Only columns start:stop if given.  Writes into ``out[start:stop]`` and returns ``out``; ``slots`` is left as it was.
    """
    n, length, dtype = len(slots), len(slots[0]), slots[0].dtype
    stop = length if stop is None else stop
    out = np.empty(length, dtype) if out is None else out
    if n == 1:
        out[start:stop] = slots[0][start:stop]
        return out
    if n == 2:
        np.add(slots[0][start:stop], slots[1][start:stop], out=out[start:stop])
        return out
    if isinstance(slots, np.ndarray) and n * (stop - start) * dtype.itemsize <= _SMALL_BYTES:
        rows = slots[:, start:stop]
        while len(rows) > 2:  # a whole level of the tree in one call, because the calls are what costs
            even = len(rows) // 2 * 2
            pairs = rows[0:even:2] + rows[1:even:2]
            rows = pairs if even == len(rows) else np.concatenate([pairs, rows[-1:]])
        np.add(rows[0], rows[1], out=out[start:stop])
        return out
    half = (n + 1) // 2
    chunk = _CHUNK_BYTES // dtype.itemsize
    scratch = np.empty((half, min(chunk, max(stop - start, 1))), dtype)
    for lo in range(start, stop, chunk):
        hi = min(lo + chunk, stop)
        level = [slots[i][lo:hi] for i in range(n)]
        while len(level) > 2:
            climbed = []
            for i in range(0, len(level) - 1, 2):
                climbed.append(np.add(level[i], level[i + 1], out=scratch[i // 2, : hi - lo]))
            if len(level) % 2:
                climbed.append(level[-1])
            level = climbed
        np.add(level[0], level[1], out=out[lo:hi])
    return out


def subtrees(n_shards: int, shards: Iterable[int]) -> list[tuple[int, int]]:
    """Return the largest subtrees (first, last + 1) of the tree over ``n_shards`` whose leaves are all in ``shards``.

    The sum of one is ``tree_sum`` of its rows, and `tree_join` makes the whole sum of those of all ranks.
    """
    held = frozenset(shards)

    def find(first: int, stop: int) -> list[tuple[int, int]]:
        if all(shard in held for shard in range(first, stop)):
            return [(first, stop)]
        if stop - first == 1:
            return []
        middle = first + _half(stop - first)
        return find(first, middle) + find(middle, stop)

    return find(0, n_shards)


def tree_join(sums: Mapping[tuple[int, int], Array], n_shards: int, out: Array) -> Array:
    """Add the sums of subtrees, which together hold every shard once, in the canonical tree; writes into ``out``."""

    def join(first: int, stop: int, into: Array | None) -> Array:
        found = sums.get((first, stop))
        if found is not None:
            return found
        middle = first + _half(stop - first)
        left, right = join(first, middle, None), join(middle, stop, None)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(np.add(left, right, out=into))

    total = join(0, n_shards, out)
    if total is not out:
        out[:] = total
    return out


def _half(n: int) -> int:
    """Leaves below the left child of a subtree with n leaves: the largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1


class Layout:
    """Where each named array lies inside one flat buffer, 64-byte aligned; the same on every rank.

    Parameters
    ----------
    template : arrays whose names, shapes and dtype are laid out; all share one dtype.
    """

    def __init__(self, template: Arrays) -> None:
        self.names: tuple[str, ...] = tuple(sorted(template))
        dtypes = {np.asarray(template[n]).dtype for n in self.names}
        if len(dtypes) != 1:
            raise ValueError(f"the arrays of an update share one dtype; came {sorted(map(str, dtypes))}")
        (self.dtype,) = dtypes
        self.shapes: dict[str, tuple[int, ...]] = {n: np.asarray(template[n]).shape for n in self.names}
        self._places: list[tuple[str, slice, tuple[int, ...]]] = []
        align = max(64 // self.dtype.itemsize, 1)
        at = 0
        for name in self.names:
            size = math.prod(self.shapes[name])
            self._places.append((name, slice(at, at + size), self.shapes[name]))
            at += -(-size // align) * align
        self.length = at

    def places(self) -> list[tuple[str, slice]]:
        """Return (name, columns) of each array."""
        return [(name, place) for name, place, _ in self._places]

    def buckets(self, n_bytes: int) -> list[tuple[int, int]]:
        """Cut the columns into ranges of ``n_bytes`` or more, in the order in which a backward pass makes them final.

        That is the largest array from its end to its beginning, then what lies around it.
        """
        _, place = max(self.places(), key=lambda named: named[1].stop - named[1].start)
        size = place.stop - place.start
        n = max(size * self.dtype.itemsize // n_bytes, 1)
        cuts = [stripe(size, i, n) for i in reversed(range(n))]
        found = [(place.start + lo, place.start + hi) for lo, hi in cuts]
        return [(lo, hi) for lo, hi in [*found, (0, place.start), (place.stop, self.length)] if lo < hi]

    def views(self, flat: Array) -> dict[str, Array]:
        """Return the named arrays as views into ``flat`` (length,)."""
        return {name: flat[place].reshape(shape) for name, place, shape in self._places}

    def pack(self, arrays: Arrays, flat: Array, views: Arrays | None = None) -> Array:
        """Copy ``arrays`` into ``flat``; an array that already lies there costs nothing.

        ``views`` is what `views` returned for ``flat``, where the caller has kept it.
        """
        views = self.views(flat) if views is None else views
        if arrays is views:
            return flat
        if arrays.keys() != views.keys():
            raise ValueError(f"expected arrays {sorted(views)}, came {sorted(arrays)}")
        for name, view in views.items():
            if arrays[name] is view:
                continue
            array = np.asarray(arrays[name])
            if array.shape != view.shape:
                raise ValueError(f"array {name!r} has shape {array.shape}, expected {view.shape}")
            if array.__array_interface__["data"] != view.__array_interface__["data"] or array.strides != view.strides:
                view[...] = array
        return flat

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and (self.names, self.dtype, self.shapes) == (
            other.names,
            other.dtype,
            other.shapes,
        )

    def __hash__(self) -> int:
        return hash((self.names, self.dtype, tuple(self.shapes.items())))


def stripe(length: int, rank: int, size: int) -> tuple[int, int]:
    """Return the columns that ``rank`` reduces: cut at multiples of 64 elements, so that cache lines are not shared."""
    units = -(-length // 64)
    lo, hi = units * rank // size * 64, units * (rank + 1) // size * 64
    return min(lo, length), min(hi, length)


def tree_sum_of(parts: Mapping[int, Array] | Sequence[Array], n_shards: int) -> Array:
    """Sum separate arrays, one per shard, in the canonical tree (for one process that holds them all)."""
    rows = [np.asarray(parts[i]) for i in range(n_shards)]
    return tree_sum(np.stack([r.ravel() for r in rows])).reshape(rows[0].shape)
