"""The canonical tree, and a planted communicator that the contract test must catch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest

from tutti.comm import connect
from tutti.comm.reduction import Layout, stripe, subtrees, tree_join, tree_sum, tree_sum_of
from tutti.engines.threads import links
from tutti.protocols import Communicator
from tutti.testing.communicator import check_sums, deals, part, thread_ranks
from tutti.types import Array


def by_hand(rows: Sequence[Array]) -> Array:
    """The tree as it is drawn: neighbours are added, level by level; an odd one out moves up."""
    while len(rows) > 1:
        rows = [a + b for a, b in zip(rows[::2], rows[1::2], strict=False)] + ([rows[-1]] if len(rows) % 2 else [])
    return rows[0]


@pytest.mark.parametrize("n_shards", [1, 2, 3, 4, 5, 7, 8, 9, 16, 33])
@pytest.mark.parametrize("length", [0, 1, 100, 8192, 8193, 30_000])
def test_the_sum_is_the_tree_as_it_is_drawn(n_shards: int, length: int) -> None:
    rows = [part(s, length, "float32") for s in range(n_shards)]
    wanted = by_hand(rows).tobytes()
    slots = np.stack(rows)
    assert tree_sum(slots).tobytes() == wanted
    assert tree_sum(rows).tobytes() == wanted
    assert tree_sum_of(dict(enumerate(rows)), n_shards).tobytes() == wanted
    out = np.empty(length, "float32")
    for rank in range(3):
        tree_sum(slots, out, *stripe(length, rank, 3))
    assert out.tobytes() == wanted
    assert (slots == np.stack(rows)).all()


@pytest.mark.parametrize("n_shards", [1, 2, 3, 5, 6, 7, 8, 11, 13, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_sums_of_subtrees_join_to_the_sum_of_the_tree(n_shards: int, size: int) -> None:
    rows = [part(s, 100, "float32") for s in range(n_shards)]
    for deal in deals(n_shards, size):
        nodes = [node for shards in deal for node in subtrees(n_shards, shards)]
        sums = {(first, stop): tree_sum(rows[first:stop]) for first, stop in nodes}
        joined = tree_join(sums, n_shards, np.empty(100, "float32"))
        assert joined.tobytes() == by_hand(rows).tobytes()
    assert subtrees(n_shards, range(n_shards)) == [(0, n_shards)]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000, 12_345])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_stripes_cover_every_column_once_and_share_no_cache_line(length: int, size: int) -> None:
    edges = [stripe(length, rank, size) for rank in range(size)]
    assert edges[0][0] == 0
    assert edges[-1][1] == length
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    assert all(lo % 64 == 0 or lo == length for lo, _ in edges)


def test_a_layout_packs_and_views_the_same_arrays() -> None:
    arrays = {"b": np.arange(3.0), "a": np.arange(6.0).reshape(2, 3), "c": np.float64(7)}
    layout = Layout(arrays)  # type: ignore[arg-type]
    flat = layout.pack(arrays, np.zeros(layout.length))  # type: ignore[arg-type]
    for name, view in layout.views(flat).items():
        assert np.array_equal(view, arrays[name])
        assert view.__array_interface__["data"][0] % 64 == flat.__array_interface__["data"][0] % 64


class _Backwards:
    """A communicator that sums from the last shard to the first: a plausible mistake."""

    def __init__(self, inner: Communicator) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def all_reduce(self, parts: Mapping[int, Array], n_shards: int) -> Array:
        return self._inner.all_reduce({n_shards - 1 - s: part.copy() for s, part in parts.items()}, n_shards)


def test_the_contract_catches_a_sum_in_another_order() -> None:
    with pytest.raises(AssertionError, match="wrong bits"):
        check_sums(lambda size: [_Backwards(c) for c in thread_ranks(size)], 2)  # type: ignore[misc]


def test_an_unknown_transport_is_refused() -> None:
    (link,) = links(1)
    link.transport = "smoke"  # type: ignore[misc]
    with pytest.raises(ValueError, match="expected 'threads', 'shm', 'tcp', 'gloo' or 'nccl'"):
        connect(link)
