"""Gradients that are brought to their places, and announced, while the backward pass still runs.

Autograd accumulates the gradient of a parameter once in a pass and then calls a hook of the parameter.  Where a
backward pass runs inside another (reentrant checkpoints) it may do so twice; so the first pass only counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tutti.errors import InputError
from tutti.learners.module._columns import Columns, Spot
from tutti.types import Ready


class Early:
    """The hooks of a net's parameters; there are none before the first `watch`.

    Parameters
    ----------
    params : trainable parameters, in order.   spots : of each.   columns : where their gradients lie in an update.
    """

    def __init__(self, params: Sequence[torch.Tensor], spots: Sequence[Spot], columns: Columns) -> None:
        self._params, self._spots = params, spots
        places = zip(columns.places, spots, strict=True)
        self._ranges = [None if at is None else (at, at + s.end - s.start) for at, s in places]
        self._hooked = False
        self._once: bool | None = None  # autograd accumulates each gradient once; None: it is not known yet
        self._counts: list[int] | None = None  # of the pass that is watched
        self._views: Sequence[torch.Tensor] = ()
        self._ready: Ready | None = None
        self.written: set[int] = set()
        """Parameters of the pass watched last whose gradients were brought to their places and announced."""

    @contextmanager
    def watch(self, views: Sequence[torch.Tensor], ready: Ready | None) -> Iterator[None]:
        """Bring every gradient that becomes final in a backward pass to its view, and announce it."""
        self.written = set()
        if ready is None:
            yield
            return
        if not self._hooked:
            for i, p in enumerate(self._params):
                p.register_post_accumulate_grad_hook(self._hook(i))
            self._hooked = True
        self._counts, self._views, self._ready = [0] * len(self._params), views, ready
        try:
            yield
            self._once = self._once is not False and max(self._counts) <= 1
        finally:
            self._counts = self._ready = None

    def tell(self, ready: Ready, i: int) -> None:
        """Announce the gradient of parameter i."""
        place = self._ranges[i]
        if place is not None:
            ready("grad", *place)

    def _hook(self, i: int) -> Any:
        def final(p: torch.Tensor) -> None:
            if self._counts is None or self._ready is None:
                return
            self._counts[i] += 1
            if not self._once:
                return
            if i in self.written:
                raise InputError(
                    f"the gradient of parameter {self._spots[i].name!r} was accumulated twice in one backward pass, "
                    "after it had been sent to the other ranks; write use_reentrant=False where the module calls "
                    'torch.utils.checkpoint, or transport="shm"'
                )
            self._views[i].copy_(p.grad)
            self.written.add(i)
            self.tell(self._ready, i)

        return final
