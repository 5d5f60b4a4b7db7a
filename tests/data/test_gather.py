"""Rows of pieces land in one allocation in the order of the pieces, whoever decodes them and when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tutti.data.gather import Gather
from tutti.data.scan import decoded_bytes, scan
from tutti.errors import DataError
from tutti.protocols import Part, Piece
from tutti.types import Csr


def dense(i: int, rows: int = 3) -> np.ndarray:
    return np.full((rows, 2), float(i))


def sparse(i: int) -> Csr:
    return Csr(np.array([0, 1, 1, 3]), np.array([0, 1, 2], dtype=np.int32), np.full(3, float(i)), 3)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_pieces_are_joined_in_order(threads: int) -> None:
    one, two = Gather(1 << 20), Gather(1 << 20)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: (one.put(i, dense(i, i % 3)), two.put(i, sparse(i))), range(40)))
    x = one.whole(2)
    assert isinstance(x, np.ndarray)
    assert (x == np.concatenate([dense(i, i % 3) for i in range(40)])).all()
    assert x.flags.c_contiguous
    s = two.whole(5)
    assert isinstance(s, Csr)
    assert s.shape == (120, 5)
    assert s.values.tolist() == np.repeat(np.arange(40.0), 3).tolist()
    assert s.indices.tolist() == [0, 1, 2] * 40
    assert np.diff(s.indptr).tolist() == [1, 0, 2] * 40
    assert s.indptr.dtype == np.int64


def test_a_later_piece_waits_for_the_earlier_ones() -> None:
    gather = Gather(1 << 20)
    with ThreadPoolExecutor(3) as pool:
        later = [pool.submit(gather.put, i, dense(i)) for i in (2, 1)]
        gather.put(0, dense(0))
        [j.result() for j in later]
    x = gather.whole(2)
    assert isinstance(x, np.ndarray)
    assert x[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_nothing_is_kept_beyond_the_limit_and_nobody_waits() -> None:
    gather = Gather(3 * dense(0).nbytes)
    for i in range(4):
        gather.put(i, dense(i))
    gather.put(9, dense(9))
    assert gather.whole(2) is None
    nothing = Gather(0)
    nothing.put(5, dense(5))
    assert nothing.whole(2) is None
    exact = Gather(3 * dense(0).nbytes)
    for i in range(3):
        exact.put(i, dense(i))
    assert exact.whole(2) is not None


def test_a_failure_wakes_those_who_wait() -> None:
    gather = Gather(1 << 20)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gather.put, 1, dense(1))
        gather.stop()
        assert waiting.result(timeout=30) is None
    assert gather.whole(2) is None


def test_pieces_of_another_width_are_not_kept() -> None:
    gather = Gather(1 << 20)
    gather.put(0, dense(0))
    gather.put(1, np.zeros((1, 3)))
    assert gather.whole(2) is None


class Flaky:
    """A source of 20 pieces, one of which is broken; the others are ready at once."""

    feature_names = None

    def __init__(self, broken: set[int], width: int = 2) -> None:
        self.broken, self.width = broken, width

    def pieces(self) -> list[Piece]:
        return [Piece(i, f"p{i}", 0, 1, 1) for i in range(20)]

    def read(self, piece: Piece, n_features: int | None = None) -> Part:
        if piece.index in self.broken:
            raise DataError("broken", path=piece.path)
        width = self.width if piece.index == 11 else 2
        return Part(np.ones((3, width)), np.arange(3.0))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("keep", [0, 1 << 20])
def test_the_first_broken_piece_is_reported_and_no_thread_stays(threads: int, keep: int) -> None:
    for broken in ({0}, {7, 3, 12}, {19}):
        with pytest.raises(DataError, match=f"p{min(broken)}: broken"):
            scan(Flaky(broken), keep, threads)  # type: ignore[arg-type]


def test_a_source_of_ones_own_is_scanned() -> None:
    found = scan(Flaky(set()), 1 << 20)  # type: ignore[arg-type]
    assert (found.n_rows, found.n_features) == (60, 2)
    assert found.whole is not None
    with pytest.raises(DataError, match="p11: 5 feature columns, but p0 has 2"):
        scan(Flaky(set(), width=5), 1 << 20)  # type: ignore[arg-type]


def test_decoded_rows_are_kept_up_to_their_size_exactly() -> None:
    need = decoded_bytes(60, 120, False, "float64")
    assert scan(Flaky(set()), need).whole is not None  # type: ignore[arg-type]
    assert scan(Flaky(set()), need - 1).whole is None  # type: ignore[arg-type]
