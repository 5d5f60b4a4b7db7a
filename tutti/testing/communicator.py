"""The contract of a `tutti.protocols.Communicator` as a test that anybody can run on theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tutti.comm.reduction import tree_sum_of
from tutti.errors import Aborted
from tutti.protocols import Communicator
from tutti.types import Array

Make = Callable[[int], Sequence[Communicator]]
Body = Callable[[Communicator], Any]

_HANG_SECONDS = 30.0


def check_communicator(make_ranks: Make, sizes: Sequence[int] = (1, 2, 3, 5)) -> None:
    """Run every rule of the Communicator's contract; raises AssertionError at the first that is broken.

    Parameters
    ----------
    make_ranks : given a size, returns a fresh group of communicators, one per rank, each used from a thread of its own.
    sizes : numbers of ranks to try.

    Example
    -------
    >>> from tutti.testing.communicator import check_communicator, thread_ranks
    >>> check_communicator(thread_ranks, sizes=(1, 2))
    """
    for size in sizes:
        check_sums(make_ranks, size)
        check_stale_memory(make_ranks, size)
        check_shared(make_ranks, size)
        check_gathered(make_ranks, size)
        check_refusals(make_ranks, size)
        check_counters(make_ranks, size)
        if size > 1:
            check_abort(make_ranks, size)
            check_disagreement(make_ranks, size)


def thread_ranks(size: int) -> Sequence[Communicator]:
    """Return the communicators of `tutti.Threads`, for use from threads of one's own."""
    from tutti.comm import connect
    from tutti.engines.threads import links

    return [connect(link) for link in links(size)]


def shm_ranks(size: int) -> Sequence[Communicator]:
    """Return communicators of `tutti.Processes` within this process, for use from threads of one's own."""
    from tutti.comm import connect
    from tutti.engines.processes import links

    return [connect(link) for link in links(size)]


def tcp_ranks(size: int) -> Sequence[Communicator]:
    """Return communicators over encrypted sockets within this process."""
    return _meeting(size, "tcp")


def gloo_ranks(size: int) -> Sequence[Communicator]:
    """Return communicators over a gloo group within this process; needs torch."""
    return _meeting(size, "gloo")


def _meeting(size: int, transport: str) -> Sequence[Communicator]:
    from tutti.comm import connect
    from tutti.engines.processes import links

    with ThreadPoolExecutor(size) as pool:  # all ranks form the group together
        return list(pool.map(connect, links(size, transport)))


def on_ranks(make_ranks: Make, size: int, body: Body) -> list[Any]:
    """Run ``body`` on a fresh group, each rank in a thread; return values or exceptions by rank.

    A rank that is still at it after half a minute fails the test.
    """
    comms = make_ranks(size)
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = body(comms[rank])
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for rank, thread in enumerate(threads):
        thread.join(_HANG_SECONDS)
        assert not thread.is_alive(), f"rank {rank} of {size} hangs"
    for comm in comms:
        comm.close()
    return found


def _values(body: Body, make_ranks: Make, size: int) -> list[Any]:
    found = on_ranks(make_ranks, size, body)
    for rank, value in enumerate(found):
        if isinstance(value, Exception):
            raise AssertionError(f"rank {rank} of {size} raised {value!r}") from value
    return found


def part(shard: int, length: int, dtype: str, salt: int = 0) -> Array:
    """Numbers of one shard, of so different sizes that another order of additions gives other bits."""
    x = np.sin(np.arange(1, length + 1, dtype=np.float64) * (shard + 1) + salt) * 10.0 ** (3 * shard % 13)
    return x.astype(dtype)


def deals(n_shards: int, size: int) -> list[list[list[int]]]:
    """Ways to deal shards to ranks: in turn, in blocks, all to the last rank."""
    turn = [list(range(rank, n_shards, size)) for rank in range(size)]
    block = [list(range(n_shards * rank // size, n_shards * (rank + 1) // size)) for rank in range(size)]
    last: list[list[int]] = [[] for _ in range(size)]
    last[-1] = list(range(n_shards))
    return [turn, block, last]


def check_sums(make_ranks: Make, size: int) -> None:
    """The canonical tree's bits: any deal of shards, any length and dtype, rows of one's own or given in place."""
    cases = [(n, length) for n in (1, 2, 3, 8, 11) for length in (0, 1, 63, 64, 65, 1000)]
    cases += [(8, 20_000), (3, 100_003), (5, 8192 * 8 + 1)]
    for dtype in ("float32", "float64", "int64"):

        def body(comm: Communicator, dtype: str = dtype) -> list[bytes]:
            sums = []
            for n_shards, length in cases:
                for deal in deals(n_shards, size):
                    rows: Mapping[int, Array] = {s: part(s, length, dtype) for s in deal[comm.rank]}
                    sums.append(comm.all_reduce(rows, n_shards).tobytes())
                slots = comm.slots(n_shards, length, dtype)
                mine = deals(n_shards, size)[0][comm.rank]
                for s in mine:
                    slots[s] = part(s, length, dtype)
                sums.append(comm.all_reduce({s: slots[s] for s in mine}, n_shards).tobytes())
            return sums

        right = []
        for n_shards, length in cases:
            total = tree_sum_of([part(s, length, dtype) for s in range(n_shards)], n_shards)
            right += [total.tobytes()] * 4
        for rank, sums in enumerate(_values(body, make_ranks, size)):
            for i, (came, wanted) in enumerate(zip(sums, right, strict=True)):
                assert came == wanted, f"rank {rank} of {size}: wrong bits for {cases[i // 4]} {dtype}, deal {i % 4}"


def check_stale_memory(make_ranks: Make, size: int) -> None:
    """Every call sums what it was given, the result stays until the next call, and inputs may be changed after it."""

    def body(comm: Communicator) -> bool:
        for length in (500, 50_000):
            rows = {s: np.zeros(length) for s in range(comm.rank, 8, size)}
            for step in range(20):
                for s, row in rows.items():
                    row[:] = s + step
                total = comm.all_reduce(rows, 8)
                for row in rows.values():
                    row[:] = -1.0
                if not (total == 28 + 8 * step).all():
                    return False
        return True

    assert _values(body, make_ranks, size) == [True] * size


def check_shared(make_ranks: Make, size: int) -> None:
    """share() gives every rank every shard's array, read-only; it stays while others go on, and mixes with sums."""

    def body(comm: Communicator) -> bool:
        good = True
        for n_shards, length in ((1, 5), (8, 100), (3, 0), (8, 20_000), (11, 9000)):
            slots = comm.slots(n_shards, length, "float32")
            for step, deal in enumerate(deals(n_shards, size)):
                mine = {s: part(s, length, "float32", step) for s in deal[comm.rank]}
                if step == 1:
                    for s in mine:
                        slots[s] = mine[s]
                        mine[s] = slots[s]
                wanted = [part(s, length, "float32", step) for s in range(n_shards)]
                rows = comm.share(mine, n_shards)
                good &= len(rows) == n_shards and all(
                    not row.flags.writeable and row.tobytes() == right.tobytes()
                    for row, right in zip(rows, wanted, strict=True)
                )
                if step == 0:
                    comm.barrier()  # the next step writes into the rows
                if step == 1:
                    comm.all_gather(b"")
                    good &= all(row.tobytes() == right.tobytes() for row, right in zip(rows, wanted, strict=True))
                total = comm.all_reduce(mine, n_shards)
                good &= total.tobytes() == tree_sum_of(wanted, n_shards).tobytes()
        return good

    assert _values(body, make_ranks, size) == [True] * size


def check_gathered(make_ranks: Make, size: int) -> None:
    """Every rank gets every rank's bytes, whatever their lengths, again and again."""
    lengths = [0, 1, 100, 5000, 3, 200_000, 1]

    def payload(rank: int, step: int) -> bytes:
        return bytes([rank * 16 + step]) * (lengths[step] * (rank + 1))

    def body(comm: Communicator) -> bool:
        good = True
        for step in range(len(lengths)):
            good &= comm.all_gather(payload(comm.rank, step)) == [payload(rank, step) for rank in range(size)]
            comm.barrier()
        return good

    assert _values(body, make_ranks, size) == [True] * size


def check_refusals(make_ranks: Make, size: int) -> None:
    """What cannot be summed is refused by the rank that brings it, with ValueError."""
    wrong: list[tuple[Mapping[int, Array], int]] = [
        ({0: np.zeros(3), 1: np.zeros(4)}, 2),
        ({0: np.zeros(3), 1: np.zeros(3, np.float32)}, 2),
        ({0: np.zeros((2, 2))}, 1),
        ({5: np.zeros(3)}, 2),
        ({0: np.zeros(3, "U5")}, 1),
    ]
    for parts, n_shards in wrong:

        def body(comm: Communicator, parts: Mapping[int, Array] = parts, n_shards: int = n_shards) -> None:
            comm.all_reduce(parts, n_shards)

        def shared(comm: Communicator, parts: Mapping[int, Array] = parts, n_shards: int = n_shards) -> None:
            comm.share(parts, n_shards)

        for refused in (body, shared):
            found = on_ranks(make_ranks, size, refused)
            assert all(isinstance(e, ValueError) for e in found), f"{parts} gave {found}"


def check_counters(make_ranks: Make, size: int) -> None:
    """sent_bytes grows by at least what a rank contributes, and stays 0 where there is nobody to send to."""

    def body(comm: Communicator) -> tuple[int, float]:
        mine = {s: np.ones(1000) for s in range(comm.rank, 8, size)}
        comm.all_reduce(mine, 8)
        comm.all_gather(b"12345678")
        return comm.sent_bytes - (len(mine) * 8000 + 8 if size > 1 else 0), comm.wait_seconds

    for extra, waited in _values(body, make_ranks, size):
        assert 0 <= extra <= (8000 if size > 1 else 0)
        assert waited >= 0.0


def check_abort(make_ranks: Make, size: int) -> None:
    """abort() wakes the ranks that wait in any call; calls after it raise; twice is harmless."""

    def wait(comm: Communicator, call: str) -> Any:
        if call == "barrier":
            return comm.barrier()
        if call == "all_gather":
            return comm.all_gather(b"x")
        parts = {s: np.zeros(10) for s in range(comm.rank, 8, size)}
        return comm.share(parts, 8) if call == "share" else comm.all_reduce(parts, 8)

    for call in ("barrier", "all_gather", "all_reduce", "share"):

        def body(comm: Communicator, call: str = call) -> None:
            comm.barrier()
            if comm.rank == size - 1:
                comm.abort()
                comm.abort()
            wait(comm, call)

        found = on_ranks(make_ranks, size, body)
        assert all(isinstance(e, Aborted) for e in found), f"{call} after abort() gave {found}"


def check_disagreement(make_ranks: Make, size: int) -> None:
    """Ranks that do not make the same calls end in an error, never in a wrong sum and never in a hang."""

    def other_length(comm: Communicator) -> Any:
        return comm.all_reduce({comm.rank: np.zeros(10 + (comm.rank == 0))}, size)

    def other_dtype(comm: Communicator) -> Any:
        return comm.all_reduce({comm.rank: np.zeros(10, "f4" if comm.rank else "f8")}, size)

    def other_call(comm: Communicator) -> Any:
        return comm.barrier() if comm.rank == 0 else comm.all_gather(b"x")

    def other_count(comm: Communicator) -> Any:
        return comm.all_reduce({comm.rank: np.zeros(10)}, size + (comm.rank == 0))

    def twice(comm: Communicator) -> Any:
        return comm.all_reduce({min(comm.rank, size - 2): np.zeros(10)}, size)

    def missing(comm: Communicator) -> Any:
        return comm.all_reduce({} if comm.rank == 0 else {comm.rank: np.zeros(10)}, size)

    def nobody(comm: Communicator) -> Any:
        return comm.all_reduce({}, size)

    def other_way(comm: Communicator) -> Any:
        parts = {comm.rank: np.zeros(10)}
        return comm.share(parts, size) if comm.rank else comm.all_reduce(parts, size)

    def share_twice(comm: Communicator) -> Any:
        return comm.share({min(comm.rank, size - 2): np.zeros(10)}, size)

    def after_share(comm: Communicator) -> Any:
        comm.share({comm.rank: np.zeros(10_000)}, size)
        return comm.barrier() if comm.rank else comm.all_reduce({comm.rank: np.zeros(10)}, size)

    bodies = (other_length, other_dtype, other_call, other_count, other_way, twice, share_twice, after_share, missing)
    for body in (*bodies, nobody):
        found = on_ranks(make_ranks, size, body)
        assert all(isinstance(e, Exception) for e in found), f"{body.__name__}: {found}"
        assert not all(isinstance(e, Aborted) for e in found), f"{body.__name__}: nobody said why"
