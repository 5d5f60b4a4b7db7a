"""scikit-learn's grammar without scikit-learn: parameters stored untouched, cloneable, nestable, tagged.

scikit-learn takes seconds to import, so only methods that nobody but scikit-learn calls import it.  Where it is loaded
already, our exceptions and warnings are also its own, so that ``except NotFittedError`` works either way.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from tutti.errors import DataError, ModelError, ParameterError, TuttiError


class NotFittedError(TuttiError, ValueError, AttributeError):
    """A method that needs a fitted model was called before ``fit``."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_not_fitted, self.args


def _rebuild_not_fitted(*args: object) -> NotFittedError:
    error: NotFittedError = known_to_sklearn(NotFittedError)(*args)
    return error


class ConvergenceWarning(UserWarning):
    """The fit stopped before the certificate reached ``tol``."""


class DataConversionWarning(UserWarning):
    """The data was understood, but not in the form in which it came."""


_JOINED: dict[str, type[Any]] = {}


def known_to_sklearn(ours: type[Any]) -> type[Any]:
    """Return a class that is ``ours`` and, if scikit-learn is loaded, also its exception of the same name."""
    name = ours.__name__
    theirs = getattr(sys.modules.get("sklearn.exceptions"), name, None)
    if theirs is None:
        return ours
    if name not in _JOINED:
        _JOINED[name] = type(name, (ours, theirs), {"__module__": ours.__module__, "__doc__": ours.__doc__})
    return _JOINED[name]


def warn(message: str, category: type[Warning], stacklevel: int = 3) -> None:
    """Warn in scikit-learn's category of the same name where there is one."""
    warnings.warn(message, known_to_sklearn(category), stacklevel=stacklevel + 1)


class Estimator:
    """Parameters by name, a short ``repr``, scikit-learn's tags and its routing of ``sample_weight``."""

    _estimator_type: ClassVar[str]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        signature = inspect.signature(cls.__init__)
        named = (p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD)
        return {p.name: p.default for p in named if p.name != "self"}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; with ``deep`` also those of nested objects as ``name__inner``."""
        params: dict[str, Any] = {}
        for name in self._defaults():
            value = getattr(self, name)
            params[name] = value
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                params.update({f"{name}__{inner}": v for inner, v in value.get_params().items()})
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, ``strategy__compress=...`` inside a nested object; return self.

        Raises
        ------
        ParameterError : a name that the estimator, or the nested object, does not have.
        """
        known = self._defaults()
        nested: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, value in params.items():
            name, _, inner = key.partition("__")
            if name not in known:
                raise ParameterError(name, value, f"{type(self).__name__} has the parameters {', '.join(known)}")
            if inner:
                nested[name][inner] = value
            else:
                setattr(self, name, value)
        for name, inner_params in nested.items():
            target = getattr(self, name)
            if not hasattr(target, "set_params"):
                inner = next(iter(inner_params))
                raise ParameterError(
                    f"{name}__{inner}", inner_params[inner], f"{name}={target!r} has no parameters; set {name} first"
                )
            target.set_params(**inner_params)
        return self

    def _params_to_store(self) -> dict[str, Any]:
        return self.get_params(deep=False)

    @classmethod
    def _params_from_store(cls, params: Mapping[str, Any], facts: Mapping[str, Any], module: Any) -> dict[str, Any]:
        if module is not None:
            raise ParameterError("module", module, f"a {cls.__name__} has no module; leave it out")
        return dict(params)

    def __repr__(self) -> str:
        shown = []
        for name, default in self._defaults().items():
            value = getattr(self, name)
            if not (value is default or (type(value) is type(default) and value == default)):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise known_to_sklearn(NotFittedError)(f"this {name} is not fitted yet: call fit first")

    def _set_names(self, names: Sequence[str] | None) -> None:
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _names_from_store(self, names: Sequence[str] | None, n_features: int) -> None:
        if names is not None and len(names) != n_features:
            raise ModelError(f"{len(names)} feature names for {n_features} features")
        self._set_names(names)

    def _check_names(self, names: tuple[str, ...] | None) -> None:
        fitted = getattr(self, "feature_names_in_", None)
        own = type(self).__name__
        if fitted is None and names is None:
            return
        if fitted is None:
            warn(f"X has feature names, but {own} was fitted without feature names", UserWarning, stacklevel=5)
            return
        if names is None:
            warn(
                f"X does not have valid feature names, but {own} was fitted with feature names",
                UserWarning,
                stacklevel=5,
            )
            return
        if list(fitted) != list(names):
            raise DataError(_name_mismatch(set(fitted), set(names)))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        classifier = self._estimator_type == "classifier"
        return Tags(
            estimator_type=self._estimator_type,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if classifier else None,
            regressor_tags=None if classifier else RegressorTags(),
            input_tags=InputTags(sparse=True),
        )

    def get_metadata_routing(self) -> Any:
        """Return scikit-learn's description of the metadata that ``fit`` and ``score`` consume."""
        from sklearn.utils.metadata_routing import MetadataRequest

        kept = getattr(self, "_metadata_request", None)
        if kept is not None:
            return kept
        request = MetadataRequest(owner=self)
        for method in (request.fit, request.score):
            method.add_request(param="sample_weight", alias=None)
        return request

    def set_fit_request(self, *, sample_weight: bool | str | None) -> Self:
        """Say whether a meta-estimator passes ``sample_weight`` to ``fit`` (scikit-learn's metadata routing)."""
        return self._request("fit", sample_weight)

    def set_score_request(self, *, sample_weight: bool | str | None) -> Self:
        """Say whether a meta-estimator passes ``sample_weight`` to ``score`` (scikit-learn's metadata routing)."""
        return self._request("score", sample_weight)

    def _request(self, method: str, alias: bool | str | None) -> Self:
        request = self.get_metadata_routing()
        getattr(request, method).add_request(param="sample_weight", alias=alias)
        self._metadata_request = request
        return self


def _name_mismatch(fitted: set[str], came: set[str]) -> str:
    message = "The feature names should match those that were passed during fit.\n"
    for title, names in (
        ("Feature names unseen at fit time:\n", sorted(came - fitted)),
        ("Feature names seen at fit time, yet now missing:\n", sorted(fitted - came)),
    ):
        if names:
            message += title + "".join(f"- {n}\n" for n in names[:5]) + ("- ...\n" if len(names) > 5 else "")
    if came == fitted:
        message += "Feature names must be in the same order as they were in fit.\n"
    return message
