"""Which transforms go together, and with which learner: what every strategy with ``compress=`` asks before a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from tutti.errors import ParameterError, PlanError
from tutti.forms import Coder, Projector
from tutti.protocols import Compressible, Learner
from tutti.types import Plan

_WRITE = (
    'write None, "auto", or one of tutti.Half(), tutti.Int8(), tutti.TopK(0.01), tutti.PowerSGD(2), or '
    "(tutti.TopK(0.01), tutti.Int8()): first what selects numbers, then what shortens them"
)


def check_compress(compress: Any) -> None:
    """Raise `ParameterError` unless the transforms can follow each other."""
    if compress is None or (isinstance(compress, str) and compress == "auto"):
        return
    chain = compress if isinstance(compress, tuple) else (compress,)
    if any(isinstance(t, type) or not isinstance(t, Coder | Projector) for t in chain):
        raise ParameterError("compress", compress, _WRITE)
    selects = [isinstance(t, Coder) and t.selects for t in chain]
    alone = len(chain) < 2 or (len(chain) == 2 and selects == [True, False] and isinstance(chain[1], Coder))
    if not alone:
        raise ParameterError("compress", compress, _WRITE)


def plan_compressed(compress: Any, learner: Learner, draft: Plan, strategy: str) -> Plan:
    """Return the draft with the bytes of a round; PlanError if the learner's updates must be exact."""
    if not compress:
        return draft
    if not isinstance(learner, Compressible):
        if compress == "auto":
            note = f'compress="auto": off, the updates of {type(learner).__name__} certify the result and stay exact'
            return dataclasses.replace(draft, notes=(*draft.notes, note))
        raise PlanError(
            f"{type(learner).__name__} needs exact updates, since they certify the result; write "
            f"{strategy}(compress=None) with it, or train a net or solver='sgd', whose gradients may be compressed"
        )
    learner.whole()
    return draft
