"""Claim: ``import tutti`` takes at most 150 ms.  usage: python benchmarks/imports.py"""

from __future__ import annotations

import subprocess
import sys

from _common import header, median, save

CODE = "import time; t = time.perf_counter(); import tutti; print(time.perf_counter() - t)"


def main() -> None:
    def once(code: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    once(CODE)
    seconds = [once(CODE) for _ in range(15)]
    save(
        "imports", f"{header()}\n\nimport tutti: median {median(seconds) * 1e3:.1f} ms, worst {max(seconds) * 1e3:.1f}"
    )


if __name__ == "__main__":
    main()
