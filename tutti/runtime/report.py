"""What a fit measured: time by phase, bytes, rounds, faults, and the SHA-256 of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tutti.runtime.digest import model_sha256
from tutti.types import Arrays, RankReport, Result


@dataclass(frozen=True)
class Report:
    """Measured facts of one fit; ``str(report)`` is for people, ``to_dict()`` for programs.

    Parameters
    ----------
    seconds : wall time of the run, from preparing the kernels to the last rank's answer.
    phases : seconds by phase, summed over ranks: read, compute, exchange, wait.
    sent_bytes : bytes written by all ranks for other ranks.
    rounds : merges.
    faults : ranks lost and replaced on the way.
    sha256 : of the model's arrays; equal models have equal hashes.
    objective, gap, converged : the certificate: objective - optimum <= gap; converged means gap <= tol * |objective|.
    ranks : each rank's own report.
    notes : what was decided while the run began.
    """

    seconds: float
    phases: Mapping[str, float]
    sent_bytes: int
    rounds: int
    faults: int
    sha256: str
    objective: float
    gap: float
    converged: bool
    ranks: tuple[RankReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def relative_gap(self) -> float:
        """gap / |objective|, what ``tol`` is compared with."""
        return self.gap / max(abs(self.objective), 1e-300)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "relative_gap": self.relative_gap, "ranks": [asdict(r) for r in self.ranks]}

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.phases.items())
        if math.isfinite(self.gap):
            verdict = "converged" if self.converged else "NOT converged"
            bound = f"at most {self.relative_gap:.2e} (relative) above the optimum"
        else:
            verdict, bound = "without a certificate", "of which it is not known how far it is from the optimum"
        return "\n".join(
            [
                f"fit in {self.seconds:.3f} s on {self._on()}, {verdict}",
                f"  phases (all ranks)  {phases}",
                f"  exchanged           {self.rounds} rounds, {self.sent_bytes / 1e6:.3f} MB sent",
                *self._pushed(),
                f"  faults              {self.faults}",
                f"  certificate         objective {self.objective:.8g}, {bound}",
                f"  model sha256        {self.sha256}",
                *(f"  note                {note}" for note in self.notes),
            ]
        )

    def _on(self) -> str:
        servers = sum("served" in rank.counts for rank in self.ranks)
        workers = len(self.ranks) - servers
        behind = f" and {servers} server{'s' * (servers != 1)}" if servers else ""
        return f"{workers} worker{'s' * (workers != 1)}{behind}"

    def _pushed(self) -> list[str]:
        """Return a line about the updates of a parameter server, if there were any."""
        counts = [rank.counts for rank in self.ranks if "pushes" in rank.counts]
        n = sum(c["pushes"] for c in counts)
        if not n:
            return []
        age = sum(c["pushes"] * c["push_age_mean"] for c in counts) / n
        most = max(c["push_age_max"] for c in counts)
        return [
            f"  pushed              {n:.0f} updates, on average {age:.1f} others came in between (at most {most:.0f})"
        ]


def make_report(result: Result, model: Arrays) -> Report:
    """Sum up the ranks' reports; ``model`` holds the arrays whose hash identifies the model."""
    phases: dict[str, float] = {}
    for rank in result.reports:
        for name, seconds in rank.seconds.items():
            phases[name] = phases.get(name, 0.0) + seconds
    return Report(
        seconds=result.seconds,
        phases=phases,
        sent_bytes=sum(r.sent_bytes for r in result.reports),
        rounds=max((r.rounds for r in result.reports), default=0),
        faults=result.faults,
        sha256=model_sha256(model),
        objective=result.progress.objective,
        gap=result.progress.gap,
        converged=result.progress.converged,
        ranks=result.reports,
        notes=result.notes,
    )
