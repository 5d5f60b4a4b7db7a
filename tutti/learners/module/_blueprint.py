"""What describes a net and how it learns; it reaches the workers as a `Carried`.  Models hold arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tutti._carried import Carried, carry


@dataclass
class Blueprint:
    """Live objects of a net.

    Parameters
    ----------
    module : a torch module; its weights are where training starts.
    loss : called with (module, batch), returns (sum of losses, sum of weights, output or None).
    optimizer : called with torch parameter groups, returns a torch optimizer.
    elementwise : True if the optimizer treats every number by itself, so that it may run on one flat array.
    groups : (pattern of parameter names, options) in order; parameters that no pattern matches come last.
    schedule : called with the optimizer, returns a torch scheduler that is stepped once a global step; or None.
    augment : called with (x, generator) before the module sees x; or None.
    moving : names of the buffers that change during training.
    stochastic : True if the forward pass draws from torch's own generator.
    unrepeatable : names of operations that torch has no repeatable form of.
    """

    module: Any
    loss: Any
    optimizer: Any
    elementwise: bool = False
    groups: tuple[tuple[str, dict[str, Any]], ...] = ()
    schedule: Any = None
    augment: Any = None
    moving: tuple[str, ...] = ()
    stochastic: bool = False
    unrepeatable: tuple[str, ...] = ()


def write(blueprint: Blueprint) -> Carried:
    """Write a blueprint down.

    Raises
    ------
    InputError : the module holds something that cannot travel, such as an open file or a lock.
    """
    return carry(
        blueprint,
        "the module",
        "open files, locks and generators inside it are made anew where they are needed, for example in forward",
    )
