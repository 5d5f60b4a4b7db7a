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

_ALIGN = 64  # outputs of a tile are whole cache lines, and enough for a product of few rows to run at full speed
_TILE_PRODUCTS = 1 << 22  # multiplications of a tile at least, so that calls do not cost more than they do
_TILES = 8  # of a layer at most
_WORTH = 1 << 16  # numbers of a gradient, over all shards; below, it is not worth the trouble


Products = tuple[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], list[tuple[torch.Tensor, torch.Tensor]]]


@dataclass(frozen=True)
class Factor:
    """A dense layer that gives rows.

    Parameters
    ----------
    weight, bias : their places among the parameters; bias may be None.
    n_in, n_out : sizes of the layer.
    number : which of the factors it is.
    tile : outputs that are computed in one product.
    """

    weight: int
    bias: int | None
    n_in: int
    n_out: int
    number: int
    tile: int


def factors_of(layers: Sequence[nn.Module], places: dict[int, int], n_rows: int, n_shards: int) -> dict[int, Factor]:
    """Return the layers worth it by their position.

    Parameters
    ----------
    layers : of the net, in order.   places : of the parameters by id.   n_rows : of the global batch.
    """
    found: dict[int, Factor] = {}
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
        tile = -(-tile // _ALIGN) * _ALIGN
        found[i] = Factor(places[id(layer.weight)], bias, n_in, n_out, len(found), tile)
    return found


class Rows:
    """All that the layers need of the rows of a global batch, in the order of their shards; a block for each factor.

    Parameters
    ----------
    factors : the layers.   n_rows : most rows of a batch.
    """

    def __init__(self, factors: Sequence[Factor], n_rows: int, dtype: np.dtype[np.floating]) -> None:
        self._factors, self._n_rows, self._dtype = factors, n_rows, dtype
        self.place(allocate_private)

    def place(self, allocate: Allocate) -> None:
        """Move to other memory; what is in the rows is lost."""
        self._blocks = [(self._block(allocate, f.n_in), self._block(allocate, f.n_out)) for f in self._factors]
        self._products: dict[tuple[int, int, int], Products] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(int(block.numel()) for pair in self._blocks for block in pair) * self._dtype.itemsize

    def inputs(self, factor: Factor, start: int, stop: int) -> torch.Tensor:
        """Return where the inputs of rows start:stop lie."""
        return self._blocks[factor.number][0][start:stop]

    def slopes(self, factor: Factor, start: int, stop: int) -> torch.Tensor:
        """Return where the output gradients of rows start:stop lie."""
        return self._blocks[factor.number][1][start:stop]

    def copy(self, start: int, stop: int) -> Array:
        """Return a copy of rows start:stop, flat."""
        both = [block[start:stop].reshape(-1) for pair in self._blocks for block in pair]
        found: Array = torch.cat(both).numpy()
        return found

    def put(self, start: int, stop: int, found: Array) -> None:
        """Take what `copy` returned, as bytes."""
        flat, at = torch.from_numpy(found.view(self._dtype).copy()), 0
        for block in (block for pair in self._blocks for block in pair):
            rows = block[start:stop]
            rows.copy_(flat[at : at + rows.numel()].view(rows.shape))
            at += rows.numel()

    def write_gradients(self, gradient: torch.Tensor, starts: Sequence[int], n_rows: int, lo: int, hi: int) -> None:
        """Write dW and db over the first ``n_rows`` rows, as far as they are columns lo:hi.

        Parameters
        ----------
        gradient : flat gradient.   starts : of every parameter in it.
        """
        key = n_rows, lo, hi
        found = self._products.get(key)
        if found is None:
            found = self._products[key] = self._products_of(gradient, starts, *key)
        for slopes, inputs, out in found[0]:
            torch.mm(slopes, inputs, out=out)
        for slopes, out in found[1]:
            torch.sum(slopes, 0, out=out)

    def _products_of(self, gradient: torch.Tensor, starts: Sequence[int], n_rows: int, lo: int, hi: int) -> Products:
        products, sums = [], []
        for f, (inputs, slopes) in zip(self._factors, self._blocks, strict=True):
            x, dy = inputs[:n_rows], slopes[:n_rows]
            for tile in range(0, f.n_out, f.tile):
                at, n_out = starts[f.weight] + tile * f.n_in, min(f.tile, f.n_out - tile)
                if lo <= at < hi:
                    out = gradient[at : at + n_out * f.n_in].view(n_out, f.n_in)
                    products.append((dy[:, tile : tile + n_out].t(), x, out))
            if f.bias is not None and lo <= starts[f.bias] < hi:
                sums.append((dy, gradient[starts[f.bias] : starts[f.bias] + f.n_out]))
        return products, sums

    def _block(self, allocate: Allocate, width: int) -> torch.Tensor:
        memory = allocate(self._n_rows * width * self._dtype.itemsize)
        return torch.from_numpy(memory.view(self._dtype).reshape(self._n_rows, width))
