"""Which bytes are read by whom: sources, pieces, shards, and the Dataset that names them.  Knows no models."""

from __future__ import annotations

from tutti.data.dataset import Dataset, from_arrays, read_csv, read_libsvm, read_parquet

__all__ = ["Dataset", "from_arrays", "read_csv", "read_libsvm", "read_parquet"]
