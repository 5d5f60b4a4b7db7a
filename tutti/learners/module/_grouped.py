"""All shards of a rank in one forward and one backward pass, where that changes no bit.

Rows of a dense layer are computed alike whether few or many go through at once, as long as they are four or more on
today's processors; so the shards of a rank pass together, and only the gradients of the weights are taken shard by
shard, straight into the buffers they are summed from, or once for all from the rows themselves (see `_factors`).
Nobody promises this: for each new list of sizes both ways are computed and compared bit by bit first, and the separate
way stays where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tutti.learners.module._factors import Rows, factors_of
from tutti.learners.module._losses import NAMED, Supervised
from tutti.learners.module._stepper import aligned
from tutti.learners.module.fields import Field
from tutti.types import Array, Ready

if TYPE_CHECKING:
    from tutti.learners.module._net import Net

_BY_ROW = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh,
    nn.ReLU6, nn.Identity, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)  # fmt: skip
"""Layers without weights that treat every row by itself."""
_SPLIT = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose gradients are taken shard by shard."""
_MOST_SIZES = 256


@dataclass(frozen=True)
class Job:
    """What decides how gradients are computed; the same on every rank.

    Parameters
    ----------
    fields : the tensors of a batch.   n_rows : most rows of a global batch.   n_shards : shards they come from.
    parts : pieces in which a shard's rows go through the module.   factored : layers may give rows.
    """

    fields: tuple[Field, ...]
    n_rows: int
    n_shards: int
    parts: int = 1
    factored: bool = True


class Grouped:
    """The grouped pass of a net; make one with `grouped`."""

    def __init__(self, net: Net, layers: Sequence[nn.Module], job: Job) -> None:
        self._net, self._layers = net, layers
        self._places = {id(p): i for i, p in enumerate(net.params)}
        self._known: dict[tuple[int, ...], bool] = {}
        self.rows: Rows | None = None
        self._kept = np.empty((0, 0), net.numpy_dtype)
        self._starts = [spot.start for spot in net.spots]
        self.factors = factors_of(layers, self._places, job.n_rows, job.n_shards) if job.factored else {}
        if self.factors and _by_row(net, layers, list(self.factors), job.fields):
            self.rows = Rows(list(self.factors.values()), job.n_rows, net.numpy_dtype)
        else:
            self.factors = {}

    def fits(self, sizes: tuple[int, ...]) -> bool | None:
        """Tell whether shards of these sizes may go together; None: it is not known yet."""
        if self.rows is not None and len(sizes) == 1:
            return True  # there is no other way
        return self._known.get(sizes, None if len(self._known) < _MOST_SIZES else False)

    def remember(self, sizes: tuple[int, ...], same: bool) -> bool:
        """Note, and return, whether shards of these sizes gave the bits of separate passes when they went together."""
        self._known[sizes] = same
        return same

    def gradients(
        self,
        batch: dict[str, torch.Tensor],
        ranges: Sequence[tuple[int, int]],
        outs: Sequence[Mapping[str, Array]],
        n_rows: int,
        readies: Sequence[Ready | None],
    ) -> bool:
        """Write what `Net.gradient` writes for each shard; False if the loss cannot be taken apart by rows.

        Parameters
        ----------
        batch : the rows of all shards, one shard after the other.   ranges : of each shard's rows in the global batch.
        outs : arrays of each.   n_rows : rows of the global batch.
        readies : of each, called when columns of its "grad" are final.
        """
        net, loss = self._net, self._net.blueprint.loss
        cuts = list(pairwise(accumulate((stop - start for start, stop in ranges), initial=0)))
        views = [net.views_of(out)[0] for out in outs]
        h = batch["x"]
        for i, layer in enumerate(self._layers):
            if i in self.factors:
                h = _Factored.apply(h, layer.weight, layer.bias, self._sinks(i, cuts, ranges))
            elif type(layer) in _SPLIT:
                w, b = (None if p is None else self._places.get(id(p)) for p in (layer.weight, layer.bias))
                into = [(None if w is None else v[w], None if b is None else v[b]) for v in views]
                split = _Linear if type(layer) is nn.Linear else _Convolution
                h = split.apply(h, layer.weight, layer.bias, cuts, into, layer, partial(self._tell, readies, (b, w)))
            else:
                h = layer(h)
        each, weight = loss.by_row(h, batch)
        if each.ndim != 1 or (weight is not None and weight.shape != each.shape):
            return False
        weighed = each if weight is None else each * weight
        (weighed.sum() * (1.0 / n_rows)).backward()
        weighed = weighed.detach()
        for (lo, hi), out in zip(cuts, outs, strict=True):
            total = weighed[lo:hi].sum().item()
            sums = out["sums"]
            sums[:3] = total, float(hi - lo if weight is None else weight[lo:hi].sum()), 0.0
            sums[3:] = 1.0
        return True

    def _tell(self, readies: Sequence[Ready | None], params: Sequence[int | None]) -> None:
        """Announce the gradients of a layer, for every shard."""
        for ready in readies:
            for i in params:
                if ready is not None and i is not None:
                    self._net.early.tell(ready, i)

    def given(self, out: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        """Return all that a shard gave: its update, and its rows start:stop of the global batch."""
        return dict(out) if self.rows is None else {**out, "rows": self.rows.copy(start, stop)}

    def restore(self, given: Sequence[Mapping[str, Array]], ranges: Sequence[tuple[int, int]]) -> None:
        """Write the rows that shards gave before another pass has written its own in their place."""
        if self.rows is not None:
            for found, (start, stop) in zip(given, ranges, strict=True):
                self.rows.put(start, stop, found["rows"])

    def _sinks(
        self, layer: int, cuts: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]
    ) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Return (rows of the batch, where their inputs go, where their output gradients go), as few as possible."""
        assert self.rows is not None
        runs: list[list[int]] = []
        for (lo, hi), (start, stop) in zip(cuts, ranges, strict=True):
            if runs and runs[-1][3] == start:
                runs[-1][1], runs[-1][3] = hi, stop
            else:
                runs.append([lo, hi, start, stop])
        factor = self.factors[layer]
        return [
            (slice(lo, hi), self.rows.inputs(factor, start, stop), self.rows.slopes(factor, start, stop))
            for lo, hi, start, stop in runs
        ]

    def write_gradients(self, gradient: torch.Tensor, n_rows: int, start: int, stop: int) -> None:
        """Write what the rows give for the columns start:stop of the flat gradient."""
        if self.rows is not None:
            self.rows.write_gradients(gradient, self._starts, n_rows, start, stop)

    def inputs(self, ranges: Sequence[tuple[int, int]], width: int) -> Array:
        """Return where x of the rows may be written: where the first layer shares it, else memory that is kept."""
        adjoining = all(a[1] == b[0] for a, b in pairwise(ranges))
        if self.rows is not None and 0 in self.factors and adjoining:
            shared: Array = self.rows.inputs(self.factors[0], ranges[0][0], ranges[-1][1]).numpy()
            return shared
        n_rows = sum(stop - start for start, stop in ranges)
        if len(self._kept) < n_rows or self._kept.shape[1] != width:
            self._kept = aligned(n_rows * width, self._net.numpy_dtype).reshape(n_rows, width)
        return self._kept[:n_rows]


def grouped(net: Net, job: Job) -> Grouped | None:
    """Return the grouped pass of a net that is a sequence of layers known to treat each row by itself, else None."""
    blueprint = net.blueprint
    plain = net.precision == "float32" and job.parts == 1
    plain = plain and not (blueprint.moving or blueprint.stochastic or blueprint.augment)
    layers = _layers(net.module) if plain and type(blueprint.loss) is Supervised else None
    if layers is None:
        return None
    held = [id(p) for layer in layers for p in layer.parameters() if p.requires_grad]
    if len(held) != len(set(held)) or set(held) != {id(p) for p in net.params}:
        return None  # weights that are used twice, or not at all
    return Grouped(net, layers, job)


def _by_row(net: Net, layers: Sequence[nn.Module], factors: Sequence[int], fields: Sequence[Field]) -> bool:
    """Tell whether a row is one row to each of the factors, and a loss of torch's gives one number for it."""
    criterion = net.blueprint.loss.criterion
    if type(criterion) not in NAMED.values() or len(fields) != 1:
        return False
    classes = isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss)
    x = torch.zeros((4, *fields[0].shape), dtype=net.dtype if fields[0].dtype == "real" else torch.int64)
    y = torch.zeros(4, dtype=torch.int64 if classes else net.dtype)
    with torch.no_grad():
        for i, layer in enumerate(layers):
            if i in factors and x.ndim != 2:
                return False
            x = layer(x)
        each, _ = net.blueprint.loss.by_row(x, {"y": y})
    return bool(each.shape == (4,))


def _layers(module: nn.Module) -> list[nn.Module] | None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        return None
    if type(module) is nn.Sequential:
        inside = [_layers(child) for child in module]
        found = [layer for layers in inside if layers is not None for layer in layers]
        return None if any(layers is None for layers in inside) else found
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not _plain(module):
        return None
    return [module] if type(module) in (*_SPLIT, *_BY_ROW) else None


def _plain(layer: Any) -> bool:
    """Tell whether a convolution is one call of torch's, without padding of its own."""
    return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """A dense layer whose weight gradients are written for each cut of the rows."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, cuts: Any, into: Any, layer: Any, tell: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.cuts, ctx.into, ctx.tell = cuts, into, tell
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight = ctx.saved_tensors
        per_row = x.numel() // max(len(x), 1) // x.shape[-1]  # of layers over sequences
        flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        for (lo, hi), (w, b) in zip(ctx.cuts, ctx.into, strict=True):
            part = flat_dy[lo * per_row : hi * per_row]
            if w is not None:
                torch.mm(part.t(), flat_x[lo * per_row : hi * per_row], out=w)
            if b is not None:
                torch.sum(part, 0, out=b)
        ctx.tell()
        dx = flat_dy.mm(weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None, None, None


class _Factored(torch.autograd.Function):  # type: ignore[misc]
    """A dense layer that leaves its inputs and output gradients where its weight gradient is computed from them."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, sinks: Any) -> Any:
        ctx.save_for_backward(weight)
        ctx.sinks = sinks
        for rows, inputs, _ in sinks:
            if inputs.data_ptr() != x[rows].data_ptr():
                inputs.copy_(x[rows])
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        (weight,) = ctx.saved_tensors
        for rows, _, slopes in ctx.sinks:
            slopes.copy_(dy[rows])
        return dy.mm(weight) if ctx.needs_input_grad[0] else None, None, None, None


class _Convolution(torch.autograd.Function):  # type: ignore[misc]
    """A convolution whose weight gradients are written for each cut of the rows."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, cuts: Any, into: Any, layer: Any, tell: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.cuts, ctx.into, ctx.layer, ctx.tell = cuts, into, layer, tell
        return layer._conv_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        x, weight = ctx.saved_tensors
        layer = ctx.layer

        def slopes(lo: int, hi: int, mask: list[bool]) -> Any:
            settings = (layer.stride, layer.padding, layer.dilation, False, [0] * len(layer.stride), layer.groups)
            return torch.ops.aten.convolution_backward(
                dy[lo:hi], x[lo:hi], weight, [len(weight)], *settings, output_mask=mask
            )

        for (lo, hi), (w, b) in zip(ctx.cuts, ctx.into, strict=True):
            _, dw, db = slopes(lo, hi, [False, w is not None, b is not None])
            if w is not None:
                w.copy_(dw)
            if b is not None:
                b.copy_(db)
        ctx.tell()
        dx = slopes(0, len(x), [True, False, False])[0] if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None, None, None


def same_bits(ours: Sequence[Mapping[str, Array]], others: Sequence[Mapping[str, Array]]) -> bool:
    """Tell whether the arrays of each shard agree in every bit."""
    return all(
        np.array_equal(array.view(np.uint8), b[name].view(np.uint8))
        for a, b in zip(ours, others, strict=True)
        for name, array in a.items()
    )
