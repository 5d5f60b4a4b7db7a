"""A model as a folder that outlives the process: model.json for people, model.safetensors for the numbers, no pickle.

Written beside its place and moved there whole, so a reader sees the old model or the new one.  Loading trusts nothing:
classes come from a list, arrays are hashed, versions, shapes and types are checked before anything is built.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tutti._spec import resolve
from tutti.errors import InputError, ModelError, ParameterError
from tutti.runtime.files import sync_folder, write_durably
from tutti.runtime.report import Report
from tutti.types import Array, RankReport

FORMAT = "tutti-model"
FORMAT_VERSION = 1
HEADER, ARRAYS = "model.json", "model.safetensors"

_ESTIMATORS = {
    "LogisticRegression": "tutti.estimators.linear:LogisticRegression",
    "LinearRegression": "tutti.estimators.linear:LinearRegression",
    "Ridge": "tutti.estimators.linear:Ridge",
    "LinearSVC": "tutti.estimators.svm:LinearSVC",
    "SVC": "tutti.estimators.kernel_svm:SVC",
    "SVR": "tutti.estimators.kernel_svm:SVR",
    "RandomForestClassifier": "tutti.estimators.forest:RandomForestClassifier",
    "RandomForestRegressor": "tutti.estimators.forest:RandomForestRegressor",
    "GradientBoostingClassifier": "tutti.estimators.boosting:GradientBoostingClassifier",
    "GradientBoostingRegressor": "tutti.estimators.boosting:GradientBoostingRegressor",
    "NeuralNetClassifier": "tutti.estimators.neural:NeuralNetClassifier",
    "NeuralNetRegressor": "tutti.estimators.neural:NeuralNetRegressor",
    "TunedThresholdClassifier": "tutti.estimators._threshold:TunedThresholdClassifier",
}
_SPECS = {
    "AllReduce": "tutti.strategies.all_reduce:AllReduce",
    "CoCoA": "tutti.strategies.cocoa:CoCoA",
    "LocalSGD": "tutti.strategies.local_sgd:LocalSGD",
    "ParameterServer": "tutti.strategies.parameter_server:ParameterServer",
    "SGD": "tutti.strategies.server_optimizers:SGD",
    "Adagrad": "tutti.strategies.server_optimizers:Adagrad",
    "Adam": "tutti.strategies.server_optimizers:Adam",
    "Elastic": "tutti.strategies.server_optimizers:Elastic",
    "Replay": "tutti.strategies.replay:Replay",
    "TaskParallel": "tutti.strategies.task_parallel:TaskParallel",
    "Half": "tutti.transforms:Half",
    "Int8": "tutti.transforms:Int8",
    "TopK": "tutti.transforms:TopK",
    "PowerSGD": "tutti.transforms:PowerSGD",
    "Hosts": "tutti.engines.hosts:Hosts",
    "Threads": "tutti.engines.threads:Threads",
    "Processes": "tutti.engines.processes:Processes",
    "Layers": "tutti.learners.module.layers:Layers",
    "Torch": "tutti.learners.module.layers:Torch",
    "LeftOut": "tutti.estimators._net_store:LeftOut",
}
_WITH_LISTS = ("Layers", "Torch", "LeftOut")
"""Objects whose lists are lists; the parameters of all others are frozen, and hold tuples."""
_TAGS = ({"float"}, {"dict"}, {"object", "params"})
"""Keys of the JSON objects that stand for what JSON lacks: inf and nan, keys that are no text, tutti's own objects."""
_MISSING = object()


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator as the folder ``path``; a tutti model that is there already is replaced as a whole.

    Raises
    ------
    NotFittedError : before ``fit``.
    ParameterError : a parameter that plain JSON cannot hold, for example a live random generator.
    InputError : ``path`` exists and is not a tutti model.
    """
    from safetensors.numpy import save as to_bytes

    estimator._check_fitted()
    target = Path(path).resolve()
    _check_replaceable(target)
    arrays, facts = estimator._to_store()
    blob = to_bytes({k: np.array(v, order="C") for k, v in arrays.items()})
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tutti_version": _version(),
        "class": type(estimator).__name__,
        "params": {k: _plain(v, k) for k, v in estimator._params_to_store().items()},
        **{k: _plain(v, k) for k, v in facts.items()},
        "arrays": {"file": ARRAYS, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()},
    }
    text = json.dumps(header, indent=2, allow_nan=False).encode() + b"\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    beside.mkdir()
    try:
        write_durably(beside / ARRAYS, blob)
        write_durably(beside / HEADER, text)
        sync_folder(beside)
        _put_in_place(beside, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def load(path: str | os.PathLike[str], module: Any = None) -> Any:
    """Return the fitted estimator that ``save`` wrote into the folder ``path``.

    Only tutti's own classes and torch's own layers are built and no code is run or imported that a folder names, so one
    from a stranger can do no harm.

    Parameters
    ----------
    module : of a net: an instance, its class, or a function that makes it, as given to the estimator.  None: the folder
        describes the net itself, which it does where the net is made of torch's own layers in `torch.nn.Sequential`.

    Raises
    ------
    ModelError : a file is missing, damaged, truncated, of a newer format or inconsistent, or the module is another one;
        the message says which.
    """
    folder = Path(path)
    header = _read_header(folder)
    name = _take(header, "class", str)
    if name not in _ESTIMATORS:
        raise ModelError(f"{folder / HEADER}: class {name!r} is none of {', '.join(_ESTIMATORS)}")
    arrays = _read_arrays(folder, _take(header, "arrays", dict))
    try:
        return _build(resolve(_ESTIMATORS[name]), header, arrays, module)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    except ParameterError as error:
        if module is not None and error.name.startswith("module"):
            raise  # what the caller brought
        raise ModelError(f"{folder / HEADER}: not what save writes ({error})") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / HEADER}: not what save writes ({type(error).__name__}: {error})") from error


def _build(cls: Any, header: Mapping[str, Any], arrays: dict[str, Array], module: Any) -> Any:
    params = {k: _unplain(v) for k, v in _take(header, "params", dict).items()}
    facts = {k: _unplain(v) for k, v in header.items() if k not in ("params", "arrays")}
    unknown = sorted(k for k in params if k.partition("__")[0] not in cls._defaults())
    if unknown:
        raise ModelError(f"{cls.__name__} has no parameter {', '.join(map(repr, unknown))}")
    estimator = cls(**cls._params_from_store(params, facts, module))
    estimator._from_store(arrays, facts)
    return estimator


def fitted_facts(estimator: Any) -> dict[str, Any]:
    """Return what every fitted estimator writes down of itself, as plain values."""
    classes, names = getattr(estimator, "classes_", None), getattr(estimator, "feature_names_in_", None)
    if isinstance(classes, list):  # of several labels: the estimator writes them itself
        classes = None
    return {
        "n_features": estimator.n_features_in_,
        "feature_names": None if names is None else list(names),
        "classes": None if classes is None else plain_classes(classes),
        "n_iter": estimator.n_iter_,
        "report": plain_report(estimator.report_),
    }


def plain_report(report: Report) -> dict[str, Any]:
    """Return a report as plain values that name no machine."""
    plain = report.to_dict()
    ranks = [{k: r[k] for k in ("rank", "seconds", "sent_bytes", "rounds")} for r in plain.pop("ranks")]
    return {**plain, "ranks": ranks}


def restored_report(plain: Mapping[str, Any]) -> Report:
    """Turn what `plain_report` returned back into a report."""
    own = {k: v for k, v in plain.items() if k != "relative_gap"}
    ranks = tuple(RankReport(host="", pid=0, **r) for r in own.pop("ranks"))
    return Report(**own, ranks=ranks)


def plain_classes(classes: Array) -> dict[str, Any]:
    """Return class labels with their dtype as plain values."""
    if classes.dtype.kind not in "biufUO":
        raise InputError(f"labels of dtype {classes.dtype} cannot be saved; use strings or numbers")
    return {"dtype": classes.dtype.str, "values": classes.tolist()}


def restored_classes(plain: Mapping[str, Any]) -> Array:
    """Turn what `plain_classes` returned back into an array; ModelError if it cannot be that."""
    dtype, values = np.dtype(_take(plain, "dtype", str)), _take(plain, "values", list)
    if dtype.kind not in "biufUO" or not all(isinstance(v, bool | int | float | str) for v in values):
        raise ModelError("the classes are no strings or numbers")
    classes = np.empty(len(values), dtype=dtype)
    classes[:] = values
    return classes


def _version() -> str:
    package = sys.modules[__name__.partition(".")[0]]  # the top package is loaded: this module is part of it
    return str(package.__version__)


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray):  # signs or a mask of columns
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple | range):
        return [_plain(v, name) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value) and value.keys() not in _TAGS:
            return {k: _plain(v, name) for k, v in value.items()}
        return {"dict": [[_plain(k, name), _plain(v, name)] for k, v in value.items()]}
    kind = type(value).__name__
    if dataclasses.is_dataclass(value) and resolve_spec(kind) is type(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {"object": kind, "params": {k: _plain(v, f"{name}__{k}") for k, v in fields.items()}}
    raise ParameterError(
        name, value, "a model folder holds plain values and tutti's own objects; set_params to one of those, then save"
    )


def _unplain(value: Any) -> Any:
    if isinstance(value, list):
        return [_unplain(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"dict"}:
        return {_unplain(k): _unplain(v) for k, v in value["dict"]}
    if value.keys() == {"object", "params"}:
        cls = resolve_spec(value["object"])
        if cls is None:
            raise ModelError(f"{value['object']!r} is none of the objects a model may hold: {', '.join(_SPECS)}")
        params = {k: _unplain(v) for k, v in value["params"].items()}
        if value["object"] not in _WITH_LISTS:
            params = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}  # JSON has no tuples
        return cls(**params)
    return {k: _unplain(v) for k, v in value.items()}


def resolve_spec(name: Any) -> Any:
    """Return tutti's own strategy or engine class of that name, or None."""
    return resolve(_SPECS[name]) if isinstance(name, str) and name in _SPECS else None


def resolve_estimator(name: Any) -> Any:
    """Return tutti's own estimator class of that name, or None."""
    return resolve(_ESTIMATORS[name]) if isinstance(name, str) and name in _ESTIMATORS else None


def _take(header: Mapping[str, Any], key: str, kind: type) -> Any:
    value = header.get(key, _MISSING)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        came = "nothing" if value is _MISSING else f"{value!r}"
        raise ModelError(f"{HEADER}: expected {key!r} to be a {kind.__name__}, came {came}")
    return value


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / HEADER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder} is not a tutti model: it has no {HEADER}") from None
    except ValueError as error:
        raise ModelError(f"{folder / HEADER} is not valid JSON: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelError(f'{folder / HEADER} does not describe a tutti model (no "format": "{FORMAT}")')
    version = _take(header, "format_version", int)
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{folder}: written by tutti {header.get('tutti_version', '?')}, format {version}; "
            f"this library reads up to format {FORMAT_VERSION}: upgrade tutti"
        )
    return header


def _read_arrays(folder: Path, entry: Mapping[str, Any]) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    file = folder / ARRAYS
    try:
        blob = file.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{folder} is incomplete: {ARRAYS} is missing") from None
    expected = _take(entry, "bytes", int)
    if len(blob) != expected:
        verb = "truncated" if len(blob) < expected else "longer than it was written"
        raise ModelError(f"{file} is {verb}: {len(blob)} bytes, expected {expected}")
    if hashlib.sha256(blob).hexdigest() != _take(entry, "sha256", str):
        raise ModelError(f"{file} is damaged: its SHA-256 is not the one in {HEADER}")
    try:
        return {k: np.array(v) for k, v in from_bytes(blob).items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{file} is not a safetensors file: {error}") from None


def _check_replaceable(target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        header = json.loads((target / HEADER).read_bytes())
        fine = isinstance(header, dict) and header.get("format") == FORMAT
    except (OSError, ValueError):
        fine = False
    if not fine:
        raise InputError(f"{target} exists and is not a tutti model; choose another path or remove it first")


def _put_in_place(beside: Path, target: Path) -> None:
    """Move the folder to its place; a model that is there ends up at ``beside``, to be removed."""
    try:
        beside.rename(target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(beside, target):
        return
    # A filesystem that cannot swap two folders: for an instant the old model has only its spare name.
    spare = Path(f"{beside}.old")
    target.rename(spare)
    try:
        beside.rename(target)
    except OSError:
        spare.rename(target)
        raise
    shutil.rmtree(spare, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names atomically (Linux renameat2); False where kernel or filesystem cannot."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    at_cwd, exchange = -100, 2
    done: bool = swap(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
    if not done and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))
    return done
