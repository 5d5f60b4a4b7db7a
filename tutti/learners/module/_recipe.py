"""From a `Recipe` to a `Blueprint`, in the process of a rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tutti._spec import resolve
from tutti.learners.module import _build
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module.layers import Layers
from tutti.learners.module.recipe import Named, Recipe


def make(recipe: Recipe) -> Blueprint:
    """Return the blueprint that the recipe describes, with the weights of its caller."""
    own, options = recipe.settings, recipe.options
    module = _build.build_module(_found(recipe.module), options["module"], own["seed"])
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in recipe.weights.items()})
    optimizer, elementwise = _build.build_optimizer(
        _found(recipe.optimizer), own["lr"], own["weight_decay"], options["optimizer"], own["device"]
    )
    loss = _found(recipe.loss)
    loss = loss() if isinstance(loss, Layers) else loss
    return Blueprint(
        module=module,
        loss=_build.build_custom(loss)
        if own["custom"]
        else _build.build_loss(loss, options["loss"], own["class_factors"]),
        optimizer=optimizer,
        elementwise=elementwise,
        schedule=_build.build_schedule(
            _found(recipe.schedule), options["lr_schedule"], own["warmup_steps"], own["n_steps"]
        ),
        augment=_found(recipe.augment),
        **recipe.facts,
    )


def _found(value: Any) -> Any:
    return resolve(value.path) if isinstance(value, Named) else value
