"""Sufficient factors: dense layers whose gradient is computed once from the rows of all shards, not once per shard.

The gradient of a dense layer, dW = sum_i dy_i x_i^T, is given by the rows' inputs x and output gradients dy.  Where
those are fewer numbers than one dW for each shard, the shards share them, and dW is computed over the whole batch in
tiles of a fixed size (Xie, Kim, Zhou, Ho, Kumar, Yu, Xing 2016).  Which layers and tiles these are depends on the job
alone, so it does not matter to the bits who computes which tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tutti.learners.module._stepper import Allocate, allocate_private
from tutti.types import Array

_ALIGN = 16  # columns of the matrix begin at 64 bytes
_TILE_PRODUCTS = 1 << 22  # multiplications of a tile at least, so that calls do not cost more than they do
_TILES = 8  # of a layer at most
_WORTH = 1 << 16  # numbers of a gradient, over all shards; below, it is not worth the trouble


@dataclass(frozen=True)
class Factor:
    """A dense layer that gives rows.

    Parameters
    ----------
    weight, bias : their places among the parameters; bias may be None.
    n_in, n_out : sizes of the layer.
    x, dy : first columns of its inputs and output gradients in the matrix of rows.
    tile : outputs that are computed in one product.
    """

    weight: int
    bias: int | None
    n_in: int
    n_out: int
    x: int
    dy: int
    tile: int


def factors_of(
    layers: Sequence[nn.Module], places: dict[int, int], n_rows: int, n_shards: int
) -> tuple[dict[int, Factor], int]:
    """Return (the layers worth it by their position, columns of the matrix of rows).

    Parameters
    ----------
    layers : of the net, in order.   places : of the parameters by id.   n_rows : of the global batch.
    """
    found, width = {}, 0
    for i, layer in enumerate(layers):
        if type(layer) is not nn.Linear or not layer.weight.requires_grad:
            continue
        if layer.bias is not None and not layer.bias.requires_grad:
            continue
        n_out, n_in = layer.weight.shape
        shared, summed = n_rows * (n_in + n_out), n_shards * n_in * n_out
        if 2 * shared > summed or summed < _WORTH:
            continue
        tile = max(-(-_TILE_PRODUCTS // (n_in * n_rows)), -(-n_out // _TILES))
        bias = None if layer.bias is None else places[id(layer.bias)]
        x = width
        dy = x + -(-n_in // _ALIGN) * _ALIGN
        width = dy + -(-n_out // _ALIGN) * _ALIGN
        found[i] = Factor(places[id(layer.weight)], bias, n_in, n_out, x, dy, -(-tile // _ALIGN) * _ALIGN)
    return found, width


class Rows:
    """The matrix of rows: all that the layers need of the rows of a global batch, in the order of their shards."""

    def __init__(self, n_rows: int, width: int, dtype: np.dtype[np.floating]) -> None:
        self._shape, self._dtype = (n_rows, width), dtype
        self.place(allocate_private)

    def place(self, allocate: Allocate) -> None:
        """Move to other memory; what is in the rows is lost."""
        n_rows, width = self._shape
        memory: Array = allocate(n_rows * width * self._dtype.itemsize)
        self._matrix = torch.from_numpy(memory.view(self._dtype).reshape(n_rows, width))

    def inputs(self, factor: Factor, start: int, stop: int) -> torch.Tensor:
        """Return where the inputs of rows start:stop lie."""
        return self._matrix[start:stop, factor.x : factor.x + factor.n_in]

    def slopes(self, factor: Factor, start: int, stop: int) -> torch.Tensor:
        """Return where the output gradients of rows start:stop lie."""
        return self._matrix[start:stop, factor.dy : factor.dy + factor.n_out]

    def copy(self, start: int, stop: int) -> Array:
        """Return a copy of rows start:stop."""
        found: Array = self._matrix[start:stop].numpy().copy()
        return found

    def weight_gradient(self, factor: Factor, n_rows: int, tile: int, out: torch.Tensor) -> None:
        """Write dW for outputs tile:tile + factor.tile over the first ``n_rows`` rows."""
        dy = self.slopes(factor, 0, n_rows)[:, tile : tile + factor.tile]
        torch.mm(dy.t(), self.inputs(factor, 0, n_rows), out=out)

    def bias_gradient(self, factor: Factor, n_rows: int, out: torch.Tensor) -> None:
        """Write the sum of the output gradients over the first ``n_rows`` rows."""
        torch.sum(self.slopes(factor, 0, n_rows), 0, out=out)
