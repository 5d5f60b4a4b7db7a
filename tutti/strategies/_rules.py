"""How weights move along a gradient or a difference: rules for every number by itself, in place, cut anywhere.

All take whole arrays or the same range of each of them, so a range gives the bits that the whole would.  ``w`` is what
moves, ``g`` what it moves along (never written); the others are state of the same shape that begins at zero.
"""

from __future__ import annotations

import numpy as np

from tutti.types import Array


def sgd(w: Array, g: Array, velocity: Array | None, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
    """w -= lr v with v = momentum v + g; with ``nesterov`` w -= lr (g + momentum v)."""
    if velocity is None or momentum == 0:
        w -= lr * g
        return
    velocity *= momentum
    velocity += g
    if not nesterov:
        w -= lr * velocity
        return
    step = momentum * velocity
    step += g
    step *= lr
    w -= step


def adagrad(w: Array, g: Array, total: Array, lr: float, eps: float = 1e-10) -> None:
    """w -= lr g / (sqrt(s) + eps) with s = s + g^2 (Duchi, Hazan, Singer 2011)."""
    total += g * g
    below = np.sqrt(total)
    below += eps
    step = g / below
    step *= lr
    w -= step


def adam(
    w: Array,
    g: Array,
    mean: Array,
    square: Array,
    count: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """w -= lr m' / (sqrt(s') + eps), m' and s' the means of g and g^2 without their bias (Kingma, Ba 2015).

    Parameters
    ----------
    count : of this step, from 1.
    """
    a, b = betas
    mean *= a
    mean += (1 - a) * g
    square *= b
    square += (1 - b) * (g * g)
    below = np.sqrt(square)
    below /= (1 - b**count) ** 0.5
    below += eps
    step = mean / below
    step *= lr / (1 - a**count)
    w -= step


def elastic(own: Array, center: Array, rate: float) -> None:
    """own -= rate (own - center), center += the same (EASGD: Zhang, Choromanska, LeCun 2015)."""
    pull = own - center
    pull *= rate
    own -= pull
    center += pull
