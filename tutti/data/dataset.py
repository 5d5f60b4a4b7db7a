"""`Dataset`: an inert, lazy description of rows; every method returns another one.

A data set is a source, a list of views (splits, resamplings), a partition and a way of keeping decoded rows.  What a
scan finds is remembered beside these fields and is neither compared nor sent to other processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tutti.data import convert, shards
from tutti.data.filesystem import normal
from tutti.data.memo import Memo
from tutti.data.memory import parse_bytes
from tutti.data.opened import DiskShard, MemoryShard, StreamShard
from tutti.data.predict import predict_blocks
from tutti.data.sources import ArraySource
from tutti.data.views import Resample, Split, View
from tutti.errors import DataError, ParameterError, PlanError
from tutti.seeds import run_seed
from tutti.types import Block, Partition, Schema

Keep = Literal["auto", "memory", "disk"]
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Dataset:
    """Rows of arrays or files, cut into shards on demand.  Made by `from_arrays`, `read_libsvm`, `read_csv`, ...

    Parameters
    ----------
    source : where the rows are (`tutti.protocols.Source`).
    views : splits and resamplings, in the order in which they were asked for.
    scheme, scheme_seed : who holds which rows; see `partition`.
    keep, limit : where decoded rows are kept; see `cached`.
    shard_map : rows of every shard if they are settled; see `settled`.
    """

    source: Any
    views: tuple[View, ...] = ()
    scheme: Partition = "contiguous"
    scheme_seed: int = 0
    keep: Keep | None = "auto"
    limit: int | None = None
    shard_map: shards.ShardMap | None = None
    _memo: Memo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memo", Memo())

    @property
    def n_rows(self) -> int:
        """Rows after splits and resamplings."""
        return self._memo.n_rows(self)

    @property
    def n_features(self) -> int:
        """Columns of X."""
        return self._memo.scan(self).n_features

    @property
    def classes(self) -> tuple[Any, ...]:
        """Sorted labels."""
        return self.schema("classification").classes or ()

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the columns, if the source has them."""
        names: tuple[str, ...] | None = self.source.feature_names
        return names

    def schema(self, task: Task, threads: int | None = None, least_classes: int = 2) -> Schema:
        """Scan the data, unless that was done before, and return what was found.

        Parameters
        ----------
        task : "classification" or "regression".
        threads : pieces decoded at a time; None means one per core.
        least_classes : how many classes a classification needs.

        Raises
        ------
        DataError : for anything in the data that cannot be learned from, with its place.
        """
        if task not in get_args(Task):
            raise ParameterError("task", task, 'write "classification" or "regression"')
        found = self._memo.schema(self, task, threads)
        if found.classes is not None and len(found.classes) < least_classes:
            raise DataError(
                f"This solver needs samples of at least {least_classes} classes in the data, "
                f"but the data contains only one class: {found.classes[0]!r}"
            )
        return found

    def partition(self, scheme: Partition, random_state: Any = 0) -> Dataset:
        """Choose which rows a shard holds.

        "contiguous" runs of equal length; "round_robin" row i to shard i mod n; "random" a seeded permutation;
        "stratified" the same share of every class; "balanced" runs of equal bytes or non-zeros.  All but the
        runs touch every piece of a file from every shard: they are fast in memory and slow when files are streamed.
        """
        if scheme not in get_args(Partition):
            raise ParameterError("partition", scheme, f"write one of {', '.join(get_args(Partition))}")
        return self._derive(scheme=scheme, scheme_seed=run_seed(random_state), shard_map=None)

    def split(
        self, test_size: float | int = 0.2, random_state: Any = 0, stratify: bool = False
    ) -> tuple[Dataset, Dataset]:
        """Return (train, test) with the row counts of scikit-learn's ``train_test_split``; rows keep their order.

        Parameters
        ----------
        test_size : fraction of the rows, or a number of rows.
        random_state : seed of the draw.
        stratify : True to draw from each class in proportion.
        """
        shards.split_sizes(2**31, test_size)
        seed = run_seed(random_state)
        train, test = (Split(test_size, seed, stratify, side) for side in ("train", "test"))
        return (
            self._derive(views=(*self.views, train), shard_map=None),
            self._derive(views=(*self.views, test), shard_map=None),
        )

    def resample(self, how: Literal["oversample", "undersample"], random_state: Any = 0) -> Dataset:
        """Even out the classes: repeat rows of the rarer ones, or drop rows of the more frequent ones."""
        return self._derive(views=(*self.views, Resample(how, run_seed(random_state))), shard_map=None)

    def cached(self, keep: Keep | None, limit: int | str | None = None) -> Dataset:
        """Choose where decoded rows are kept between passes.

        Parameters
        ----------
        keep : "memory" keeps all of them and refuses with a `PlanError` what needs more than ``limit``; "disk" keeps
            them in a private temporary folder, removed with the shard; None decodes them again on every pass;
            "auto" (default) means "memory" if they fit into ``limit``, else None.
        limit : bytes, or text such as "2GB".  None means half of the memory that is free at the scan.  Decoded pieces
            held while streaming stay below it, too.
        """
        if keep is not None and keep not in get_args(Keep):
            raise ParameterError("keep", keep, 'write "memory", "disk", "auto" or None')
        made = self._derive(keep=keep, limit=parse_bytes(limit))
        object.__setattr__(made, "_memo", self._memo.recached())
        return made

    def keeps(self, schema: Schema) -> Literal["memory", "disk"] | None:
        """Return where decoded rows will be kept: the choice that "auto" stands for.

        Raises
        ------
        PlanError : if "memory" was asked for and the rows need more than the limit.
        """
        if isinstance(self.source, ArraySource):
            return "memory"
        cap = self._memo.cap(self)
        if self.keep == "auto":
            return "memory" if schema.n_bytes <= cap else None
        if self.keep == "memory" and schema.n_bytes > cap:
            raise PlanError(
                f"the decoded rows need {schema.n_bytes / 1e6:,.1f} MB, more than the limit of {cap / 1e6:,.1f} MB: "
                'write cached("disk") or cached(None), or raise the limit'
            )
        return self.keep

    def shard_rows(self, n_shards: int, schema: Schema) -> tuple[int, ...]:
        """Return the number of rows of every shard."""
        return tuple(shards.count(rows) for rows in self._memo.shard_map(self, n_shards).rows)

    def settled(self, n_shards: int, schema: Schema) -> Dataset:
        """Return the data set in the form to send to other processes: nothing is left to scan or to draw there.

        Rows that the scan kept in memory travel as arrays, so that a file is decoded once for all workers.
        """
        return self._memo.settled(self, n_shards, schema)

    def open(self, shard_id: int, n_shards: int, schema: Schema) -> MemoryShard | StreamShard | DiskShard:
        """Return the rows of one shard (`tutti.protocols.ShardData`, with ``close``)."""
        if not 0 <= shard_id < n_shards:
            raise ParameterError("shard_id", shard_id, f"shards are numbered 0 to {n_shards - 1}")
        return self._memo.open(self, shard_id, n_shards, schema)

    def predict_blocks(self, n_features: int, classes: tuple[Any, ...] | None = None) -> Iterator[Block]:
        """Yield all rows in their order for a model of ``n_features`` features; see `tutti.data.predict`."""
        return predict_blocks(self, n_features, classes)

    def _derive(self, **changes: Any) -> Dataset:
        made = dataclasses.replace(self, **changes)
        object.__setattr__(made, "_memo", self._memo.derived())
        return made


def from_arrays(
    X: Any, y: Any = None, sample_weight: Any = None, feature_names: Any = None, missing: bool = False
) -> Dataset:
    """Return the data set of arrays in memory, which are not copied if they are float or canonical CSR.

    Parameters
    ----------
    X : (n_rows, n_features) numpy, scipy sparse, pandas, polars, Arrow or torch, or nested lists.  Integers up to 16
        bit, bool and float16 become float32, other integers float64.
    y : (n_rows,) labels (numbers or text) or targets; None for prediction data.
    sample_weight : (n_rows,) weights, or one number; None means 1 everywhere.
    feature_names : names of the columns; None takes those of a data frame.
    missing : True reads None and nulls as NaN, for models of trees, instead of refusing them.

    Raises
    ------
    DataError : for a wrong shape, complex numbers, text or missing values, with row and column.

    Example
    -------
    >>> from_arrays([[0.0, 1.0], [1.0, 0.0]], [0, 1]).schema("classification").classes
    (0, 1)
    """
    x, names = convert.features(X, missing)
    n_rows, n_features = x.shape
    if feature_names is not None:
        names = tuple(map(str, feature_names))
        if len(names) != n_features:
            raise ParameterError("feature_names", f"{len(names)} names", f"X has {n_features} columns")
    target = None if y is None else convert.labels(y, n_rows)
    weight = None if sample_weight is None else convert.weights(sample_weight, n_rows)
    return Dataset(ArraySource(x, None if target is None else np.ascontiguousarray(target), weight, names))


def read_libsvm(
    path: str | list[str],
    n_features: int | None = None,
    zero_based: bool = False,
    dtype: Literal["float32", "float64"] = "float32",
) -> Dataset:
    """Return the data set of libsvm text files: ``label index:value index:value ...  # comment``.

    Parameters
    ----------
    path : file, list of files, glob or folder; local or any fsspec URL; .gz and .zst are unpacked.
    n_features : width; None means the largest index found.
    zero_based : True if indices start at 0 instead of 1.
    dtype : type of the values.
    """
    from tutti.data.formats.libsvm import LibsvmSource

    return Dataset(LibsvmSource(_paths(path), n_features, zero_based, dtype))


def read_csv(
    path: str | list[str],
    label: str | None = "y",
    weight: str | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    columns: list[str] | None = None,
    delimiter: str = ",",
    header: bool = True,
    missing: bool = False,
) -> Dataset:
    """Return the data set of CSV files; all columns but label and weight are features.

    Parameters
    ----------
    path : file, list of files, glob or folder; local or any fsspec URL; .gz and .zst are unpacked.
    label, weight : names of these columns; ``label=None`` for prediction data.
    dtype : type of the values.
    columns : features to use, in this order; None means all.
    delimiter : one character.
    header : False if the first line is data; columns are then named f0, f1, ...
    missing : True reads what is missing among the features as NaN, for models of trees, instead of refusing it.
    """
    from tutti.data.formats.csv import CsvSource

    chosen = None if columns is None else tuple(columns)
    return Dataset(CsvSource(_paths(path), label, weight, dtype, chosen, delimiter, header, missing))


def read_parquet(
    path: str | list[str],
    label: str | None = "y",
    weight: str | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    columns: list[str] | None = None,
    missing: bool = False,
) -> Dataset:
    """Return the data set of Parquet files; all columns but label and weight are features.

    Parameters
    ----------
    path : file, list of files, glob or folder; local or any fsspec URL.
    label, weight : names of these columns; ``label=None`` for prediction data.
    dtype : type of the values.
    columns : features to use, in this order; None means all.
    missing : True reads nulls and NaN among the features as NaN, for models of trees, instead of refusing them.
    """
    from tutti.data.formats.parquet import ParquetSource

    chosen = None if columns is None else tuple(columns)
    return Dataset(ParquetSource(_paths(path), label, weight, dtype, chosen, missing))


def _paths(path: Any) -> tuple[str, ...]:
    found = tuple(normal(str(p)) for p in (path if isinstance(path, list | tuple) else [path]))
    if not found:
        raise ParameterError("path", path, "name at least one file")
    return found
