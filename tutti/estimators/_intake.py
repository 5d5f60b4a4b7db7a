"""What ``fit`` may be given, made one thing: arrays, frames and tensors, a file by its name, or a Dataset as it is."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from tutti.errors import DataError, InputError, ParameterError
from tutti.estimators._base import DataConversionWarning, warn
from tutti.learners._finite import first_bad, is_bad
from tutti.types import Csr

_FORMATS = {
    ".svm": "libsvm",
    ".libsvm": "libsvm",
    ".svmlight": "libsvm",
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_VALUES = 1 << 17  # that are added up at a time, and stay in the cache


def is_dataset(x: Any) -> bool:
    """Tell a tutti Dataset (or whatever fulfils its doors) from arrays."""
    return all(hasattr(x, name) for name in ("schema", "open", "shard_rows", "keeps"))


def as_dataset(x: Any, y: Any, sample_weight: Any, name: str, missing: bool = False) -> tuple[Any, Any]:
    """Return (dataset, dtype of the labels of arrays or None).

    Parameters
    ----------
    x, y, sample_weight : what the caller gave to ``fit``.
    name : class of the estimator, for messages.
    missing : True lets arrays and frames have missing values.

    Raises
    ------
    InputError : the combination makes no sense; the message says what to write instead.
    """
    if is_dataset(x):
        for what, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise InputError(f"a Dataset brings its own labels and weights: write fit(dataset), without {what}")
        return x, None
    if isinstance(x, str | os.PathLike):
        return _open_file(os.fspath(x), y, sample_weight), None
    if y is None:
        raise DataError(f"This {name} estimator requires y to be passed, but the target y is None.")
    from tutti.data import from_arrays
    from tutti.data.convert import as_numpy

    target = np.asarray(as_numpy(y))
    if target.ndim == 2 and target.shape[1] == 1:
        warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples, ), "
            "for example using ravel().",
            DataConversionWarning,
            stacklevel=4,
        )
    return from_arrays(x, target, sample_weight=sample_weight, missing=missing), target.dtype


def refuse_infinity(dataset: Any, missing: bool) -> Any:
    """Return the data set of arrays as it is; DataError for the first infinite value of X, or NaN unless ``missing``.

    Sums tell that there is something, block by block; rows are searched only then.  The rows of files are looked at by
    the workers that read them.
    """
    x = getattr(dataset.source, "x", None)
    if x is None:
        return dataset
    values = x.values if isinstance(x, Csr) else x
    flat = values.reshape(-1) if values.ndim == 1 or values.flags.c_contiguous else values.T.reshape(-1)
    for lo in range(0, len(flat), _VALUES):
        part = flat[lo : lo + _VALUES]
        with np.errstate(over="ignore", invalid="ignore"):
            fine = math.isfinite(part.sum())
        bad = None if fine or not is_bad(part, missing).any() else first_bad(x, missing)
        if bad is not None:
            row, column, value = bad
            what = "NaN" if np.isnan(value) else f"infinity or a value too large for dtype('{values.dtype}')"
            raise DataError(f"Input X contains {what}.", row=row, column=column)
    return dataset


def _open_file(path: str, label: Any, sample_weight: Any) -> Any:
    from tutti import data

    if sample_weight is not None:
        raise InputError("sample_weight belongs to arrays; name the column of weights in tutti.read_csv / read_parquet")
    stem = path.lower()
    for suffix in _COMPRESSED:
        stem = stem.removesuffix(suffix)
    kind = _FORMATS.get(os.path.splitext(stem)[1])
    if kind is None:
        raise InputError(
            f"the format of {path!r} cannot be told by its suffix ({', '.join(_FORMATS)}); open it with "
            "tutti.read_libsvm, read_csv or read_parquet and fit what that returns"
        )
    if kind == "libsvm":
        if label is not None:
            raise ParameterError("y", label, "a libsvm file has the label in front of each row; write fit(path)")
        return data.read_libsvm(path)
    if not isinstance(label, str):
        raise ParameterError("y", label, f'write the name of the label column: fit({path!r}, "label")')
    return (data.read_csv if kind == "csv" else data.read_parquet)(path, label=label)
