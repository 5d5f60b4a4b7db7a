"""Compiled loops over the rows of one shard, one thread each, in a fixed order: the same bits whoever runs them."""

from tutti.learners._kernels import compiling as compiling
