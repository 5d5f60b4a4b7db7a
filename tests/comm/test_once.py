"""What one rank of a process does for all of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tutti.comm.commons import Commons
from tutti.engines.threads import links
from tutti.errors import Aborted


def commons(size: int) -> list[Any]:
    return [Commons(link, link.allocate) for link in links(size)]


def test_threads_get_what_the_first_of_them_made() -> None:
    ranks, made = commons(4), list[object]()

    def make() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rank: rank.once("it", make), ranks))
        other = list(pool.map(lambda rank: rank.once("another", make), ranks))
    assert [f is made[0] for f in found] == [True] * 4
    assert [f is made[1] for f in other] == [True] * 4
    assert len(made) == 2
    assert all(rank.alone for rank in ranks)


def test_nobody_makes_again_what_failed() -> None:
    first, second = commons(2)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        first.once("it", fail)
    with pytest.raises(Aborted, match="rank 1: another rank failed"):
        second.once("it", lambda: 1)
