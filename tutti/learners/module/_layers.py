"""From plain descriptions to torch's layers and back, and a stored net put together again."""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tutti.errors import InputError, ModelError, ParameterError
from tutti.learners.module._blueprint import Blueprint
from tutti.learners.module._build import arrays_of, build_optimizer, torch_as_it_was
from tutti.learners.module._net import Net, real_of, untrained
from tutti.learners.module.layers import DTYPES, LAYERS, LOSSES, NAMES
from tutti.types import Array

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PLAIN = bool | int | float | str | None


def build(layers: Any, dtype: str) -> nn.Module:
    """Return the module that was described; `tutti.learners.module.layers.check` has seen the description."""
    return _made(layers, "layers").to(getattr(torch, dtype))


def _made(layer: Any, place: str) -> nn.Module:
    if isinstance(layer, Sequence):
        layer = {"type": "Sequential", "layers": layer}
    kind, options = layer["type"], {k: v for k, v in layer.items() if k not in ("type", "name")}
    known = ("layers",) if kind == "Sequential" else tuple(_arguments(getattr(nn, kind)))
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"{kind} has {', '.join(known) or 'no arguments'}"
            raise ParameterError(f"{place}.{name}", value, hint)
    if kind == "Sequential":
        inner = options["layers"]
        named = [(str(part.get("name", i)), _made(part, f"{place}[{i}]")) for i, part in enumerate(inner)]
        return nn.Sequential(OrderedDict(named))
    try:
        made: nn.Module = getattr(nn, kind)(**{k: _tupled(v) for k, v in options.items()})
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{place}: torch cannot make this {kind}: {error}") from None
    return made


def describe(module: Any) -> Any:
    """Return what `build` makes the same module from; None if it is anything more than torch's own layers.

    The weights, and what they were before, are no part of it.
    """
    if not isinstance(module, nn.Module) or any(not p.requires_grad for p in module.parameters()):
        return None
    if len(list(module.parameters())) != len(list(module.named_parameters(remove_duplicate=False))):
        return None  # layers that share weights
    found, dtype = _described(module), dtype_of(module)
    if found is None or dtype not in DTYPES:
        return None
    with torch_as_it_was(), torch.device("meta"):
        again = build(found, dtype)
    return found if _alike(module, again) else None


def dtype_of(module: nn.Module) -> str:
    """Return the name of the dtype of a module's weights."""
    return str(real_of(module)).removeprefix("torch.")


def _described(layer: nn.Module) -> dict[str, Any] | None:
    kind = type(layer).__name__
    if kind not in LAYERS + LOSSES or type(layer) is not getattr(nn, kind):
        return None
    if isinstance(layer, nn.Sequential):
        inner = []
        for i, (name, part) in enumerate(layer.named_children()):
            described = _described(part)
            if described is None:
                return None
            inner.append(described if name == str(i) else {**described, "name": name})
        return {"type": kind, "layers": inner} if inner else None
    found: dict[str, Any] = {"type": kind}
    for name, default in _arguments(type(layer)).items():
        value = getattr(layer, name, default)
        if name == "bias" and not isinstance(value, bool):
            value = value is not None
        if not _is_plain(value):
            return None
        if value != default:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _arguments(kind: type) -> dict[str, Any]:
    """Return the names and defaults of a layer's arguments but for where its weights lie."""
    named = inspect.signature(kind).parameters.values()
    return {
        p.name: p.default
        for p in named
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("device", "dtype") and not p.name.startswith("_")
    }


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two modules differ in their weights alone."""
    left, right = dict(a.named_modules()), dict(b.named_modules())
    if list(left) != list(right):
        return False
    for x, y in zip(left.values(), right.values(), strict=True):
        own, other = ({k: v for k, v in vars(m).items() if k[0] != "_" and k != "training"} for m in (x, y))
        if type(x) is not type(y) or own != other or any(getattr(x, hooks) for hooks in _HOOKS):
            return False
    return _shapes(a) == _shapes(b)


def named(value: Any) -> str | None:
    """Return the name under which `class_of` finds a class of torch, or None."""
    if isinstance(value, type):
        for home, names in NAMES.items():
            if value.__name__ in names and class_of(f"{home}.{value.__name__}") is value:
                return f"{home}.{value.__name__}"
    return None


def class_of(name: str) -> Any:
    """Return a class of torch by a name that `tutti.learners.module.layers.Torch` let pass."""
    found: Any = torch
    for part in name.split("."):
        found = getattr(found, part)
    return found


def fill(
    module: nn.Module,
    arrays: Mapping[str, Array],
    groups: Sequence[tuple[str, Mapping[str, Any]]],
    moving: Sequence[str],
    stats: Array,
) -> tuple[nn.Module, Array]:
    """Return the module with stored weights and buffers in it, as after the training, and its flat weights.

    Raises
    ------
    ModelError : the arrays are those of another module.
    """
    own = _shapes(module)
    for name in own.keys() | arrays.keys():
        if name not in arrays or name not in own:
            where, other = ("module", "folder") if name in own else ("folder", "module")
            raise ModelError(f"the {where} has {name!r}, the {other} has not: this is another module")
        if own[name] is not None and own[name] != _shape(arrays[name]):
            raise ModelError(f"{name!r} is {own[name]} in the module and {_shape(arrays[name])} in the folder")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    kept = untrained(module)
    missing = [name for name in moving if name not in kept]
    if missing:
        raise ModelError(f"the module has no buffer {missing[0]!r}: this is another module")
    with torch_as_it_was():
        idle, _ = build_optimizer("sgd", 1.0, None, {})  # without torch's compiler, which would change the environment
        named = tuple((pattern, dict(options)) for pattern, options in groups)
        net = Net(Blueprint(module, None, idle, groups=named, moving=tuple(moving)))
    if net.stats.shape != stats.shape:
        raise ModelError(f"'state/stats' has shape {stats.shape}, the module's buffers {net.stats.shape}")
    net.stats[:] = stats
    net.place_stats()
    module.train(False)
    return module, net.weights


def shapes_fit(layers: Any, dtype: str, arrays: Mapping[str, Array]) -> bool:
    """Tell whether described layers have arrays of these names and shapes, before memory is taken for them."""
    with torch_as_it_was(), torch.device("meta"):
        own = _shapes(build(layers, dtype))
    return own == {name: _shape(array) for name, array in arrays.items()}


def state_of(module: nn.Module) -> dict[str, Array]:
    """Return all that a module keeps by name.

    Raises
    ------
    InputError : it keeps something that is no tensor.
    """
    for name, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"the module keeps {name!r}, a {type(value).__name__}; a model folder holds arrays only")
    return arrays_of(module)


def _shapes(module: nn.Module) -> dict[str, str | None]:
    """Return dtype and shape of everything in the state by name; None where the first rows will tell."""
    lazy = nn.parameter.is_lazy
    return {n: None if lazy(t) else _shape(t) for n, t in module.state_dict(keep_vars=True).items()}


def _shape(array: Any) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))
