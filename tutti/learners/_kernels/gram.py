"""X'CX of sparse rows by scattering the outer product of each row; worth it while X'X fits into memory."""

from __future__ import annotations

import numba as nb


@nb.njit(cache=True, nogil=True)
def csr_gram(indptr, indices, values, y, weight, gram, total):
    """Add sum_i c_i z_i z_i' (upper triangle) and sum_i c_i z_i with z_i = (x_i, y_i) to ``gram`` and ``total``.

    gram (d + 1, d + 1) and total (d + 1,) float64; indices are sorted within a row.
    """
    d = len(total) - 1
    for i in range(len(y)):
        c = weight[i]
        if c == 0.0:
            continue
        lo, hi = indptr[i], indptr[i + 1]
        for s in range(lo, hi):
            j = indices[s]
            cx = c * values[s]
            total[j] += cx
            gram[j, d] += cx * y[i]
            for t in range(s, hi):
                gram[j, indices[t]] += cx * values[t]
        gram[d, d] += c * y[i] * y[i]
        total[d] += c * y[i]
