"""Parameters that are passed on: ``module__hidden=64`` reaches the module when it is built."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from tutti.errors import ParameterError
from tutti.estimators._base import Estimator


class Nested(Estimator):
    """An estimator whose constructor takes ``<owner>__<name>`` for each of its ``_owners``."""

    _owners: ClassVar[tuple[str, ...]]
    _nested: dict[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, ``module__*`` and its like included."""
        return {**super().get_params(deep), **self._nested}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; ``module__hidden=64`` goes to the module when it is built."""
        nested = {k: v for k, v in params.items() if k.partition("__")[0] in self._owners and "__" in k}
        super().set_params(**{k: v for k, v in params.items() if k not in nested})
        self._set_nested(nested)
        return self

    def _set_nested(self, nested: Mapping[str, Any]) -> None:
        for name, value in nested.items():
            owner, _, inner = name.partition("__")
            if owner not in self._owners or not inner:
                near = difflib.get_close_matches(name, self._defaults(), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ParameterError(name, value, f"{type(self).__name__} has no such parameter{hint}")
        self.__dict__.setdefault("_nested", {}).update(nested)

    def _options(self, owner: str) -> dict[str, Any]:
        return {k.partition("__")[2]: v for k, v in self._nested.items() if k.partition("__")[0] == owner}
