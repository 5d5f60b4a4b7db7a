"""`tutti replay`: repeat a recorded run from the job file that lies beside the order of its updates."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutti.cli import commands
from tutti.cli._files import replacing
from tutti.cli.job import Choice, Job, public, read_job
from tutti.cli.record import to_json
from tutti.errors import JobError
from tutti.estimators._base import ConvergenceWarning
from tutti.strategies._record import JOB, PLACE, check_free, write_json, write_private

_AGAIN = ("log", "checkpoint", "resume")
"""Options of a model that write or read files besides; a replay does neither."""


def keep_job(job: Job) -> None:
    """Leave the job file where its run is recorded."""
    record = getattr(job.strategy.make(), "record", None)
    if record is None:
        return
    folder = Path(record)
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(folder / JOB, job.file.read_bytes())
    write_json(folder / PLACE, {"folder": str(job.file.parent)})


def replay(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Repeat a recorded run; 1 if another model came out."""
    folder = Path(args.run)
    job = _job(folder, args.to)
    data, _ = job.datasets()
    model = commands.estimator(job, data, args.quiet or args.json)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the repeated run gave the model.*")  # said below
        if args.to is not None:
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
        model.fit(data)
    if args.save is not None:
        _save(model, Path(args.save))
    sha256, recorded = model.report_.sha256, job.strategy.make().recorded_sha256
    same = None if args.to is not None else sha256 == recorded
    shown = _parameters(model)
    if args.json:
        found = {"run": str(folder), "to": args.to, "sha256": sha256, "recorded_sha256": recorded, "same": same}
        print(to_json({**found, "parameters": shown, "saved": args.save}))
    else:
        print(*_lines(args, sha256, same, shown), sep="\n")
    if same is False:
        print(
            f"tutti: the repeated run gave another model than the recorded one, {recorded}; other versions of the "
            "libraries or another processor compute other bits",
            file=sys.stderr,
        )
        return 1
    return 0


def _job(folder: Path, to: int | None) -> Job:
    """Return the job whose run is in the folder, to be repeated."""
    strategy = public("Replay")(str(folder), to)
    strategy.check()
    try:
        home = Path(json.loads((folder / PLACE).read_bytes())["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        raise JobError(
            f"{folder} has no {JOB} and {PLACE}: the run was not started by tutti train; in Python, fit the same "
            f"estimator on the same data with strategy=tutti.Replay({str(folder)!r})"
        ) from None
    job = read_job(folder / JOB, home)
    options = {name: value for name, value in job.model.options.items() if name not in _AGAIN}
    made = job.model.arguments
    made = None if made is None else {name: value for name, value in made.items() if name not in _AGAIN}
    return dataclasses.replace(
        job,
        model=Choice(job.model.type, options, made),
        strategy=Choice("Replay", strategy.get_params()),
        engine=Choice("Processes" if options.get("compile") else "Threads", {"n": 1}),
        model_path=None,
        reports=(),
    )


def _parameters(model: Any) -> list[dict[str, Any]]:
    found = []
    for name, parameter in _weights(model).items():
        gradient = model.gradients_.get(name)
        norms = {"norm": _norm(parameter)}
        if gradient is not None:
            norms["gradient_norm"] = _norm(gradient)
        found.append({"name": name, "shape": list(parameter.shape), **norms})
    return found


def _weights(model: Any) -> dict[str, Any]:
    """Return the parameters of a net, or the weights of a linear model, by name."""
    if hasattr(model, "module_"):
        return {name: parameter.detach().numpy() for name, parameter in model.module_.named_parameters()}
    return {name: np.asarray(getattr(model, f"{name}_")) for name in ("coef", "intercept")}


def _norm(array: Any) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def _lines(args: argparse.Namespace, sha256: str, same: bool | None, shown: Sequence[Mapping[str, Any]]) -> list[str]:
    if same is not None:
        return [f"model    {sha256}", f"         {'that' if same else 'NOT that'} of the recorded run"]
    width = max((len(each["name"]) for each in shown), default=0)
    lines = [f"after all updates of step {args.to}; gradient: of the last one", f"model    {sha256}"]
    for each in shown:
        gradient = f"{each['gradient_norm']:.6g}" if "gradient_norm" in each else "none"
        shape = "x".join(map(str, each["shape"])) or "1"
        lines.append(f"  {each['name']:<{width}}  {shape:>14}  |weight| {each['norm']:<12.6g} |gradient| {gradient}")
    return lines


def _save(model: Any, folder: Path) -> None:
    """Write the module's arrays or the weights, and what the last update moved along, as safetensors."""
    from safetensors.numpy import save

    arrays = _weights(model)
    if hasattr(model, "module_"):
        arrays = {name: t.numpy() for name, t in model.module_.state_dict().items()}
    arrays = {name: np.require(array, requirements="C") for name, array in arrays.items()}
    for name, found in (("weights", arrays), ("gradient", model.gradients_)):
        with replacing(folder / f"{name}.safetensors") as draft:
            draft.write_bytes(save(dict(found)))
