"""All shards of a rank in one forward and one backward pass, where that changes no bit.

Rows of a dense layer are computed alike whether few or many go through at once, as long as they are four or more on
today's processors; so the shards of a rank pass together, and only the gradients of the weights are taken shard by
shard, straight into the buffers they are summed from.  Nobody promises this: for each new list of sizes both ways
are computed and compared bit by bit first, and the separate way stays where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tutti.learners.module._losses import Supervised
from tutti.learners.module._net import Net
from tutti.types import Array

_BY_ROW = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardtanh,
    nn.ReLU6, nn.Identity, nn.Flatten, nn.Unflatten,
)  # fmt: skip
"""Layers without weights that treat every row by itself."""
_MOST_SIZES = 256

Sinks = list[tuple[list[torch.Tensor], list[torch.Tensor]]]


class Grouped:
    """The grouped pass of a net; make one with `grouped`."""

    def __init__(self, net: Net, layers: Sequence[nn.Module]) -> None:
        self._net, self._layers = net, layers
        self._places = {id(p): i for i, p in enumerate(net.params)}
        self._known: dict[tuple[int, ...], bool] = {}

    def fits(self, sizes: tuple[int, ...]) -> bool | None:
        """Tell whether shards of these sizes may go together; None: it is not known yet."""
        return self._known.get(sizes, None if len(self._known) < _MOST_SIZES else False)

    def remember(self, sizes: tuple[int, ...], same: bool) -> None:
        """Note whether shards of these sizes gave the very bits of the separate passes when they went together."""
        self._known[sizes] = same

    def gradients(
        self, batch: dict[str, torch.Tensor], sizes: Sequence[int], outs: Sequence[Mapping[str, Array]], n_rows: int
    ) -> bool:
        """Write what `Net.gradient` writes for each shard; False if the loss cannot be taken apart by rows.

        Parameters
        ----------
        batch : the rows of all shards, one shard after the other.   sizes : rows of each.   outs : arrays of each.
        n_rows : rows of the global batch.
        """
        net, loss = self._net, self._net.blueprint.loss
        cuts = list(pairwise(accumulate(sizes, initial=0)))
        views = [net.views_of(out)[0] for out in outs]
        h = batch["x"]
        for layer in self._layers:
            if type(layer) is nn.Linear:
                w, b = (None if p is None else self._places.get(id(p)) for p in (layer.weight, layer.bias))
                into = [(None if w is None else v[w], None if b is None else v[b]) for v in views]
                h = _Linear.apply(h, layer.weight, layer.bias, cuts, into)
            else:
                h = layer(h)
        each, weight = loss.by_row(h, batch)
        if each.ndim != 1 or (weight is not None and weight.shape != each.shape):
            return False
        weighed = each if weight is None else each * weight
        weighed.backward(torch.full_like(weighed, 1.0 / n_rows))
        for (lo, hi), out in zip(cuts, outs, strict=True):
            total = weighed[lo:hi].detach().sum().item()
            sums = out["sums"]
            sums[:3] = total, float(hi - lo if weight is None else weight[lo:hi].sum()), 0.0
            sums[3:] = 1.0
        return True


def grouped(net: Net, parts: int) -> Grouped | None:
    """Return the grouped pass of a net that is a sequence of dense layers and functions of single rows, else None."""
    blueprint = net.blueprint
    plain = net.precision == "float32" and parts == 1 and not (net.buffers or blueprint.stochastic or blueprint.augment)
    layers = _layers(net.module) if plain and type(blueprint.loss) is Supervised else None
    if layers is None:
        return None
    held = [id(p) for layer in layers for p in layer.parameters() if p.requires_grad]
    if len(held) != len(set(held)) or set(held) != {id(p) for p in net.params}:
        return None  # weights that are used twice, or not at all
    return Grouped(net, layers)


def _layers(module: nn.Module) -> list[nn.Module] | None:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        return None
    if type(module) is nn.Sequential:
        inside = [_layers(child) for child in module]
        found = [layer for layers in inside if layers is not None for layer in layers]
        return None if any(layers is None for layers in inside) else found
    return [module] if type(module) in (nn.Linear, *_BY_ROW) else None


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """A dense layer whose weight gradients are written for each cut of the rows."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, cuts: Any, into: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.cuts, ctx.into = cuts, into
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
        dx = flat_dy.mm(weight).view(x.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None


def same_bits(ours: Sequence[Mapping[str, Array]], others: Sequence[Mapping[str, Array]]) -> bool:
    """Tell whether the arrays of each shard agree in every bit."""
    return all(
        np.array_equal(array.view(np.uint8), b[name].view(np.uint8))
        for a, b in zip(ours, others, strict=True)
        for name, array in a.items()
    )
