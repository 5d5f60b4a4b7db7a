"""The optimizer over a net's flat weights, or over the columns of them that a rank owns.

An optimizer that treats every number by itself may be cut anywhere at 64 bytes: each rank then moves its own columns
of weights that all ranks see.  The optimizer's tensors lie there too, so that whoever writes a checkpoint sees all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutti.learners.module._blueprint import Blueprint
from tutti.types import Array

Allocate = Callable[[int], Array]
"""Returns so many bytes, uint8, 64-byte aligned."""


class Stepper:
    """Moves the weights along ``gradient``.

    Parameters
    ----------
    weights : (length,) flat weights, where the net computes.
    ranges : (start, stop) of every trainable parameter in it, in order.   params : the parameters themselves.
    groups : (index of the group, start, stop) of the runs of parameters of one group.
    blueprint : says which optimizer, which options each group has, and which schedule.
    staged : True if that is not the host's memory; then one rank moves all columns.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        ranges: Sequence[tuple[int, int]],
        params: Sequence[torch.nn.Parameter],
        groups: Sequence[tuple[int, int, int]],
        blueprint: Blueprint,
        *,
        staged: bool = False,
    ) -> None:
        self._ranges, self._params, self._groups, self._blueprint = ranges, params, groups, blueprint
        self._options = [options for _, options in blueprint.groups] + [{}]
        self._staged = staged
        self.gradient = aligned(len(weights), np.dtype(str(weights.dtype).removeprefix("torch.")))
        self._gradient = torch.zeros_like(weights) if staged else torch.from_numpy(self.gradient)
        self._own = 0, len(weights)
        self._kinds = [self._kinds_of(g) if self.divisible else {} for g, _, _ in groups]
        self.own(weights, 0, len(weights), allocate_private)

    @property
    def divisible(self) -> bool:
        """True if a rank may own a part of the columns."""
        return self._blueprint.elementwise and not self._staged

    def own(self, weights: torch.Tensor, start: int, stop: int, allocate: Allocate) -> None:
        """Begin anew with columns start:stop of ``weights``; ``allocate`` has room for the optimizer's tensors."""
        self._began = False
        self._pieces: list[tuple[int, int, torch.nn.Parameter, dict[str, torch.Tensor]]] = []
        self._homes: dict[str, torch.Tensor] = {}
        self._own = start, stop
        groups: list[dict[str, Any]] = []
        for number, (group, first, last) in enumerate(self._groups):
            options = self._options[group]
            if not self._blueprint.elementwise:
                inside = [p for (lo, _), p in zip(self._ranges, self._params, strict=True) if first <= lo < last]
                groups.append({"params": inside, **options})
                continue
            lo, hi = max(first, start), min(last, stop)
            homes = {key: _home(kind, last - first, allocate) for key, kind in self._kinds[number].items()}
            self._homes |= {f"optimizer/{number}/0/{key}": home for key, home in homes.items()}
            groups.append({"params": [], **options})
            if lo < hi:
                p = torch.nn.Parameter(weights[lo:hi])
                p.grad = self._gradient[lo:hi]
                groups[-1]["params"].append(p)
                mine = {key: home[lo - first : hi - first] if home.ndim else home for key, home in homes.items()}
                self._pieces.append((lo, hi, p, mine))
        self.optimizer = self._blueprint.optimizer(groups)
        schedule = self._blueprint.schedule
        self._scheduler = None if schedule is None else schedule(self.optimizer)

    def free(self) -> Any:
        """Forget the optimizer's tensors and give the schedule away; from now on both are brought by others."""
        self._pieces = [(lo, hi, p, {}) for lo, hi, p, _ in self._pieces]
        scheduler, self._homes, self._scheduler = self._scheduler, {}, None
        self.optimizer.state.clear()
        return scheduler

    def landed(self) -> torch.Tensor:
        """Return the own columns of ``gradient``, where the net computes; `step` moves along them."""
        start, stop = self._own
        found = self._gradient[start:stop]
        return found.copy_(torch.from_numpy(self.gradient)[start:stop]) if self._staged else found

    def step(self, had: Sequence[bool] | None) -> None:
        """Move the own columns along what has `landed`.

        Parameters
        ----------
        had : per parameter, True if any shard had a gradient; the others rest, as they do in torch.  None: all had.
        """
        if not self._blueprint.elementwise:
            for i, ((lo, hi), p) in enumerate(zip(self._ranges, self._params, strict=True)):
                p.grad = self._gradient[lo:hi].view(p.shape) if had is None or had[i] else None
            self.optimizer.step()
        else:
            kept = [] if had is None else self._resting(had)
            self.optimizer.step()
            for tensor, before in kept:
                tensor.copy_(before)
            self._settle()
        if self._scheduler is not None:
            self._scheduler.step()

    def learning_rate(self) -> float:
        """Return the present learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def skip(self, n: int) -> None:
        """Bring the learning rates to where they are after ``n`` steps."""
        if self._scheduler is None:
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")  # the steps were made in an earlier run
            for _ in range(n):
                self._scheduler.step()

    def state(self) -> dict[str, Array]:
        """Return views of the optimizer's tensors by name, of all columns; empty before the first step."""
        if self.divisible:
            return {name: home.numpy() for name, home in self._homes.items()} if self._began else {}
        found = {}
        for g, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                for key, value in self.optimizer.state.get(p, {}).items():
                    if isinstance(value, torch.Tensor):
                        found[f"optimizer/{g}/{i}/{key}"] = value.detach().cpu().numpy()
        return found

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Put back what `state` returned."""
        if not any(name.startswith("optimizer/") for name in arrays):
            return
        if self.divisible:
            for name, home in self._homes.items():
                home.copy_(torch.tensor(arrays[name]).view(home.shape))
            self._began = True
            for _, _, p, mine in self._pieces:
                self.optimizer.state[p] = {key: t if t.ndim else t.clone() for key, t in mine.items()}
            return
        for g, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                prefix = f"optimizer/{g}/{i}/"
                found = {n.removeprefix(prefix): torch.tensor(a) for n, a in arrays.items() if n.startswith(prefix)}
                there = group.get("fused") or group.get("capturable")  # else torch counts steps on the host
                if found:
                    self.optimizer.state[p] = {
                        n: t if n == "step" and not there else t.to(self._gradient.device) for n, t in found.items()
                    }

    def _settle(self) -> None:
        """Have the optimizer's tensors where all ranks see them; counters stay with each rank, and are copied."""
        for _, _, p, mine in self._pieces:
            state = self.optimizer.state.get(p, {})
            for key, home in mine.items():
                value = state[key]
                if value is not home:
                    home.copy_(value)
                    if home.ndim:
                        state[key] = home
        self._began = True

    def _resting(self, had: Sequence[bool]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (view, what it holds) of all that a step changes at parameters without a gradient."""
        kept = []
        for (first, last), with_gradient in zip(self._ranges, had, strict=True):
            for lo, hi, p, _ in self._pieces:
                a, b = max(first, lo), min(last, hi)
                if with_gradient or a >= b:
                    continue
                own = self.optimizer.state.get(p, {}).values()
                for tensor in (p.data, *(t for t in own if isinstance(t, torch.Tensor) and t.shape == p.shape)):
                    kept.append((tensor[a - lo : b - lo], tensor[a - lo : b - lo].clone()))
        return kept

    def _kinds_of(self, group: int) -> dict[str, tuple[bool, torch.dtype]]:
        """Return, for each tensor that the optimizer keeps for a parameter, (whether it has its shape, its dtype)."""
        dtype = self._gradient.dtype
        p = torch.nn.Parameter(torch.zeros(16, dtype=dtype))
        optimizer = self._blueprint.optimizer([{"params": [p], **self._options[group]}])
        p.grad = torch.zeros(16, dtype=dtype)
        optimizer.step()
        kept = {key: t for key, t in optimizer.state.get(p, {}).items() if isinstance(t, torch.Tensor)}
        return {key: (t.shape == p.shape, t.dtype) for key, t in sorted(kept.items())}


def aligned(n: int, dtype: np.dtype[Any]) -> Array:
    """Return ``n`` zeros that begin at 64 bytes."""
    return allocate_private(n * dtype.itemsize).view(dtype)


def allocate_private(n_bytes: int) -> Array:
    """Return zeroed memory of this rank alone."""
    raw = np.zeros(n_bytes + 64, np.uint8)
    skip = -raw.__array_interface__["data"][0] % 64
    return raw[skip : skip + n_bytes]


def _home(kind: tuple[bool, torch.dtype], length: int, allocate: Allocate) -> torch.Tensor:
    full, dtype = kind
    n = length if full else 1
    flat = torch.from_numpy(allocate(n * torch.empty((), dtype=dtype).element_size())).view(dtype)
    return flat if full else flat.view(())
