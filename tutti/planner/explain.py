"""The plan as a tree for people and as a dict for programs, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tutti.planner.choose import Choice
from tutti.planner.cost import estimate_seconds
from tutti.planner.wire import on_the_wire
from tutti.runtime.driver import with_reason
from tutti.types import Place, Plan, Schema, Seat, Stage


@dataclass(frozen=True)
class Explanation:
    """What a fit would do; ``str()`` prints a tree, ``to_dict()`` gives plain values."""

    plan: Plan
    schema: Schema
    loss: str
    tol: float
    kept: str | None
    goal: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        plan = asdict(self.plan)
        plan["seats"] = [
            {
                "rank": s.rank,
                "role": s.role or "worker",
                "host": s.place.host,
                "device": s.place.device,
                "shards": list(s.shards),
                "rows": self._rows(s.shards),
            }
            for s in self.plan.seats
        ]
        schema = {k: v for k, v in asdict(self.schema).items() if k != "feature_names"}
        schema["classes"] = None if self.schema.classes is None else [_plain(c) for c in self.schema.classes]
        return {"plan": plan, "data": schema, "loss": self.loss, "tol": self.tol, "kept": self.kept}

    def __str__(self) -> str:
        s, p = self.schema, self.plan
        form = "sparse" if s.sparse else "dense"
        target = "regression" if s.classes is None else f"{len(s.classes)} classes"
        kept = {"memory": "kept in memory", "disk": "kept on disk, decoded"}.get(self.kept or "", "streamed")
        rows: list[tuple[str, list[str]]] = [
            (f"data      {form} {s.dtype}, {s.n_values:,} values, {_bytes(s.n_bytes)}, {target}, {kept}", []),
            (f"solver    {p.learner} on the {self.loss} loss, {self.goal}", []),
            (f"why       {p.reason}", []),
            (f"strategy  {p.strategy}", []),
            (
                f"engine    {p.engine}, {_seats(p)}, {p.n_shards} shards",
                [self._seat(seat) for seat in p.seats],
            ),
            *((f"tasks     {_stage(stage)}", []) for stage in p.stages),
            (f"exchange  {_bytes(p.sent_bytes_per_round)} a round, about {p.rounds} rounds", []),
            (f"memory    about {_bytes(p.memory_bytes)}", []),
            (f"time      about {_seconds(p.seconds)}", []),
            *((f"note      {note}", []) for note in p.notes),
        ]
        lines = [f"plan for {s.n_rows:,} rows x {s.n_features:,} features"]
        for i, (text, below) in enumerate(rows):
            last = i == len(rows) - 1
            lines.append(("└─ " if last else "├─ ") + text)
            for j, child in enumerate(below):
                lines.append(("   " if last else "│  ") + ("└─ " if j == len(below) - 1 else "├─ ") + child)
        return "\n".join(lines)

    def _seat(self, seat: Seat) -> str:
        where = f"{seat.rank} on {seat.place.host}{_device(seat.place)}"
        if seat.role == "server":
            return f"server {where}"
        return f"worker {where}: shards {_ranges(seat.shards)}, {self._rows(seat.shards):,} rows"

    def _rows(self, shards: tuple[int, ...]) -> int:
        return sum(self.plan.shard_rows[i] for i in shards) if self.plan.shard_rows else 0


def explain(
    choice: Choice,
    plan: Plan,
    schema: Schema,
    *,
    kept: str | None = "memory",
    read: bool = False,
    goal: str = "",
) -> Explanation:
    """Complete the plan with the reason and the estimated time, ready to be printed.

    Parameters
    ----------
    kept : where decoded rows are kept: "memory", "disk", or None for streaming.
    read : True if the data has to be decoded from files at least once.
    goal : when the solver ends, where that is not a certified gap.
    """
    cost = choice.learner.cost(schema)
    plan = on_the_wire(plan, getattr(choice.strategy, "compress", None), choice.learner, choice.engine, cost)
    reads = 0.0 if not read else (1.0 if kept is not None else max(cost.passes, 1.0))
    seconds = estimate_seconds(plan, schema, cost, reads)
    problem: Any = getattr(choice.learner, "problem", None)
    tol = float(getattr(choice.learner, "tol", 0.0))
    return Explanation(
        plan=with_reason(plan, choice.reason, seconds),
        schema=schema,
        loss=getattr(problem, "loss", "its own"),
        tol=tol,
        kept=kept,
        goal=goal or f"until the certified gap is {tol:g} (relative)",
    )


def _seats(plan: Plan) -> str:
    servers = sum(seat.role == "server" for seat in plan.seats)
    workers = plan.size - servers
    behind = f", {servers} server{'s' * (servers != 1)}" if servers else ""
    return f"{workers} worker{'s' * (workers != 1)}{behind}"


def _stage(stage: Stage) -> str:
    n, costs = len(stage.costs), stage.costs
    each = f"cost {min(costs, default=0):.3g}" + (f" to {max(costs):.3g}" if costs and max(costs) > min(costs) else "")
    text = f"{stage.name}: {n} task{'s' * (n != 1)}, {each}, taken {stage.how}"
    if stage.ranks is None:
        return text
    dealt = ", ".join(f"{stage.ranks.count(r)} to worker {r}" for r in sorted(set(stage.ranks)))
    return f"{text}: {dealt}"


def _device(place: Place) -> str:
    return "" if place.device == "cpu" else f", {place.device}"


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")


def _seconds(s: float) -> str:
    if s < 1:
        return f"{max(s * 1000, 1):.0f} ms"
    return f"{s:.1f} s" if s < 120 else f"{s / 60:.0f} min"


def _ranges(shards: tuple[int, ...]) -> str:
    if not shards:
        return "none"
    if shards == tuple(range(shards[0], shards[-1] + 1)) and len(shards) > 1:
        return f"{shards[0]}-{shards[-1]}"
    return ", ".join(map(str, shards))
