"""What a search has found so far, line by line in a file, so that it goes on after an interruption where it was.

A line holds a fit's parameters for people, and a digest of all that its outcome depends on: the estimator, the
parameters, the rows of the fold, the data, the scoring.  A line that was cut off by a crash is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import joblib

from tutti.errors import InputError, ParameterError

_HEADER = {"journal of a search": 1}
_PARTS = ("parameters", "train", "test", "scorer", "fit_params", "score_params", "return_train_score")


class Journal:
    """Outcomes of fits by digest.

    Parameters
    ----------
    path : file that is read if it exists, and appended to.

    Raises
    ------
    InputError : the file is not a journal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._found: dict[str, dict[str, Any]] = {}
        self._data: tuple[Any, Any, str] | None = None
        self.n_found = 0
        end = self._read()
        self._file = open(self._path, "ab")  # noqa: SIM115  (closed by __exit__)
        self._file.truncate(end)
        if end == 0:
            self._append(_HEADER)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def key(self, fit: Any) -> str:
        """Return the digest of all that the outcome of a fit depends on.

        Raises
        ------
        ParameterError : something cannot be written down, such as a lambda as scoring.
        """
        estimator, x, y = fit.args[:3]
        try:
            if self._data is None or self._data[0] is not x or self._data[1] is not y:
                self._data = (x, y, joblib.hash((x, y)))
            parts = [fit.kwargs[part] for part in _PARTS]
            own = (type(estimator).__qualname__, estimator.get_params())
            digest: str = joblib.hash((*own, self._data[2], *parts))
        except Exception as error:
            raise ParameterError(
                "journal",
                self._path,
                f"the search cannot be told from others ({error}): let estimator, parameters and scoring be importable "
                "(no lambdas, no locks), or leave the journal out",
            ) from error
        return digest

    def find(self, key: str) -> dict[str, Any] | None:
        """Return what came of a fit earlier; None if it is not known or had failed."""
        found = self._found.get(key)
        self.n_found += found is not None
        return found

    def write(self, rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Append fits that were done together, (digest, arguments, outcome), in one write."""
        self._append(
            *(
                {
                    "key": key,
                    "parameters": {name: repr(value) for name, value in (arguments["parameters"] or {}).items()},
                    "fold": arguments["split_progress"][0],
                    "outcome": outcome,
                }
                for key, arguments, outcome in rows
            )
        )

    def _append(self, *lines: Mapping[str, Any]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file.flush()

    def _read(self) -> int:
        """Read all whole lines; return where they end."""
        if not os.path.exists(self._path):
            return 0
        with open(self._path, "rb") as file:
            text = file.read()
        end = text.rfind(b"\n") + 1
        if not text[:end]:
            if text:
                raise self._no_journal()
            return 0
        try:
            header, *lines = [json.loads(line) for line in text[:end].splitlines()]
            if header != _HEADER:
                raise self._no_journal()
            known = {line["key"]: line["outcome"] for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise self._no_journal() from error
        self._found = {key: outcome for key, outcome in known.items() if outcome["fit_error"] is None}
        return end

    def _no_journal(self) -> InputError:
        return InputError(f"{self._path!r} is not the journal of a search; name a file that does not exist yet")
