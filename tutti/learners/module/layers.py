"""Nets made of torch's own layers, as plain values: what a job file and a model folder can hold without any code.

Only the names below are ever looked up in torch, so what a stranger wrote can build layers and do nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutti.errors import ParameterError

_DIMENSIONS = (
    "Conv", "ConvTranspose", "BatchNorm", "InstanceNorm", "MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool",
    "Dropout", "ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad",
)  # fmt: skip
LAYERS = (
    "Sequential", "Identity", "Flatten", "Unflatten", "Linear", "Bilinear", "Embedding", "EmbeddingBag",
    *(f"{kind}{d}d" for kind in _DIMENSIONS for d in (1, 2, 3)),
    "Dropout", "AlphaDropout", "LayerNorm", "GroupNorm", "RMSNorm", "LocalResponseNorm", "PixelShuffle", "Upsample",
    "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "GLU", "Tanh", "Sigmoid",
    "Hardtanh", "Hardswish", "Hardsigmoid", "Softplus", "Softsign", "Softmax", "LogSoftmax",
)  # fmt: skip
LOSSES = (
    "CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss", "MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss",
    "PoissonNLLLoss",
)  # fmt: skip
NAMES = {
    "nn": LAYERS + LOSSES,
    "optim": (
        "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Rprop", "ASGD",
    ),
    "optim.lr_scheduler": (
        "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LinearLR",
        "MultiStepLR", "OneCycleLR", "PolynomialLR", "StepLR",
    ),
}  # fmt: skip
"""Classes of torch that may be named, by the module they live in."""

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Layers:
    """A function that makes a module of torch's own layers.

    Parameters
    ----------
    layers : one layer, a mapping of "type" (see `LAYERS`) and the arguments of torch's class; or a list of layers, one
        after the other.  A "Sequential" has "layers"; a layer inside one may have a "name" other than its place.
    dtype : of the weights.

    Example
    -------
    >>> import torch
    >>> made = Layers([{"type": "Linear", "in_features": 4, "out_features": 2}, {"type": "ReLU"}])()
    >>> isinstance(made, torch.nn.Sequential), made[0].weight.shape
    (True, torch.Size([2, 4]))
    """

    layers: Any
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check(self.layers, "layers")
        if self.dtype not in DTYPES:
            raise ParameterError("dtype", self.dtype, f"write one of {', '.join(map(repr, DTYPES))}")

    def __call__(self) -> Any:
        """Return the module with new weights from torch's generator."""
        from tutti.learners.module._layers import build

        return build(self.layers, self.dtype)


@dataclass(frozen=True)
class Torch:
    """A class of torch by its name, such as "optim.SGD"."""

    name: str

    def __post_init__(self) -> None:
        home, _, own = self.name.rpartition(".")
        if own not in NAMES.get(home, ()):
            raise ParameterError("name", self.name, "it is none of torch's classes that a model may name")


def check(layer: Any, place: str) -> None:
    """Raise ParameterError unless every layer has a type that is known."""
    if isinstance(layer, list | tuple):
        if not layer:
            raise ParameterError(place, layer, "write at least one layer")
        for i, inner in enumerate(layer):
            check(inner, f"{place}[{i}]")
        return
    if not isinstance(layer, Mapping) or "type" not in layer:
        raise ParameterError(place, layer, 'write a table such as {type = "Linear", in_features = 8, out_features = 4}')
    kind = layer["type"]
    if kind not in LAYERS and kind not in LOSSES:
        near = difflib.get_close_matches(str(kind), LAYERS, n=1)
        raise ParameterError(
            f"{place}.type", kind, f"did you mean {near[0]!r}?" if near else f"there are {', '.join(LAYERS)}"
        )
    if kind == "Sequential":
        check(layer.get("layers", ()), f"{place}.layers")
