"""Pages of an array go back to the system while it is still there."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tutti._pages import give_back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is given back")
@pytest.mark.parametrize("start", [0, 1, 4095, 5000])
def test_only_whole_pages_go(start: int) -> None:
    around = np.full(1 << 20, 7, np.uint8)
    own = around[start : start + 100_000]
    give_back(own)
    assert (around[:start] == 7).all()
    assert (around[start + 100_000 :] == 7).all()
    assert 0 < (own == 7).sum() < 2 * 65536, "the pages at both ends are not its own"
    assert (own == 0).sum() > 0
    own[:] = 5
    assert int(own.sum()) == 500_000, "it can be written again"


def test_less_than_a_page_stays() -> None:
    small = np.full(64, 3, np.uint8)
    give_back(small)
    give_back(small[:0])
    assert (small == 3).all()
