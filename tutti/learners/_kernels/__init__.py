"""Compiled loops over the rows of one shard, one thread each, in a fixed order: the same bits whoever runs them."""

from tutti import _kernel_cache as _kernel_cache
from tutti.learners._kernels import compiling as compiling
