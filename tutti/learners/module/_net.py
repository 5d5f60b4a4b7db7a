"""A torch module whose trainable parameters are views of one flat array, with its optimizer.

One flat array means: a gradient is one array to add up, a step is one call, and the state of a rank is a few arrays.
Every parameter begins at 64 bytes, so a vectorised step rounds alike however the array is cut.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tutti.errors import InputError
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module._columns import Columns, Spot
from tutti.learners.module._early import Early
from tutti.learners.module._grouped import Job, grouped
from tutti.learners.module._stepper import Allocate, Stepper, aligned
from tutti.learners.module.fields import Field
from tutti.protocols import Shares
from tutti.types import Array, Matrix, Ready, Update

LOSS, WEIGHT, HITS = range(3)
"""Places in "sums"; then follows a flag per parameter: 1 where it got a gradient."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CPU = torch.device("cpu")
Clip = tuple[str, float] | None
_DRAWING = threading.Lock()
"""Held while a module draws from torch's generator, of which a process has but one."""


class Net:
    """See the module.

    Parameters
    ----------
    blueprint : whose objects this net takes over.
    precision : "float32" (as the module is), or one of `HALVES`: autocast in the forward pass.
    device : where the net computes; one with memory of its own needs a `_device.Staged`.
    job : what the gradients are computed for; None if they are not, or each shard for itself.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        precision: str = "float32",
        device: torch.device = _CPU,
        *,
        job: Job | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self.blueprint, self.module, self.precision, self.device = blueprint, blueprint.module, precision, device
        self._generators = _generators(device)
        named = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
        self.dtype, self.numpy_dtype = _common_dtype(named)
        self.module.to(device)
        chosen = [_group_of(name, blueprint.groups) for name, _ in named]
        order = sorted(range(len(named)), key=lambda i: (chosen[i], i))
        align = 64 // self.numpy_dtype.itemsize
        self.spots: list[Spot] = []
        self.params: list[torch.nn.Parameter] = []
        groups: list[tuple[int, int, int]] = []  # group, start, stop
        at = 0
        for i in order:
            name, p = named[i]
            start, at = at, at + -(-p.numel() // align) * align
            self.spots.append(Spot(name, start, tuple(p.shape), at))
            self.params.append(p)
            if groups and groups[-1][0] == chosen[i]:
                start = groups.pop()[1]
            groups.append((chosen[i], start, at))
        self.length = at
        self._put(aligned(at, self.numpy_dtype))
        buffers = untrained(self.module)
        moving = [buffers[name] for name in blueprint.moving]
        self.buffers = sorted(moving, key=lambda b: not b.is_floating_point())
        self._n_averaged = sum(b.numel() for b in moving if b.is_floating_point())
        self.stats = aligned(sum(b.numel() for b in self.buffers), self.numpy_dtype)
        self._flat_stats = self._home(self.stats)
        self._stat_views = self._cut_stats(self._flat_stats)
        self.keep_stats()
        ranges = [(s.start, s.stop) for s in self.spots]
        self.stepper = Stepper(self._flat, ranges, self.params, groups, blueprint, staged=self._staged)
        self._outs: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
        self.together = grouped(self, job) if job is not None else None
        factors = {} if self.together is None else self.together.factors
        self._columns = Columns(self.spots, list(factors.values()))
        self.early = Early(self.params, self.spots, self._columns)
        compiled = self.module._compiled_call_impl is not None  # its backward pass ends all at once
        self._announces = not (self._staged or compiled)
        self._own = 0, self.length

    # where its memory lies: here in the host's, so that there is nothing to bring

    _staged = False

    def _put(self, weights: Array, copy: bool = True) -> None:
        """Move the parameters into a flat array, or take over what it holds."""
        self.weights = weights
        self._flat = flat = self._home(weights)
        for spot, p in zip(self.spots, self.params, strict=True):
            view = flat[spot.start : spot.stop].view(spot.shape)
            if copy:
                view.copy_(p.detach())
            p.data = view

    def arrays(self) -> dict[str, Array]:
        """Return what all ranks share, apart from the optimizer."""
        return {"weights": self.weights, "stats": self.stats}

    def plain_columns(self) -> Columns:
        """Return the columns as they are where every gradient is summed."""
        return Columns(self.spots, [])

    def place(self) -> None:
        """Take over what was written into `arrays`."""
        self.place_stats()

    def fetch(self) -> None:
        """Bring `arrays` up to date."""

    def _home(self, array: Array) -> torch.Tensor:
        """Return a tensor for what the array holds, where the net computes."""
        return torch.from_numpy(array)

    def _land(self, out: Mapping[str, Array]) -> None:
        """Bring what lies in `views_of` into the update's arrays."""

    def _loss_scale(self) -> float:
        """Return what the loss is multiplied with on the way back."""
        return 1.0

    @property
    def flat(self) -> torch.Tensor:
        """The weights, where the net computes."""
        return self._flat

    def separate(self) -> None:
        """Have every shard go alone from now on, and give gradients for all columns."""
        self.together = None
        self._columns = Columns(self.spots, [])
        self.early = Early(self.params, self.spots, self._columns)
        self._outs.clear()

    def settle(self, allocate: Allocate, part: int, parts: int) -> None:
        """Move what ranks write for each other into memory that all see; of the weights, own part ``part``.

        Without parts (``parts`` = 1) every rank keeps weights of its own.
        """
        if self.together is not None and self.together.rows is not None:
            self.together.rows.place(allocate)
        if parts == 1 or not self.stepper.divisible:
            return
        memory: Array = allocate(self.weights.nbytes).view(self.numpy_dtype)
        memory[:] = self.weights
        self._put(memory)
        self._own = self._columns.cut(part, parts), self._columns.cut(part + 1, parts)
        self.stepper.own(self._flat, *self._own, allocate)

    # one batch

    def tensors(
        self, x: Array, fields: Sequence[Field], y: Array | None = None, weight: Array | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of some rows."""
        return tensors_of(x, fields, self.dtype, y, weight)

    def template(self) -> dict[str, Array]:
        """Return arrays shaped like an update."""
        n_sums = 3 + len(self.spots)
        sizes = {"grad": self._columns.n_summed, "sums": n_sums, "stats": len(self.stats)}
        return {name: aligned(n, self.numpy_dtype) for name, n in sizes.items()}

    def update(self, out: Mapping[str, Array]) -> Update:
        """Return the update in arrays like `template`; of it the gradient may travel less exactly, sums may not."""
        return Update("gradient", out, {"grad": self.matrices})

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Where matrices lie in "grad"."""
        return self._columns.matrices

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
        ready: Ready | None = None,
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
        ready : called when columns of "grad" are final, while the others are still computed.
        """
        ready = ready if self._announces else None
        if not self.module.training:
            self.module.train()
        if not self.blueprint.stochastic:
            before = self._drawn()
            self._backward(batch, out, n_rows, seed, parts, ready, before)
            self.blueprint.stochastic = not all(map(torch.equal, before, self._drawn()))
            if self.blueprint.stochastic and self.early.written:
                raise InputError(
                    "the module drew its first random number in a backward pass, after gradients had been sent to the "
                    'other ranks; let it draw in every batch, or write transport="shm"'
                )
            if self.blueprint.stochastic and threading.current_thread() is not threading.main_thread():
                raise InputError(
                    "the module drew random numbers on these rows, and not on those it was tried out on; threads share "
                    "torch's generator, so write engine=tutti.Processes(n), or let it draw in every batch"
                )
        if self.blueprint.stochastic:
            self._backward(batch, out, n_rows, seed, parts, ready)
        if self.buffers:
            torch._foreach_copy_(self.views_of(out)[1], self.buffers)
        self._land(out)
        if self.buffers:
            self.share_stats(out["stats"], share, first)

    def share_stats(self, stats: Array, share: float, first: bool) -> None:
        """Turn a shard's buffers into its part of their mean; counters are those of the ``first`` shard."""
        n = self._n_averaged
        stats[:n] *= stats.dtype.type(share)
        stats[n:] *= first

    def _backward(
        self,
        batch: dict[str, torch.Tensor],
        out: Mapping[str, Array],
        n_rows: int,
        seed: int,
        parts: int,
        ready: Ready | None,
        before: list[torch.Tensor] | None = None,
    ) -> None:
        """Write the gradient; nothing is announced if more numbers than ``before`` were drawn: it is written anew."""
        grads, sums = self.views_of(out)[0], out["sums"]
        for p in self.params:
            p.grad = None
        if self.buffers:
            torch._foreach_copy_(self.buffers, self._stat_views)
        loss_sum = weight_sum = 0.0
        scale = self._loss_scale() / n_rows
        pieces = _pieces(batch, parts)
        for i, piece in enumerate(pieces):
            own = (seed + i) % 2**64
            with self._drawing(own):
                total, weight, _ = self._loss(piece, own)
            if ready is not None and before is not None and not all(map(torch.equal, before, self._drawn())):
                ready = None
            with self.early.watch(grads, ready if i == len(pieces) - 1 else None):
                (total * scale).backward()  # backward(scale) would import sympy first, which takes half a second
            loss_sum += total.item()  # afterwards: a device is waited for here
            weight_sum += float(weight)
        sums[:3] = loss_sum, weight_sum, 0.0
        sums[3:] = [p.grad is not None for p in self.params]
        left = [i for i in range(len(grads)) if i not in self.early.written]
        found = [i for i in left if self.params[i].grad is not None]
        if found:
            torch._foreach_copy_([grads[i] for i in found], [self.params[i].grad for i in found])
        for i in left:
            if self.params[i].grad is None:
                grads[i].zero_()
            if ready is not None:
                self.early.tell(ready, i)

    def _drawn(self) -> list[torch.Tensor]:
        """Return what changes when the module draws a random number."""
        return [g.get_state() for g in self._generators]

    def nothing(self, out: Mapping[str, Array], ready: Ready | None) -> None:
        """Write the update of a shard without rows."""
        for array in out.values():
            array[:] = 0
        if ready is not None:
            ready("grad", 0, len(out["grad"]))

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
            generator = torch.Generator(self.device).manual_seed(seed)
            batch = {**batch, first: self.blueprint.augment(batch[first], generator)}
        if self.precision in HALVES:
            with torch.autocast(self.device.type, HALVES[self.precision]):
                return self.blueprint.loss(self.module, batch)
        return self.blueprint.loss(self.module, batch)

    @contextlib.contextmanager
    def _drawing(self, seed: int) -> Any:
        """Let the module draw numbers that depend on ``seed`` alone, whatever other threads do."""
        if not self.blueprint.stochastic:
            yield
            return
        with _DRAWING:
            for generator in self._generators:
                generator.manual_seed(seed)
            yield

    def views_of(self, out: Mapping[str, Array]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parameters' gradients, and the moving buffers, as views of an update's arrays.

        A parameter whose gradient is not summed has an empty view.
        """
        key = out["grad"].__array_interface__["data"][0]
        found = self._outs.get(key)
        if found is None:
            flat = torch.from_numpy(out["grad"])
            flat.zero_()  # what lies between the parameters stays zero
            places = zip(self._columns.places, self.spots, strict=True)
            grads = [flat[:0] if at is None else flat[at : at + s.stop - s.start].view(s.shape) for at, s in places]
            found = grads, self._cut_stats(torch.from_numpy(out["stats"]))
            self._outs[key] = found
        return found

    def _cut_stats(self, flat: torch.Tensor) -> list[torch.Tensor]:
        return _cut(flat, [b.shape for b in self.buffers])

    # one step

    def step(self, shares: Shares, n_rows: int, factor: float, had: Sequence[bool] | None, clip: Clip) -> None:
        """Move the own columns of the weights along the merged gradient.

        Parameters
        ----------
        shares : what the shards gave.   n_rows : of the global batch.
        factor : what the sum still has to be multiplied with.
        had : per parameter, True if any shard had a gradient; None if all had.
        clip : ("norm" or "value", limit) or None; a norm needs all columns.
        """
        gradient, (lo, hi) = self.stepper.gradient, self._own
        for start, stop, at in self._columns.runs:
            a, b = max(start, lo), min(stop, hi)
            if a < b:
                shares.sum("grad", at + a - start, at + b - start, gradient[a:b])
        if self.together is not None:
            self.together.write_gradients(torch.from_numpy(gradient), n_rows, lo, hi)
        self.move(factor, had, clip)

    def move(self, factor: float, had: Sequence[bool] | None, clip: Clip) -> None:
        """Move the own columns along the stepper's gradient."""
        self.shape_gradient(factor, clip)
        self.stepper.step(had)

    def shape_gradient(self, factor: float, clip: Clip) -> None:
        """Scale and clip the own columns of the stepper's gradient."""
        g = self.stepper.landed()
        if factor != 1.0:
            g.mul_(factor)
        if clip is not None and clip[0] == "norm":
            g.mul_(min(1.0, clip[1] / (float(torch.linalg.vector_norm(g)) + 1e-6)))
        elif clip is not None:
            g.clamp_(-clip[1], clip[1])

    def keep_stats(self) -> None:
        """Take the module's buffers over into ``stats``."""
        for view, buffer in zip(self._stat_views, self.buffers, strict=True):
            view.copy_(buffer)

    def place_stats(self) -> None:
        """Give ``stats`` back to the module's buffers."""
        for view, buffer in zip(self._stat_views, self.buffers, strict=True):
            buffer.copy_(view)


def tensors_of(
    x: Array, fields: Sequence[Field], real: torch.dtype, y: Array | None = None, weight: Array | None = None
) -> dict[str, torch.Tensor]:
    """Return the tensors by name that a module or a loss gets, whose numbers are ``real`` unless they are whole.

    They begin at 64 bytes, as torch's own do: there are processors where products have other bits elsewhere.
    """
    flat, batch = torch.from_numpy(x), {}
    for f in fields:
        dtype = real if f.dtype == "real" else getattr(torch, f.dtype)
        rows = flat[:, f.start : f.stop].to(dtype).reshape(len(flat), *f.shape)
        batch[f.name] = rows.clone() if rows.data_ptr() % 64 else rows
    if y is not None:
        target = torch.from_numpy(y)
        batch["y"] = target.to(real) if target.is_floating_point() else target.long()
    if weight is not None:
        batch["weight"] = torch.from_numpy(weight).to(real)
    return batch


def untrained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what the optimizer leaves alone: buffers, and parameters without gradient, where Keras keeps counters."""
    return {**dict(module.named_buffers()), **{n: p for n, p in module.named_parameters() if not p.requires_grad}}


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


def _generators(device: torch.device) -> list[torch.Generator]:
    """Return the generators that a module on the device may draw from."""
    found = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        found.append(torch.cuda.default_generators[device.index])
    return found


def _group_of(name: str, groups: Sequence[tuple[str, Any]]) -> int:
    return next((i for i, (pattern, _) in enumerate(groups) if fnmatch.fnmatchcase(name, pattern)), len(groups))


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
