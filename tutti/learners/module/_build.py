"""From what a user writes (a class, a name, a factory) to a `Blueprint`, tried out on a few rows before a start."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import hashlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tutti.errors import InputError, ParameterError
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module._device import as_it_was, load_compiler, unrepeatable
from tutti.learners.module._losses import NAMED, Custom, Supervised
from tutti.learners.module._net import Net, real_of, tensors_of, untrained
from tutti.learners.module.fields import Field, dense_rows
from tutti.types import Array, Block, Csr

OPTIMIZERS = {
    name.lower(): name
    for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Rprop", "ASGD")
}
"""Optimizers of torch that treat every number by itself, and so run on one flat array."""
_FUSED = {True: ("SGD", "Adam", "AdamW", "Adagrad"), False: ("SGD", "Adam", "AdamW")}
"""Optimizers with one kernel for a whole step: on the CPU, and elsewhere."""
_SCHEDULES = ("cosine", "linear")


def build_module(module: Any, options: Mapping[str, Any], seed: int) -> nn.Module:
    """Return a module of one's own: a copy of an instance, or what a class or factory makes from ``seed``."""
    if isinstance(module, nn.Module):
        if options:
            raise ParameterError(
                f"module__{next(iter(options))}", "a value", "give the class instead of an instance, or drop module__*"
            )
        return copy.deepcopy(module)
    if not callable(module):
        raise ParameterError("module", module, "write a torch.nn.Module, its class, or a function that returns one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = module(**options)
    if not isinstance(built, nn.Module):
        raise ParameterError("module", module, f"it returned a {type(built).__name__}, expected a torch.nn.Module")
    return built


def build_loss(loss: Any, options: Mapping[str, Any], class_weight: Any) -> Supervised:
    """Return the loss as sums over rows."""
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ParameterError("loss", loss, _one_of(loss, NAMED))
        return Supervised(NAMED[loss](**options), class_weight)
    if isinstance(loss, type):
        loss = loss(**options)
    if not callable(loss):
        raise ParameterError("loss", loss, f"write one of {', '.join(NAMED)}, a torch loss, or a function")
    return Supervised(loss, class_weight)


def build_custom(loss: Any) -> Custom:
    """Return a user's function of (module, batch) as sums over rows."""
    if not callable(loss):
        raise ParameterError("loss", loss, "write a function of (module, batch)")
    return Custom(loss)


def build_optimizer(
    optimizer: Any, lr: float, weight_decay: float | None, options: Mapping[str, Any], device: str = "cpu"
) -> tuple[Callable[[Any], Any], bool]:
    """Return (a function from parameter groups to an optimizer, whether it treats every number by itself)."""
    if isinstance(optimizer, str):
        if optimizer.lower() not in OPTIMIZERS:
            raise ParameterError("optimizer", optimizer, _one_of(optimizer.lower(), OPTIMIZERS))
        optimizer = getattr(torch.optim, OPTIMIZERS[optimizer.lower()])
    if not callable(optimizer):
        raise ParameterError("optimizer", optimizer, f"write one of {', '.join(OPTIMIZERS)}, a class or a function")
    name = getattr(optimizer, "__name__", "")
    elementwise = getattr(torch.optim, OPTIMIZERS.get(name.lower(), "-"), None) is optimizer
    if not elementwise:
        load_compiler()
    settings: dict[str, Any] = {"lr": lr, **options}
    if weight_decay is not None:
        settings["weight_decay"] = weight_decay
    if not inspect.isclass(optimizer):
        settings = dict(options)  # a function brings its own learning rate
    elif elementwise and name in _FUSED[device == "cpu"] and "fused" in inspect.signature(optimizer).parameters:
        settings.setdefault("fused", True)
    try:
        _made(optimizer, elementwise, settings, [nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ParameterError("optimizer", name or optimizer, f"{error}") from None
    return functools.partial(_made, optimizer, elementwise, settings), elementwise


def _made(optimizer: Any, elementwise: bool, settings: Mapping[str, Any], groups: Any) -> Any:
    return (_alone(optimizer) if elementwise else optimizer)(groups, **settings)


@functools.cache
def _alone(kind: Any) -> Any:
    """Return one of torch's optimizers without its calls to torch's compiler, whose import takes over a second."""
    plain = inspect.unwrap(kind.step)

    def step(self: Any, closure: Any = None) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, closure)

    own = {"step": step, "add_param_group": inspect.unwrap(kind.add_param_group)}
    step.__dict__["hooked"] = True  # torch adds no profiler's mark and no hooks to a step that says so
    return type(kind.__name__, (kind,), own)


def build_schedule(
    schedule: Any, options: Mapping[str, Any], warmup_steps: int, n_steps: int
) -> Callable[[Any], Any] | None:
    """Return a function from an optimizer to a scheduler that is stepped once a global step, or None."""
    if schedule is None and not warmup_steps:
        return None
    if isinstance(schedule, str) and schedule not in _SCHEDULES:
        raise ParameterError("lr_schedule", schedule, _one_of(schedule, _SCHEDULES))
    if schedule is not None and not isinstance(schedule, str) and not callable(schedule):
        raise ParameterError("lr_schedule", schedule, "write 'cosine', 'linear', a torch scheduler class or a function")
    return functools.partial(_scheduled, schedule, dict(options), warmup_steps, n_steps)


def _scheduled(schedule: Any, options: Mapping[str, Any], warmup: int, n_steps: int, optimizer: Any) -> Any:
    rates = torch.optim.lr_scheduler
    rest = max(n_steps - warmup, 1)
    main: Any
    if schedule is None:
        main = rates.ConstantLR(optimizer, factor=1.0)
    elif schedule == "cosine":
        main = rates.CosineAnnealingLR(optimizer, **{"T_max": rest, **options})
    elif schedule == "linear":
        main = rates.LinearLR(optimizer, **{"start_factor": 1.0, "end_factor": 0.0, "total_iters": rest, **options})
    else:
        main = schedule(optimizer, **options)
    if not warmup:
        return main
    ramp = rates.LinearLR(optimizer, start_factor=1.0 / (warmup + 1), total_iters=warmup)
    return rates.SequentialLR(optimizer, [ramp, main], milestones=[warmup])


@dataclass(frozen=True)
class Tried:
    """What a few rows told of a net.

    Parameters
    ----------
    n_weights : trainable numbers.   layout : hash of the names and shapes of the parameters.
    flops : of a row, forward and back.
    """

    n_weights: int
    layout: str
    flops: float


def try_out(blueprint: Blueprint, batch: dict[str, torch.Tensor], n_classes: int | None, seed: int = 0) -> Tried:
    """Run a few rows through a copy of the net; note what moves in it.

    Raises
    ------
    InputError : the forward pass, the loss or the way back fails on these rows, or the output cannot be right.
    """
    rows = {k: v[:4] for k, v in batch.items()}
    first = next(iter(rows))
    try:
        with torch_as_it_was():
            _settle(blueprint, rows, seed)
            with unrepeatable() as found:
                products = _try(blueprint, rows, n_classes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the module failed on {len(rows[first])} rows of shape {tuple(rows[first].shape[1:])} "
            f"({rows[first].dtype}): {type(error).__name__}: {error}"
        ) from error
    if found:
        blueprint.unrepeatable = tuple(found)
        warnings.warn(
            f"torch has no form of {', '.join(found)} that gives the same bits each time: they are not promised here",
            RuntimeWarning,
            stacklevel=5,
        )
    named = [(n, tuple(p.shape)) for n, p in blueprint.module.named_parameters() if p.requires_grad]
    layout = hashlib.sha256(repr(named).encode()).hexdigest()
    n_weights = sum(math.prod(shape) for _, shape in named)
    return Tried(n_weights, layout, 6.0 * (products / len(rows[first]) or n_weights))


def _settle(blueprint: Blueprint, rows: dict[str, torch.Tensor], seed: int) -> None:
    """Give lazy layers their shapes and, from the seed of the run, their weights."""
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in blueprint.module.parameters()):
        torch.manual_seed(seed)
        blueprint.module.train(False)  # so that no running statistics move
        with torch.no_grad():
            blueprint.loss(blueprint.module, rows)
        blueprint.module.train()


def _try(blueprint: Blueprint, rows: dict[str, torch.Tensor], n_classes: int | None) -> float:
    """Run the rows forward and back through a copy; note which buffers move, and whether random numbers are drawn.

    Returns the products of the forward pass in layers that torch calls as modules.
    """
    first = next(iter(rows))
    copied: Any = copy.deepcopy(blueprint.module).train()
    products: list[float] = []
    for layer in copied.modules():
        layer.register_forward_hook(lambda own, _, output: products.append(_products(own, output)))
    before = {name: buffer.clone() for name, buffer in untrained(copied).items()}
    state, n_rows, tried = torch.random.get_rng_state(), len(rows[first]), dict(rows)
    if blueprint.augment is not None:
        tried[first] = blueprint.augment(rows[first], torch.Generator().manual_seed(0))
    try:
        total, _, output = blueprint.loss(copied, tried)
    except (IndexError, RuntimeError, ValueError):
        if n_classes is not None:
            _check_output(copied(tried[first]), n_rows, n_classes)  # if that is what is wrong, say so
        raise
    _check_output(output, n_rows, n_classes)
    if total.ndim or not total.requires_grad:
        raise InputError("the loss must be one number that depends on the module's parameters")
    total.backward()
    blueprint.stochastic = not torch.equal(state, torch.random.get_rng_state())
    after = untrained(copied)
    blueprint.moving = tuple(name for name, old in before.items() if not torch.equal(after[name], old))
    return sum(products)


def _products(layer: nn.Module, output: Any) -> float:
    """Estimate the products of one call: each output of a dense layer or a convolution takes a row of its weight."""
    weight: Any = getattr(layer, "weight", None)
    known = (
        isinstance(weight, torch.Tensor) and weight.ndim > 1 and not isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    )
    return float(output.numel() * weight[0].numel()) if known and isinstance(output, torch.Tensor) else 0.0


def _check_output(output: Any, rows: int, n_classes: int | None) -> None:
    if isinstance(output, torch.Tensor) and (output.ndim == 0 or len(output) != rows):
        raise InputError(
            f"the module returned shape {tuple(output.shape)} for {rows} rows; the first size must be {rows}"
        )
    if n_classes is not None and isinstance(output, torch.Tensor) and (output.ndim < 2 or output.shape[1] != n_classes):
        raise InputError(
            f"the module returned shape {tuple(output.shape)} for {rows} rows and {n_classes} classes; expected "
            f"({rows}, {n_classes})"
        )


def batch_of(
    block: Block, rows: int, fields: Sequence[Field], target: bool, module: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the first rows of a block as the tensors that a loss gets."""
    y = np.array(block.y[:rows]) if target else None
    weight = None if block.weight is None else np.array(block.weight[:rows])
    return tensors_of(dense_rows(block.x, slice(rows)), fields, real_of(module), y, weight)


def outputs(module: nn.Module, x: Array | Csr, field: Field, rows: int = 4096, layer: str | None = None) -> Array:
    """Return the module's output, or that of a named layer inside it, in evaluation mode, ``rows`` rows at a time."""
    module.train(False)
    real = real_of(module)
    seen: list[Any] = []
    handle = None
    if layer is not None:
        inside = dict(module.named_modules())
        if layer not in inside:
            raise ParameterError("layer", layer, _one_of(layer, [n for n in inside if n]))
        handle = inside[layer].register_forward_hook(lambda m, i, out: seen.append(out))
    found = []
    try:
        for lo in range(0, max(x.shape[0], 1), rows):
            with torch.no_grad():
                out = module(tensors_of(dense_rows(x, slice(lo, lo + rows)), [field], real)[field.name])
            out = seen.pop() if layer is not None else out
            seen.clear()
            found.append(out[0] if isinstance(out, tuple) else out)
    finally:
        if handle is not None:
            handle.remove()
    joined: Array = torch.cat(found).numpy()
    return joined


def arrays_of(module: nn.Module) -> dict[str, Array]:
    """Return the state of a module as numpy arrays by name."""
    return {n: t.detach().numpy() for n, t in module.state_dict().items() if isinstance(t, torch.Tensor)}


def put_weights(blueprint: Blueprint, arrays: Mapping[str, Array]) -> nn.Module:
    """Return the blueprint's module with trained weights and buffers in it."""
    with torch_as_it_was():
        net = Net(blueprint)
    net.weights[:], net.stats[:] = arrays["weights"], arrays["stats"]
    net.place_stats()
    module: nn.Module = net.module
    module.train(False)
    return module


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Give torch's threads, generator and choice of operations back as they were found, whatever happens inside."""
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    try:
        with as_it_was():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)


def _one_of(came: str, known: Any) -> str:
    near = difflib.get_close_matches(str(came), list(known), n=1)
    return f"expected one of {', '.join(map(repr, known))}" + (f"; did you mean {near[0]!r}?" if near else "")
