"""A fitted net as plain values and arrays.  Code is left out: its name is kept, and the caller brings it when loading.

A module that is made of torch's own layers alone is written as their list and comes back by itself.  Loading never
imports what a folder names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from tutti._spec import Spec
from tutti.errors import ModelError, ParameterError
from tutti.estimators._nested import Nested
from tutti.learners.module.fields import Field
from tutti.learners.module.layers import Layers, Torch
from tutti.types import Array

_STATE, _MODULE = "state/", "module/"
_OF_THE_RUN = ("checkpoint", "resume", "log")
"""Where a training writes: not a matter of the model, and not for a folder from elsewhere to say."""
_EVERY = {"clock": (np.int64, (5,)), "meter": (np.float64, (6,)), "objective": (np.float64, (1,))}


@dataclass(frozen=True)
class LeftOut:
    """Stands for code, such as a function or a class of one's own, that a model folder does not bring."""

    name: str

    def __repr__(self) -> str:
        return f"<{self.name}, which is code and not in the model folder>"


class Stored(Nested):
    """What a net needs for `tutti.estimators.store`."""

    _task: ClassVar[str]
    module: Any
    param_groups: Mapping[str, Mapping[str, Any]] | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted net as a folder (model.json and safetensors, no pickle); `tutti.load` reads it.

        Weights, optimizer and counters are in it, so that a loaded net goes on like this one; code is not.  A tutti
        model at ``path`` is replaced as a whole; anything else there is left alone with an InputError.
        """
        from tutti.estimators.store import save

        save(self, path)

    def _check_code(self) -> None:
        """Refuse to train with what a model folder did not bring."""
        for name, value in self.get_params(deep=False).items():
            if isinstance(value, LeftOut):
                raise ParameterError(name, value, f"bring it: set_params({name}=...)")

    def _to_store(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and the plain facts that make up the fitted net."""
        from tutti.estimators.store import fitted_facts
        from tutti.learners.module import _layers

        arrays = {_MODULE + name: array for name, array in _layers.state_of(self.module_).items()}
        arrays |= {_STATE + name: array for name, array in self._state.items() if name != "weights"}
        layers = _layers.describe(self.module_)
        facts = {
            **fitted_facts(self),
            "history": self.history_,
            "layers": None if layers is None else Layers(layers, self._state["weights"].dtype.name),
            "fields": [asdict(field) for field in self._fields],
            "moving": list(self._moving),
        }
        return arrays, facts

    def _params_to_store(self) -> dict[str, Any]:
        """Return the parameters but for those of the run, with a name in the place of code."""
        own = self.get_params(deep=False)
        return {name: _without_code(value) for name, value in own.items() if name not in _OF_THE_RUN}

    @classmethod
    def _params_from_store(cls, params: Mapping[str, Any], facts: Mapping[str, Any], module: Any) -> dict[str, Any]:
        """Return the parameters of a loaded net; ``module`` is what the caller brings, or None."""
        from tutti.learners.module import _layers

        found = {}
        for name, value in params.items():
            if name in _OF_THE_RUN:
                raise ModelError(f"{name!r} is a matter of the run and not of a model")
            found[name] = _layers.class_of(value.name) if isinstance(value, Torch) else value
        if isinstance(found.get("loss"), Layers):
            found["loss"] = found["loss"]()
        made_by_call = module is not None and (isinstance(module, type) or not hasattr(module, "named_parameters"))
        if module is None:
            module = facts["layers"]
            if not isinstance(module, Layers):
                own = getattr(found["module"], "name", "unknown")
                raise ModelError(
                    f"its module is code ({own}), which a folder does not bring; write tutti.load(path, module=...), "
                    "on the command line --module, with the module, its class or the function that makes it"
                )
        kept = {k: v for k, v in found.items() if made_by_call or not k.startswith("module__")}
        return {**kept, "module": module}

    def _from_store(self, arrays: dict[str, Array], facts: Mapping[str, Any]) -> None:
        """Set the fitted attributes from what `_to_store` returned; ModelError if they do not fit together."""
        from tutti.estimators.store import restored_classes, restored_report
        from tutti.learners.module import _build, _layers

        classes = facts["classes"]
        if (classes is None) != (self._task == "regression"):
            raise ModelError(f"{type(self).__name__} and the classes of the model do not fit together")
        state, weights = _part(arrays, _STATE), _part(arrays, _MODULE)
        for name, (dtype, shape) in _EVERY.items():
            if name not in state or state[name].dtype != dtype or state[name].shape != shape:
                raise ModelError(f"the array {_STATE + name!r} is missing or of another shape")
        if isinstance(self.module, Layers) and not _layers.shapes_fit(self.module.layers, self.module.dtype, weights):
            raise ModelError("the arrays do not fit the layers that model.json describes")
        try:
            module = _build.build_module(self.module, self._options("module"), 0)
        except TypeError as error:
            raise ModelError(f"the module cannot be made with {self._options('module')}: {error}") from error
        groups = tuple((pattern, dict(options)) for pattern, options in (self.param_groups or {}).items())
        self._moving = tuple(map(str, facts["moving"]))
        self.module_, state["weights"] = _layers.fill(module, weights, groups, self._moving, state["stats"])
        self._state = state
        self._fields = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in facts["fields"])
        self.n_features_in_, self.n_iter_ = int(facts["n_features"]), int(facts["n_iter"])
        self._names_from_store(facts["feature_names"], self.n_features_in_)
        if classes is not None:
            self.classes_ = restored_classes(classes)
        self.history_ = list(facts["history"])
        self.report_ = restored_report(facts["report"])


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _without_code(value: Any) -> Any:
    from tutti.learners.module import _layers

    if isinstance(value, list | tuple):
        return [_without_code(v) for v in value]
    if isinstance(value, Spec | Layers) or not callable(value):
        return value
    name = _layers.named(value)
    if name is not None:
        return Torch(name)
    layers = _layers.describe(value)
    if layers is not None:
        return Layers(layers)
    own = value if hasattr(value, "__qualname__") else type(value)
    return LeftOut(f"{own.__module__}:{own.__qualname__}")
