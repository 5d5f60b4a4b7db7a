"""Compiled loops over the numbers of one update, one thread each: the same bits whoever runs them."""

from tutti import _kernel_cache as _kernel_cache
