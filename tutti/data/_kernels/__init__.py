"""numba kernels of the data layer; imported only inside functions."""
