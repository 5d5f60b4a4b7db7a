"""A torch module whose trainable parameters are views of one flat array, with its optimizer.

One flat array means: a gradient is one array to add up, a step is one call, and the state of a rank is a few arrays.
Every parameter begins at 64 bytes, so a vectorised step rounds alike however the array is cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tutti.errors import InputError
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module.fields import Field
from tutti.types import Array

LOSS, WEIGHT, HITS = range(3)
"""Places in "sums"; then follows a flag per parameter: 1 where it got a gradient."""

_UNKNOWN = object()
_DRAWING = threading.Lock()
"""Held while a module draws from torch's generator, of which a process has but one."""


@dataclass(frozen=True)
class Spot:
    """Where a parameter lies in the flat array."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


class Net:
    """See the module.

    Parameters
    ----------
    blueprint : whose objects this net takes over.
    precision : "float32" (as the module is) or "bf16": autocast in the forward pass.
    """

    def __init__(self, blueprint: Blueprint, precision: str = "float32") -> None:
        torch.set_num_threads(1)
        self.blueprint, self.module, self.precision = blueprint, blueprint.module, precision
        named = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
        self.dtype, self.numpy_dtype = _common_dtype(named)
        chosen = [_group_of(name, blueprint.groups) for name, _ in named]
        order = sorted(range(len(named)), key=lambda i: (chosen[i], i))
        align = 64 // self.numpy_dtype.itemsize
        self.spots: list[Spot] = []
        self.params: list[torch.nn.Parameter] = []
        edges: list[tuple[int, int, int]] = []  # group, start, stop
        at = 0
        for i in order:
            name, p = named[i]
            self.spots.append(Spot(name, at, tuple(p.shape)))
            self.params.append(p)
            at += -(-p.numel() // align) * align
            if edges and edges[-1][0] == chosen[i]:
                edges[-1] = (chosen[i], edges[-1][1], at)
            else:
                edges.append((chosen[i], at - -(-p.numel() // align) * align, at))
        self.length = at
        self.weights = _aligned(at, self.numpy_dtype)
        flat = torch.from_numpy(self.weights)
        for spot, p in zip(self.spots, self.params, strict=True):
            view = flat[spot.start : spot.stop].view(spot.shape)
            view.copy_(p.detach())
            p.data = view
        buffers = dict(self.module.named_buffers())
        moving = [buffers[name] for name in blueprint.moving]
        self.buffers = sorted(moving, key=lambda b: not b.is_floating_point())
        self._n_averaged = sum(b.numel() for b in moving if b.is_floating_point())
        self.stats = _aligned(sum(b.numel() for b in self.buffers), self.numpy_dtype)
        self._stat_views = _cut(torch.from_numpy(self.stats), [b.shape for b in self.buffers])
        self.keep_stats()
        self._start_optimizer(flat, edges)
        self._outs: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        self._aliases: dict[tuple[int, int], torch.Tensor] = {}
        self._scratch: torch.Tensor | None = None
        self._together: Any = _UNKNOWN

    # one batch

    def tensors(
        self, x: Array, fields: Sequence[Field], y: Array | None = None, weight: Array | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of some rows."""
        return tensors_of(x, fields, self.dtype, y, weight)

    def template(self) -> dict[str, Array]:
        """Return arrays shaped like an update."""
        n_sums = 3 + len(self.spots)
        sizes = {"grad": self.length, "sums": n_sums, "stats": len(self.stats)}
        return {name: np.zeros(n, self.numpy_dtype) for name, n in sizes.items()}

    def gradient(
        self,
        batch: dict[str, torch.Tensor],
        out: Mapping[str, Array],
        *,
        n_rows: int,
        seed: int,
        share: float,
        first: bool,
        parts: int,
    ) -> None:
        """Write the gradient of the batch's summed loss / ``n_rows``, its sums, and its part of the buffers' mean.

        Parameters
        ----------
        out : arrays like `template`, written in full.
        n_rows : rows of the global batch.
        seed : of everything random in this batch.
        share : weight of this shard's buffers in the step.
        first : True for one shard of the step: counters are taken from it.
        parts : the batch goes through the module in so many pieces (gradient accumulation).
        """
        if not self.module.training:
            self.module.train()
        if not self.blueprint.stochastic:
            before = torch.default_generator.get_state()
            self._backward(batch, out, n_rows, seed, parts)
            self.blueprint.stochastic = not torch.equal(before, torch.default_generator.get_state())
            if self.blueprint.stochastic and threading.current_thread() is not threading.main_thread():
                raise InputError(
                    "the module drew random numbers on these rows, and not on those it was tried out on; threads share "
                    "torch's generator, so write engine=tutti.Processes(n), or let it draw in every batch"
                )
        if self.blueprint.stochastic:
            self._backward(batch, out, n_rows, seed, parts)
        if self.buffers:
            torch._foreach_copy_(self.views_of(out)[1], self.buffers)
            stats, n = out["stats"], self._n_averaged
            stats[:n] *= stats.dtype.type(share)
            stats[n:] *= first

    def _backward(
        self, batch: dict[str, torch.Tensor], out: Mapping[str, Array], n_rows: int, seed: int, parts: int
    ) -> None:
        grads, sums = self.views_of(out)[0], out["sums"]
        for p in self.params:
            p.grad = None
        if self.buffers:
            torch._foreach_copy_(self.buffers, self._stat_views)
        loss_sum = weight_sum = 0.0
        scale = torch.tensor(1.0 / n_rows, dtype=self.dtype)
        for i, piece in enumerate(_pieces(batch, parts)):
            own = (seed + i) % 2**64
            with self._drawing(own):
                total, weight, _ = self._loss(piece, own)
            loss_sum += total.item()
            weight_sum += float(weight)
            total.backward(scale.to(total.dtype))
        found = [p.grad for p in self.params if p.grad is not None]
        sums[:3] = loss_sum, weight_sum, 0.0
        sums[3:] = [p.grad is not None for p in self.params]
        if len(found) == len(grads):
            torch._foreach_copy_(grads, found)
        else:
            for p, view in zip(self.params, grads, strict=True):
                if p.grad is None:
                    view.zero_()
                else:
                    view.copy_(p.grad)

    def together(self, parts: int) -> Any:
        """Return the way to take all shards of the rank in one pass (`_grouped.Grouped`), or None."""
        if self._together is _UNKNOWN:
            from tutti.learners.module._grouped import grouped

            self._together = grouped(self, parts)
        return self._together

    def nothing(self, out: Mapping[str, Array]) -> None:
        """Write the update of a shard without rows."""
        for array in out.values():
            array[:] = 0

    def judge(self, batch: dict[str, torch.Tensor]) -> tuple[float, float, float]:
        """Return (sum of losses, sum of weights, weight of the rows whose class is right) in evaluation mode."""
        self.module.train(False)
        with torch.no_grad():
            total, weight, output = self._loss(batch, None)
        y, hits = batch.get("y"), 0.0
        if y is not None and output is not None and not y.is_floating_point() and output.ndim == y.ndim + 1:
            right = (output.argmax(dim=1) == y).double()
            sample = batch.get("weight")
            hits = float((right if sample is None else right * sample).sum())
        return total.item(), float(weight), hits

    def _loss(self, batch: dict[str, torch.Tensor], seed: int | None) -> Any:
        if seed is not None and self.blueprint.augment is not None:
            first = next(iter(batch))
            generator = torch.Generator().manual_seed(seed)
            batch = {**batch, first: self.blueprint.augment(batch[first], generator)}
        if self.precision == "bf16":
            with torch.autocast("cpu", torch.bfloat16):
                return self.blueprint.loss(self.module, batch)
        return self.blueprint.loss(self.module, batch)

    @contextlib.contextmanager
    def _drawing(self, seed: int) -> Any:
        """Let the module draw numbers that depend on ``seed`` alone, whatever other threads do."""
        if not self.blueprint.stochastic:
            yield
            return
        with _DRAWING:
            torch.default_generator.manual_seed(seed)
            yield

    def views_of(self, out: Mapping[str, Array]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parameters' gradients, and the moving buffers, as views of an update's arrays."""
        key = out["grad"].__array_interface__["data"][0]
        found = self._outs.get(key)
        if found is None:
            flat = torch.from_numpy(out["grad"])
            flat.zero_()  # what lies between the parameters stays zero
            grads = [flat[s.start : s.stop].view(s.shape) for s in self.spots]
            found = grads, _cut(torch.from_numpy(out["stats"]), [b.shape for b in self.buffers])
            self._outs[key] = found
        return found

    # one step

    def step(self, grad: Array, factor: float, had: Sequence[bool], clip: tuple[str, float] | None) -> None:
        """Move the weights along a merged gradient.

        Parameters
        ----------
        grad : (length,) merged gradient.   factor : what it still has to be multiplied with.
        had : per parameter, True if any shard had a gradient; the others rest, as they do in torch.
        clip : ("norm" or "value", limit) or None.
        """
        g = self._alias(grad)
        if factor != 1.0 or clip is not None:
            if self._scratch is None:
                self._scratch = torch.empty_like(g)
            g = torch.mul(g, factor, out=self._scratch)
            if clip is not None and clip[0] == "norm":
                g.mul_(min(1.0, clip[1] / (float(torch.linalg.vector_norm(g)) + 1e-6)))
            elif clip is not None:
                g.clamp_(-clip[1], clip[1])
        if self._segments is None:
            for spot, p, with_grad in zip(self.spots, self.params, had, strict=True):
                p.grad = g[spot.start : spot.stop].view(spot.shape) if with_grad else None
            self.optimizer.step()
        else:
            resting = [s for s, with_grad in zip(self.spots, had, strict=True) if not with_grad]
            kept = [
                (array, s, array[s.start : s.stop].clone()) for s in resting for array in self._elementwise_state(s)
            ]
            for (_, start, stop), p in self._segments:
                p.grad = g[start:stop]
            self.optimizer.step()
            for array, s, before in kept:
                array[s.start : s.stop] = before
        if self.scheduler is not None:
            self.scheduler.step()

    def keep_stats(self) -> None:
        """Take the module's buffers over into ``stats``."""
        for view, buffer in zip(self._stat_views, self.buffers, strict=True):
            view.copy_(buffer)

    def place_stats(self) -> None:
        """Give ``stats`` back to the module's buffers."""
        for view, buffer in zip(self._stat_views, self.buffers, strict=True):
            buffer.copy_(view)

    def learning_rate(self) -> float:
        """Return the present learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def skip_steps(self, n: int) -> None:
        """Bring the learning rates to where they are after ``n`` steps."""
        if self.scheduler is None:
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")  # the steps were made in an earlier run
            for _ in range(n):
                self.scheduler.step()

    def optimizer_state(self) -> dict[str, Array]:
        """Return views of the optimizer's tensors by name; empty before the first step."""
        found = {}
        for g, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                for key, value in self.optimizer.state.get(p, {}).items():
                    if isinstance(value, torch.Tensor):
                        found[f"optimizer/{g}/{i}/{key}"] = value.detach().numpy()
        return found

    def restore_optimizer(self, arrays: Mapping[str, Array]) -> None:
        """Put back what `optimizer_state` returned."""
        for g, group in enumerate(self.optimizer.param_groups):
            for i, p in enumerate(group["params"]):
                prefix = f"optimizer/{g}/{i}/"
                state = {n.removeprefix(prefix): torch.tensor(a) for n, a in arrays.items() if n.startswith(prefix)}
                if state:
                    self.optimizer.state[p] = state

    def _start_optimizer(self, flat: torch.Tensor, edges: list[tuple[int, int, int]]) -> None:
        options = [o for _, o in self.blueprint.groups] + [{}]
        self._segments: list[tuple[tuple[int, int, int], torch.nn.Parameter]] | None = None
        groups: list[dict[str, Any]] = []
        if self.blueprint.elementwise:
            self._segments = [(edge, torch.nn.Parameter(flat[edge[1] : edge[2]])) for edge in edges]
            groups = [{"params": [p], **options[edge[0]]} for edge, p in self._segments]
        else:
            for group, start, stop in edges:
                inside = [p for s, p in zip(self.spots, self.params, strict=True) if start <= s.start < stop]
                groups.append({"params": inside, **options[group]})
        self.optimizer = self.blueprint.optimizer(groups)
        schedule = self.blueprint.schedule
        self.scheduler = None if schedule is None else schedule(self.optimizer)

    def _elementwise_state(self, spot: Spot) -> list[Any]:
        """Return the arrays, indexed as the flat one, that a step changes at ``spot``."""
        assert self._segments is not None
        for (_, start, stop), p in self._segments:
            if start <= spot.start < stop:
                own = [t for t in self.optimizer.state.get(p, {}).values() if t.shape == p.shape]
                return [_Shifted(t, start) for t in (p.data, *own)]
        return []

    def _alias(self, array: Array) -> torch.Tensor:
        """Return a tensor on the memory of a read-only array, without the warning that it must not be written."""
        key = array.__array_interface__["data"][0], array.nbytes
        found = self._aliases.get(key)
        if found is None:
            memory = (ctypes.c_byte * array.nbytes).from_address(key[0])
            found = self._aliases[key] = torch.frombuffer(memory, dtype=self.dtype)
        return found


class _Shifted:
    """A tensor that is indexed by places in the flat array."""

    def __init__(self, tensor: torch.Tensor, start: int) -> None:
        self._tensor, self._start = tensor, start

    def __getitem__(self, where: slice) -> torch.Tensor:
        return self._tensor[where.start - self._start : where.stop - self._start]

    def __setitem__(self, where: slice, value: torch.Tensor) -> None:
        self._tensor[where.start - self._start : where.stop - self._start] = value


def tensors_of(
    x: Array, fields: Sequence[Field], real: torch.dtype, y: Array | None = None, weight: Array | None = None
) -> dict[str, torch.Tensor]:
    """Return the tensors by name that a module or a loss gets, whose numbers are ``real`` unless they are whole."""
    flat, batch = torch.from_numpy(x), {}
    for f in fields:
        dtype = real if f.dtype == "real" else getattr(torch, f.dtype)
        batch[f.name] = flat[:, f.start : f.stop].to(dtype).reshape(len(flat), *f.shape)
    if y is not None:
        target = torch.from_numpy(y)
        batch["y"] = target.to(real) if target.is_floating_point() else target.long()
    if weight is not None:
        batch["weight"] = torch.from_numpy(weight).to(real)
    return batch


def real_of(module: torch.nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _common_dtype(named: Sequence[tuple[str, torch.Tensor]]) -> tuple[torch.dtype, np.dtype[Any]]:
    if not named:
        raise InputError("the module has no parameter to train (none with requires_grad=True)")
    dtype = named[0][1].dtype
    for name, p in named:
        if p.dtype not in (torch.float32, torch.float64) or p.dtype != dtype:
            raise InputError(
                f"parameter {name!r} is {p.dtype}, {named[0][0]!r} is {dtype}: all trainable parameters are float32, "
                "or all float64; for mixed precision keep them so and set precision='bf16'"
            )
        if p.device.type != "cpu":
            raise InputError(f"parameter {name!r} lies on {p.device}; give the module on the CPU")
    return dtype, np.dtype(str(dtype).removeprefix("torch."))


def _group_of(name: str, groups: Sequence[tuple[str, Any]]) -> int:
    return next((i for i, (pattern, _) in enumerate(groups) if fnmatch.fnmatchcase(name, pattern)), len(groups))


def _aligned(n: int, dtype: np.dtype[Any]) -> Array:
    raw = np.zeros(n * dtype.itemsize + 64, np.uint8)
    skip = -raw.__array_interface__["data"][0] % 64
    return raw[skip : skip + n * dtype.itemsize].view(dtype)


def _cut(flat: torch.Tensor, shapes: Sequence[Any]) -> list[torch.Tensor]:
    sizes = [math.prod(s) for s in shapes]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [flat[at : at + n].view(s) for at, n, s in zip(starts, sizes, shapes, strict=True)]


def _pieces(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    if parts == 1:
        return [batch]
    n = len(next(iter(batch.values())))
    edges = [n * i // parts for i in range(parts + 1)]
    return [{k: v[lo:hi] for k, v in batch.items()} for lo, hi in pairwise(edges) if hi > lo]
