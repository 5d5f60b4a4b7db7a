"""Losses as sums with their weights, so that shards can be added: never a mean of means."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tutti.errors import InputError

NAMED: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "huber": nn.HuberLoss,
    "smooth_l1": nn.SmoothL1Loss,
    "poisson_nll": nn.PoissonNLLLoss,
}


class Supervised:
    """loss(module(x), y) of a batch as (sum over rows of weight times loss, sum of weights).

    Where torch's own "mean" divides by something else than rows (class weights, ignored targets), that is summed too.

    Parameters
    ----------
    criterion : a torch loss; its ``reduction`` is set to "none".  One without it returns a loss per row, or its mean.
    class_weight : (n_classes,) factors, or None.
    """

    def __init__(self, criterion: Any, class_weight: Any = None) -> None:
        self.criterion = copy.deepcopy(criterion)
        self.class_weight = None if class_weight is None else torch.as_tensor(class_weight)
        self.ignored: int | None = None
        if isinstance(self.criterion, nn.CrossEntropyLoss | nn.NLLLoss):
            self.ignored = self.criterion.ignore_index
            if self.criterion.weight is not None:
                own = self.criterion.weight
                self.class_weight = own if self.class_weight is None else own * self.class_weight.to(own)
                self.criterion.weight = None
        if hasattr(self.criterion, "reduction"):
            self.criterion.reduction = "none"

    def to(self, device: torch.device) -> None:
        """Bring what the loss holds to a device."""
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(device)
        if self.class_weight is not None:
            self.class_weight = self.class_weight.to(device)

    def __call__(self, module: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Any, Any]:
        """Return (weighted sum of losses, sum of weights, output of the module)."""
        found = _output(module, batch["x"])
        output = found[0] if isinstance(found, tuple) else found
        rows = len(batch["y"])
        each, weight = self.by_row(output, batch)
        if weight is None:
            total = each.sum()
            return total if each.numel() == rows else total * (rows / max(each.numel(), 1)), float(rows), output
        if weight.shape != each.shape:
            each = each.reshape(rows, -1).mean(dim=1)
        return (each * weight).sum(), weight.sum(), output

    def by_row(self, output: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the loss of each row (or of each of its places), and their weights or None."""
        y = batch["y"]
        if output.ndim == 2 and output.shape[1] == 1 and y.ndim == 1 and y.is_floating_point():
            output = output[:, 0]
        each = self.criterion(output, y)
        if each.ndim == 0:
            each = each.expand(len(y))
        return each, self._weight(y, batch.get("weight"), each)

    def _weight(self, y: torch.Tensor, sample: torch.Tensor | None, each: torch.Tensor) -> torch.Tensor | None:
        if y.is_floating_point():
            return sample
        kept = None if self.ignored is None or (self.ignored < 0 and not (y < 0).any()) else y != self.ignored
        if self.class_weight is None and kept is None:
            return sample if y.ndim == 1 else None if sample is None else _spread(sample, each)
        weight = torch.ones_like(each) if self.class_weight is None else self.class_weight.to(each)[y.clamp(min=0)]
        if kept is not None:
            weight = weight * kept
        return weight if sample is None else weight * _spread(sample, weight)


class Custom:
    """A user's loss of (module, batch) as (sum over rows, sum of weights).

    Parameters
    ----------
    loss : returns a tensor (rows,) with a loss per row; or one number, the mean over the rows; or a pair (sum, weight),
        which a masked loss needs, because its mean is not over rows.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def to(self, device: torch.device) -> None:
        """Bring a loss that is a module to a device."""
        if isinstance(self.loss, nn.Module):
            self.loss.to(device)

    def __call__(self, module: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Any, None]:
        """Return (weighted sum of losses, sum of weights, None)."""
        found = self.loss(module, batch)
        if isinstance(found, tuple):
            total, weight = found
            return total, weight, None
        rows = len(next(iter(batch.values())))
        sample = batch.get("weight")
        if found.ndim == 0:
            if sample is not None:
                raise InputError("rows have weights, so the loss must be one per row, (rows,), or a pair (sum, weight)")
            return found * rows, float(rows), None
        if found.shape != (rows,):
            raise InputError(f"the loss has shape {tuple(found.shape)} for {rows} rows; return ({rows},) or one number")
        return (found.sum(), float(rows), None) if sample is None else ((found * sample).sum(), sample.sum(), None)


def _output(module: Any, x: torch.Tensor) -> Any:
    """Return module(x); a Keras layer, which does not look at ``training``, is told of it."""
    keras: Any = sys.modules.get("keras")  # whoever has such a layer has loaded it
    told = keras is not None and isinstance(module, getattr(keras, "Layer", ()))
    return module(x, training=module.training) if told else module(x)


def _spread(sample: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sample.reshape(-1, *[1] * (like.ndim - 1)).expand_as(like)
