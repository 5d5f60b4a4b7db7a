"""numba kernels of the data layer; imported only inside functions."""

from tutti import _kernel_cache as _kernel_cache
