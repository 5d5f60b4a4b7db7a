"""A training as a run of MLflow, through the client, so that no run becomes active in the caller's program."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

from tutti.errors import InputError, ParameterError


class Tracked:
    """A new run: parameters at the start, metrics once an epoch by global step, finished or failed at the end.

    Where runs are kept is MLflow's own setting (``mlflow.set_tracking_uri`` or MLFLOW_TRACKING_URI).

    Parameters
    ----------
    experiment : its name, made if need be; None is MLflow's "Default".
    """

    def __init__(self, experiment: str | None) -> None:
        self._experiment = experiment
        self._client: Any = None
        self._run = ""
        if importlib.util.find_spec("mlflow") is None:
            raise ParameterError("log", repr(self), "MLflow is not installed: pip install mlflow-skinny")

    def __repr__(self) -> str:
        return "mlflow" if self._experiment is None else f"mlflow:{self._experiment}"

    def open(self, settings: Mapping[str, Any]) -> None:
        import mlflow
        from mlflow.entities import Param

        name = self._experiment or "Default"
        try:
            self._client = mlflow.MlflowClient()
            found = self._client.get_experiment_by_name(name)
            number = self._client.create_experiment(name) if found is None else found.experiment_id
            self._run = self._client.create_run(number).info.run_id
            params = [Param(key, value[:500]) for key, value in _plain(settings).items()]
            for lo in range(0, len(params), 100):  # what one call may hold
                self._client.log_batch(self._run, params=params[lo : lo + 100])
        except Exception as error:  # of MLflow or of whatever library its store is kept with
            raise InputError(
                f"MLflow cannot begin a run at {mlflow.get_tracking_uri()!r} ({type(error).__name__}: {error}); set "
                "the place with mlflow.set_tracking_uri, or leave 'mlflow' out of log"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._client.log_batch(self._run, metrics=[Metric(k, float(v), now, step) for k, v in values.items()])

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def _plain(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the plain values among the parameters as text, and classes and functions by their name."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, str | int | float | None):
            found[name] = str(value)
        elif hasattr(value, "__qualname__"):
            found[name] = value.__qualname__
    return found
