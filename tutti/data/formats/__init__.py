"""Readers of files: libsvm, CSV and Parquet."""
