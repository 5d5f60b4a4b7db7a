"""What ``compress=`` does on which link, said before the run: bytes of a round, and where it begins to pay."""

from __future__ import annotations

import dataclasses
from typing import Any

from tutti.forms import Coder, Compress
from tutti.protocols import Compressible, Engine, Learner
from tutti.runtime.link import traffic_of
from tutti.transforms.auto import CANDIDATES, Chain, Traffic, break_even, most_shards, name_of
from tutti.types import Cost, Plan

_ONE_MEMORY = ("threads", "shm")


def on_the_wire(plan: Plan, compress: Compress, learner: Learner, engine: Engine, cost: Cost) -> Plan:
    """Return the plan with what the transforms do to its bytes, and the bandwidths below which they pay."""
    if not compress or not isinstance(learner, Compressible) or plan.size == 1:
        return plan
    shared: Any = getattr(engine, "transport", "threads") in _ONE_MEMORY
    traffic = traffic_of(cost, [seat.shards for seat in plan.seats])
    if compress == "auto":
        notes = ['compress="auto": off, the workers see the same memory, so nothing travels']
        if not shared:
            notes = ['compress="auto": the link is measured when the run begins']
            notes += [_pays(traffic, chain) for chain in CANDIDATES]
        return dataclasses.replace(plan, notes=(*plan.notes, *notes))
    chain = compress if isinstance(compress, tuple) else (compress,)
    name = name_of(chain)
    coders: Chain = tuple(t for t in chain if isinstance(t, Coder))
    if shared:
        notes = [f"{name}: the workers see the same memory, so nothing travels; it costs time and saves none"]
    elif len(coders) < len(chain):
        notes = [f"{name}: two sums a round, of rank * (rows + columns) numbers for each matrix"]
    else:
        notes = [_pays(traffic, coders)]
        plan = dataclasses.replace(plan, sent_bytes_per_round=plan.n_shards * traffic.payload(coders))
    return dataclasses.replace(plan, notes=(*plan.notes, *notes))


def _pays(traffic: Traffic, chain: Chain) -> str:
    """Say below which bandwidth a form pays, and with how many shards it would pay more."""
    sent, plain, limit = traffic.sent_bytes(chain), traffic.plain_bytes(), break_even(traffic, chain)
    n_others = sum(traffic.shards) - min(traffic.shards)
    says = f"{name_of(chain)}: {n_others} payloads of {traffic.payload(chain):,} bytes a round for each worker"
    says += f", in place of {plain:,.0f} bytes; "
    says += f"pays below about {8e-6 * limit:,.0f} Mbit/s" if limit else "never pays"
    fewer = most_shards(traffic, chain)
    if 2 * sent > plain and 0 < fewer < sum(traffic.shards):
        says += f" (n_shards={fewer} would save half of the bytes: each shard sends a payload of its own)"
    return says
