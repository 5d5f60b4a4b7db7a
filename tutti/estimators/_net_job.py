"""From a net's parameters and its rows to a job: everything is checked and tried out here, before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutti.errors import ParameterError
from tutti.estimators._classifier import check_classes
from tutti.estimators._linear import require_real, require_whole
from tutti.estimators._log import EpochLog
from tutti.estimators._net_code import written
from tutti.estimators._net_plan import identity_of, reason, strategy_of, where_of, workers_of
from tutti.learners.module.fields import Field
from tutti.learners.module.learner import ModuleLearner
from tutti.planner import Choice, Explanation, explain
from tutti.runtime.checkpoint import Checkpoint, fingerprint
from tutti.runtime.driver import draft_plan
from tutti.seeds import run_seed
from tutti.types import Schema

if TYPE_CHECKING:
    from tutti.estimators.neural import NeuralNet

_WHERE = ("engine", "strategy", "device")
_MAY_CHANGE = ("epochs", "patience", "resume", "warm_start", "log", "verbose", "random_state", *_WHERE)


@dataclass(frozen=True)
class Job:
    """What a fit will do, and all that its workers need."""

    dataset: Any
    schema: Schema
    label_dtype: Any
    choice: Choice
    explanation: Explanation
    learner: ModuleLearner
    blueprint: Any
    fields: tuple[Field, ...]


def job_of(net: NeuralNet, X: Any, y: Any, sample_weight: Any, epochs: int, done: int = 0) -> Job:
    """Return the job of a fit; nothing is started.

    Parameters
    ----------
    epochs : at the end of the fit, of which ``done`` are behind the net.
    """
    from tutti.learners.module import _build

    _check_params(net)
    where = where_of(net.device, net.engine, net.precision, net.compile)
    given = net._intake(X, y, sample_weight)
    dataset = given.dataset
    schema = dataset.schema(net._task)
    if schema.classes is not None:
        check_classes(schema, type(net).__name__)
    seed = run_seed(net.random_state)
    n_rows, n_shards = schema.n_rows, int(net.n_shards)
    blueprint = _blueprint(net, schema, where.device, seed, epochs * -(-n_rows // int(net.batch_size)))
    fields = given.tensors(schema.n_features)
    first = next(s for s, n in enumerate(dataset.shard_rows(n_shards, schema)) if n)
    block = dataset.open(first, n_shards, schema).block(0)
    batch = _build.batch_of(block, 4, fields, given.target, blueprint.module)
    tried = _build.try_out(blueprint, batch, net._n_outputs(schema), seed)
    engine = where.engine(net.engine, schema, (epochs - done) * n_rows * tried.flops)
    n_shards = n_shards if net.exact else workers_of(engine, n_shards)
    learner = ModuleLearner(
        code=written(net, blueprint, engine, schema, where.device, seed, epochs),
        shard_rows=dataset.shard_rows(n_shards, schema),
        n_weights=tried.n_weights,
        layout=tried.layout,
        fields=fields,
        target=given.target,
        epochs=epochs,
        **_settings(net),
    )
    if blueprint.moving and learner.deal.fewest() < 2:
        raise ParameterError(
            "batch_size",
            net.batch_size,
            f"batch-norm needs two rows of a shard in a batch, and {n_shards} shards leave some with one; raise "
            "batch_size or lower n_shards",
        )
    why = reason(net.exact, n_shards, workers_of(engine, n_shards), int(net.batch_size), net.strategy)
    choice = Choice(learner, strategy_of(net.strategy), engine, why)
    plan = where.seated(draft_plan(dataset, schema, learner, choice.strategy, engine, n_shards))
    kept = dataset.keeps(schema)
    goal = f"{tried.n_weights:,} weights, {learner.n_steps:,} steps"
    explanation = explain(choice, plan, schema, kept=kept, read=kept != "memory", goal=goal)
    return Job(dataset, schema, given.label_dtype, choice, explanation, learner, blueprint, fields)


def fingerprint_of(net: NeuralNet, job: Job, seed: int) -> str:
    """Return the hash of what decides the bits, as far as it is plain; how long to train may change."""
    own = net.get_params(deep=False)
    plain = {k: v for k, v in own.items() if k not in _MAY_CHANGE and isinstance(v, str | int | float | None)}
    data = job.schema.n_rows, job.schema.n_features, *identity_of(job.choice.strategy)
    compress = getattr(job.choice.strategy, "compress", None)
    plain |= {"compress": compress} if compress else {}
    return fingerprint({**job.learner.identity(), "settings": plain, "seed": seed, "data": data})


def _check_params(net: NeuralNet) -> None:
    net._check_code()
    EpochLog(net.log)  # refuses a place that it cannot write to
    require_real("lr", net.lr, 0.0, inclusive=False, wanted="a learning rate such as 1e-3")
    for name in ("batch_size", "epochs", "accumulate", "n_shards"):
        require_whole(name, getattr(net, name), 1, "a whole number of at least 1")
    require_whole("warmup_steps", net.warmup_steps, 0, "a whole number of at least 0")
    require_real("validation", net.validation, 0.0, inclusive=True, wanted="a share of the rows below 1")
    if net.validation >= 1:
        raise ParameterError("validation", net.validation, "write a share of the rows below 1, such as 0.1")
    for name in ("clip_norm", "clip_value"):
        if getattr(net, name) is not None:
            require_real(name, getattr(net, name), 0.0, inclusive=False, wanted="None or a limit")
    if net.clip_norm is not None and net.clip_value is not None:
        raise ParameterError("clip_value", net.clip_value, "set clip_norm or clip_value, not both")
    if net.checkpoint is not None and not isinstance(net.checkpoint, Checkpoint):
        raise ParameterError("checkpoint", net.checkpoint, 'write tutti.Checkpoint("folder", every_steps=100)')
    if net.resume and net.checkpoint is None:
        raise ParameterError("resume", True, "name the folder: checkpoint=tutti.Checkpoint(...)")
    if net.patience is not None:
        require_whole("patience", net.patience, 1, "None or a number of epochs")
        if not net.validation:
            raise ParameterError("patience", net.patience, "early stopping needs validation rows: validation=0.1")
    if net.monitor not in ("loss", "accuracy"):
        raise ParameterError("monitor", net.monitor, "write 'loss' or 'accuracy'")


def _blueprint(net: NeuralNet, schema: Schema, device: str, seed: int, n_steps: int) -> Any:
    from tutti.learners.module import _build
    from tutti.learners.module._blueprint import Blueprint

    module = _build.build_module(net.module, net._options("module"), seed)
    optimizer, elementwise = _build.build_optimizer(
        net.optimizer, float(net.lr), net.weight_decay, net._options("optimizer"), device
    )
    return Blueprint(
        module=module,
        loss=net._build_loss(schema),
        optimizer=optimizer,
        elementwise=elementwise,
        groups=tuple((p, dict(o)) for p, o in (net.param_groups or {}).items()),
        schedule=_build.build_schedule(net.lr_schedule, net._options("lr_schedule"), int(net.warmup_steps), n_steps),
        augment=net.augment,
    )


def _settings(net: NeuralNet) -> Mapping[str, Any]:
    """Return the learner's parameters that are plain ones of the estimator's."""
    own = {name: getattr(net, name) for name in ("patience", "monitor", "precision")}
    whole = {name: int(getattr(net, name)) for name in ("batch_size", "accumulate")}
    flags = {"shuffle": bool(net.shuffle), "compiled": bool(net.compile), "exact": bool(net.exact)}
    return {**own, **whole, **flags, "validation": float(net.validation), "clip": _clip(net)}


def _clip(net: NeuralNet) -> tuple[str, float] | None:
    if net.clip_norm is not None:
        return "norm", float(net.clip_norm)
    return None if net.clip_value is None else ("value", float(net.clip_value))
