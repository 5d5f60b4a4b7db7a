"""How the code of a net reaches its workers: by memory on this host, as plain values to other ones."""

from __future__ import annotations

from typing import Any

from tutti.engines.hosts import Hosts
from tutti.types import Schema


def written(net: Any, blueprint: Any, engine: Any, schema: Schema, device: str, seed: int, epochs: int) -> Any:
    """Return what a `ModuleLearner` reads its blueprint from.

    Raises
    ------
    InputError : the engine is `tutti.Hosts` and a part of the net cannot be written down without code.
    """
    from tutti.learners.module._blueprint import write

    if not isinstance(engine, Hosts):
        return write(blueprint)
    from tutti.learners.module import _build
    from tutti.learners.module._losses import Custom
    from tutti.learners.module.recipe import Recipe, plain, plain_options

    custom = isinstance(blueprint.loss, Custom)
    loss = net.loss if custom else net._criterion()
    owners = ("module", "loss", "optimizer", "lr_schedule")
    return Recipe(
        module=plain(net.module, "module"),
        loss=plain(loss, "loss"),
        optimizer=plain(net.optimizer, "optimizer"),
        schedule=plain(net.lr_schedule, "lr_schedule"),
        augment=plain(net.augment, "augment"),
        options={owner: plain_options(net._options(owner), owner) for owner in owners},
        settings={
            "seed": seed,
            "lr": float(net.lr),
            "weight_decay": None if net.weight_decay is None else float(net.weight_decay),
            "device": device,
            "warmup_steps": int(net.warmup_steps),
            "n_steps": epochs * -(-schema.n_rows // int(net.batch_size)),
            "class_factors": None if custom else net._class_factors(schema),
            "custom": custom,
        },
        weights=_build.arrays_of(blueprint.module),
        facts={
            "groups": blueprint.groups,
            "moving": tuple(blueprint.moving),
            "stochastic": bool(blueprint.stochastic),
            "unrepeatable": tuple(blueprint.unrepeatable),
        },
    )
