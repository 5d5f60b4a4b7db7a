"""`tutti.torch_backend`: plain DDP in shared memory, in processes of its own, with nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason='needs torch: pip install "tutti[torch]"')
RANK = Path(__file__).parent / "ddp_rank.py"


def run(folder: Path, size: int, *more: str) -> list[dict[str, Any] | None]:
    """What each rank printed, None for one that printed nothing."""
    before = set(os.listdir("/dev/shm"))
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(folder), str(rank), str(size), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=around,
        )
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=100) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "tutti" in name}
    if not more:
        assert [rank.returncode for rank in ranks] == [0] * size, said[0][1][-2000:] + said[-1][1][-2000:]
    return [json.loads(out) if out else None for out, _ in said]


@pytest.mark.thorough
@pytest.mark.parametrize("size", [2, 3])
def test_ddp_reaches_the_losses_it_reaches_on_gloo(tmp_path: Path, size: int) -> None:
    found = [losses for losses in run(tmp_path, size) if losses is not None]
    assert [losses["tutti"] for losses in found] == [found[0]["tutti"]] * size
    np.testing.assert_allclose(found[0]["tutti"], found[0]["gloo"], rtol=1e-5)
    assert found[0]["tutti"][-1] < 0.7 * found[0]["tutti"][0]


@pytest.mark.thorough
@pytest.mark.alone
def test_a_killed_rank_raises_in_the_others_at_once(tmp_path: Path) -> None:
    survivor, dead = run(tmp_path, 2, "die")
    assert dead is None
    assert survivor is not None
    assert "the process of rank 1 has ended" in survivor["error"]
    assert survivor["seconds"] < 2
