"""Sums of updates that travel in another form, to the same bits for any number of workers.

Every shard encodes its own update, with what it has not sent yet added; what all shards' payloads decode to is summed
in the canonical tree.  Where ranks see the same memory no payload travels: what it decodes to is summed there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from tutti.comm.reduction import Layout, tree_sum
from tutti.errors import InputError
from tutti.forms import Coder, Projector, Transform
from tutti.protocols import Communicator
from tutti.types import Array, Arrays, Matrix, Update

LEAST = 256
"""Numbers of an array; smaller ones travel as they are."""
RESIDUAL, BASIS = "residual/", "powersgd/"
"""Names under which a shard keeps what it has not sent, and PowerSGD's Q."""

Cut = tuple[list[Matrix], list[tuple[int, int]]]
Rows = tuple[Layout, Array, dict[int, dict[str, Array]]]


class Home(Protocol):
    """What is asked of the worker: see `tutti.protocols.Worker`."""

    seed: int
    n_shards: int
    private: dict[int, dict[str, Array]]

    def slots(self, template: Arrays) -> Rows: ...


def compressed(by: Transform | tuple[Transform, ...], comm: Communicator, home: Home) -> Compressed | Projected:
    """Return what sums updates in the form of the transforms."""
    chain = by if isinstance(by, tuple) else (by,)
    if isinstance(chain[0], Projector):
        return Projected(chain[0], comm, home)
    return Compressed([t for t in chain if isinstance(t, Coder)], comm, home)


@dataclass(frozen=True)
class Form:
    """Where each array lies in a payload: (name, first byte, last + 1, True if encoded)."""

    places: tuple[tuple[str, int, int, bool], ...]
    n_bytes: int


class Compressed:
    """Sums of encoded updates.

    Parameters
    ----------
    chain : the first encodes, and hands what it selects to the next.
    """

    def __init__(self, chain: Sequence[Coder], comm: Communicator, home: Home) -> None:
        self._chain, self._comm, self._home = chain, comm, home
        self._forms: dict[tuple[Layout, frozenset[str]], Form] = {}
        self._payloads: dict[tuple[int, int], Array] = {}
        self._totals: dict[Layout, Array] = {}

    def sum(self, updates: Mapping[int, Update]) -> Arrays:
        """Return the sums over all shards of all ranks, valid until the next ones."""
        comm, first = self._comm, next(iter(updates.values()))
        layout, slots, views = self._home.slots(first.arrays)
        form = self._form(layout, frozenset(first.lossy))
        payloads = {s: self._encoded(s, update, form) for s, update in updates.items()}
        if comm.shares_memory or comm.size == 1:
            for s, payload in payloads.items():
                self._decode(payload, form, views[s])
            return layout.views(comm.all_reduce({s: slots[s] for s in updates}, self._home.n_shards))
        for s, payload in enumerate(comm.share(payloads, self._home.n_shards)):
            self._decode(payload, form, views[s])
        total = self._totals.setdefault(layout, np.zeros(layout.length, layout.dtype))
        return layout.views(tree_sum(slots, total))

    def _encoded(self, shard: int, update: Update, form: Form) -> Array:
        payload = self._payloads.setdefault((shard, form.n_bytes), np.zeros(form.n_bytes, np.uint8))
        for name, lo, hi, encoded in form.places:
            flat = np.ascontiguousarray(update.arrays[name]).reshape(-1)
            if not encoded:
                payload[lo : lo + flat.nbytes].view(flat.dtype)[:] = flat
                continue
            v = unsent(self._home, shard, name, flat)
            if not self._chain[0].encode(v, payload[lo:hi], self._chain[1:]):
                not_finite(name, shard)
        return payload

    def _decode(self, payload: Array, form: Form, into: Arrays) -> None:
        sealed = payload.view()
        sealed.flags.writeable = False  # kernels are compiled for what may be read only
        for name, lo, hi, encoded in form.places:
            flat = into[name].reshape(-1)
            if encoded:
                self._chain[0].decode(sealed[lo:hi], flat, self._chain[1:])
            else:
                flat[:] = sealed[lo : lo + flat.nbytes].view(flat.dtype)

    def _form(self, layout: Layout, lossy: frozenset[str]) -> Form:
        found = self._forms.get((layout, lossy))
        if found is None:
            places, at = [], 0
            for name in layout.names:
                n = math.prod(layout.shapes[name])
                encoded = name in lossy and large(n, layout)
                size = (
                    self._chain[0].n_bytes(n, layout.dtype, self._chain[1:]) if encoded else n * layout.dtype.itemsize
                )
                places.append((name, at, at + size, encoded))
                at += -(-size // 8) * 8
            found = self._forms[layout, lossy] = Form(tuple(places), at)
        return found


class Projected:
    """Sums of updates whose matrices travel as two thin ones, P and Q, each summed over the shards; see `PowerSGD`."""

    def __init__(self, transform: Projector, comm: Communicator, home: Home) -> None:
        self._transform, self._comm, self._home = transform, comm, home

    def sum(self, updates: Mapping[int, Update]) -> Arrays:
        """Return the sums over all shards of all ranks."""
        first = next(iter(updates.values()))
        layout, _, _ = self._home.slots(first.arrays)
        lossy = {n: self._transform.worth(m) for n, m in first.lossy.items() if large(first.arrays[n].size, layout)}
        cut = {name: (matrices, _gaps(matrices, first.arrays[name].size)) for name, matrices in lossy.items()}
        values = {s: {n: self._unsent(s, n, update.arrays[n]) for n in cut} for s, update in updates.items()}
        bases = self._bases(cut, layout)
        parts: dict[int, dict[str, Array]] = {}
        for s, update in updates.items():
            flat = {name: np.asarray(array) for name, array in update.arrays.items() if name not in cut}
            for name, (matrices, gaps) in cut.items():
                v = values[s][name]
                flat |= {f"gap/{name}/{i}": v[lo:hi] for i, (lo, hi) in enumerate(gaps)}
                flat |= {f"p/{name}/{i}": _matrix(v, m) @ bases[name][i] for i, m in enumerate(matrices)}
            parts[s] = flat
        total = self._reduce(parts)
        p = {
            name: [self._transform.orthonormal(total[f"p/{name}/{i}"]) for i in range(len(matrices))]
            for name, (matrices, _) in cut.items()
        }
        thin = {
            s: {
                f"q/{name}/{i}": _matrix(mine[name], m).T @ p[name][i]
                for name, (matrices, _) in cut.items()
                for i, m in enumerate(matrices)
            }
            for s, mine in values.items()
        }
        summed = self._reduce(thin) if next(iter(thin.values())) else {}
        found: dict[str, Array] = {name: total[name] for name in first.arrays if name not in cut}
        for name, (matrices, gaps) in cut.items():
            out = np.zeros(first.arrays[name].size, layout.dtype)
            for i, (lo, hi) in enumerate(gaps):
                out[lo:hi] = total[f"gap/{name}/{i}"]
                for mine in values.values():
                    mine[name][lo:hi] = 0
            for i, m in enumerate(matrices):
                q = summed[f"q/{name}/{i}"]
                np.matmul(p[name][i], q.T, out=_matrix(out, m))
                for s, mine in values.items():
                    rest = _matrix(mine[name], m)
                    rest -= p[name][i] @ thin[s][f"q/{name}/{i}"].T
                self._remember(name, i, q, bases[name][i], p[name][i])
            found[name] = out.reshape(first.arrays[name].shape)
        return found

    def _unsent(self, shard: int, name: str, array: Array) -> Array:
        v = unsent(self._home, shard, name, np.ascontiguousarray(array).reshape(-1))
        if not np.isfinite(v).all():
            not_finite(name, shard)
        return v

    def _reduce(self, parts: Mapping[int, Arrays]) -> dict[str, Array]:
        layout, slots, views = self._home.slots(next(iter(parts.values())))
        for s, arrays in parts.items():
            layout.pack(arrays, slots[s], views[s])
        total = self._comm.all_reduce({s: slots[s] for s in parts}, self._home.n_shards)
        return {name: array.copy() for name, array in layout.views(total).items()}

    def _bases(self, cut: Mapping[str, Cut], layout: Layout) -> dict[str, list[Array]]:
        """Return Q of each matrix: that of the last round, or one drawn for the run."""
        kept = next(iter(self._home.private.values()))
        found: dict[str, list[Array]] = {}
        for name, (matrices, _) in cut.items():
            names = [f"{BASIS}{name}/{i}" for i in range(len(matrices))]
            drawn = (self._transform.first(m[2], layout.dtype, self._home.seed, i) for i, m in enumerate(matrices))
            found[name] = [kept.get(n, q) for n, q in zip(names, drawn, strict=True)]
        return found

    def _remember(self, name: str, i: int, q: Array, before: Array, p: Array) -> None:
        """Keep Q with every shard, so that any rank has it after a resume; columns that found nothing stay."""
        idle = ~p.any(axis=0)
        q[:, idle] = before[:, idle]
        for arrays in self._home.private.values():
            arrays[f"{BASIS}{name}/{i}"] = q


def unsent(home: Home, shard: int, name: str, flat: Array) -> Array:
    """Add an array to what the shard has not sent yet, and return that, to be changed in place."""
    kept = home.private[shard]
    v = kept.get(RESIDUAL + name)
    if v is None:
        v = kept[RESIDUAL + name] = np.zeros(len(flat), flat.dtype)
    if (len(v), v.dtype) != (len(flat), flat.dtype):
        raise InputError(f"what shard {shard} has not sent of {name!r} is {v.dtype}({len(v)}), expected {len(flat)}")
    return np.add(v, flat, out=v)


def large(n: int, layout: Layout) -> bool:
    """Tell whether an array of n numbers is worth another form, and can have one."""
    return n >= LEAST and layout.dtype.kind == "f" and layout.dtype.itemsize >= 4


def not_finite(name: str, shard: int) -> NoReturn:
    raise InputError(
        f"{name!r} of shard {shard} holds NaN or infinite numbers, which cannot be compressed: lower lr, clip the "
        "gradient (clip_norm), or look for inputs that the model cannot take"
    )


def _matrix(flat: Array, matrix: Matrix) -> Array:
    start, rows, columns = matrix
    return flat[start : start + rows * columns].reshape(rows, columns)


def _gaps(matrices: Sequence[Matrix], n: int) -> list[tuple[int, int]]:
    """Return the ranges of an array that are in none of the matrices."""
    found, at = [], 0
    for start, rows, columns in sorted(matrices):
        found.append((at, start))
        at = start + rows * columns
    return [(lo, hi) for lo, hi in [*found, (at, n)] if lo < hi]
