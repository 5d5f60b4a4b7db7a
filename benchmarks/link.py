"""Claim: all_reduce of 25 MB between two hosts uses 90 % of the link with TLS on, which costs at most 15 % over plain.

usage: python benchmarks/link.py [--repeats 9]         needs root; gloo, the rival, needs torch (extra [torch])
Two network namespaces joined by a link in user space, which takes processor time of its own.  The floor is what the
bytes of one direction take on the link; medians of calls, the systems in turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from typing import IO, Any

from _common import HERE, header, median, save

from tutti._secure import Token
from tutti.testing.two_hosts import TwoHosts, two_hosts, why_not

LINKS = ((1000.0, 1.0), (100.0, 20.0))
N_BYTES = 25 << 20
USE, COST = 0.90, 1.15


def start(hosts: TwoHosts, rank: int, token: Token, repeats: int) -> subprocess.Popen[str]:
    words = [str(rank), hosts.addresses[0], hosts.devices[rank], str(N_BYTES), str(repeats), "TLS", "plain"]
    if importlib.util.find_spec("torch") is not None:
        words.append("gloo")
    command = [sys.executable, str(HERE / "_link.py"), *words]
    process = hosts.start(rank, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    tell(process, token=bytes(token).hex())
    return process


def tell(process: subprocess.Popen[str], **what: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def measure(rate: float, delay: float, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return {system: rows of milliseconds and of processor time} as rank 0 saw them."""
    found: dict[str, list[dict[str, float]]] = {}
    with two_hosts(rate_mbit=rate, delay_ms=delay) as hosts:
        token = Token.new()
        first, second = (start(hosts, rank, token, repeats) for rank in (0, 1))
        lines: IO[str] = first.stdout  # type: ignore[assignment]
        for line in lines:
            row = json.loads(line)
            if "system" in row:
                found.setdefault(row["system"], []).append(row)
            else:
                tell(second, **row)  # a port that the system chose
        second.communicate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return
    lines = [header(), "", f"{'':22}{'floor':>10}{'ms':>10}{'worst':>10}{'of link':>10}{'burnt':>10}      ms"]
    for rate, delay in LINKS:
        found = measure(rate, delay, given.repeats if rate == LINKS[0][0] else max(given.repeats // 3, 3))
        floor = N_BYTES * 8 / rate / 1e3
        for system, rows in found.items():
            ms, label = median([row["ms"] for row in rows]), f"{rate:.0f} Mbit/s {delay:.0f} ms {system}"
            worst, burnt = max(row["ms"] for row in rows), median([row["burnt"] for row in rows])
            lines.append(f"{label:22}{floor:10.1f}{ms:10.1f}{worst:10.1f}{floor / ms:10.1%}{burnt:10.1f}")
        tls, plain = (median([row["ms"] for row in found[s]]) for s in ("TLS", "plain"))
        lines.append(
            f"  TLS uses {floor / tls:.1%} of the link (goal {USE:.0%}) and takes {tls / plain:.3f}x plain's time"
        )
        lines[-1] += f" (goal {COST}x)"
        if "gloo" in found:
            lines[-1] += f"; gloo takes {median([row['ms'] for row in found['gloo']]) / tls:.2f}x ours"
    lines += ["", "burnt: processor time of a rank during a call; the link's own process runs on the same two cores"]
    save("link", "\n".join(lines))


if __name__ == "__main__":
    main()
