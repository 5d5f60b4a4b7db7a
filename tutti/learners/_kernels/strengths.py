"""Links of many binary outputs of the same rows, each with a strength of its own."""

from __future__ import annotations

import numpy as np
from numba import njit

from tutti.learners._kernels.links import CHUNK, FAST, link, targets


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def strength_links(z, y, tables, sample, positive, code, curved, g, r, sums):
    """From margins to gradients of many outputs; returns the sum of all margins (not finite if X is not).

    Parameters
    ----------
    z : (K, rows) margins, overwritten.   y : (rows,) class codes.   sample : (rows,) weights or empty.
    tables : (K, codes) weight of a row of each class by output.   positive : (K,) the class that is +1.
    code : see `links.LOSSES`.   curved : whether ``r`` (K, rows), the curvatures, is wanted.
    g : (K, rows) -C l'(m) y for one side, (2 K, rows) for two: first the rows of y = -1, then those of y = +1.
    sums : (K, 2, 4) added to, see `links.link`.
    """
    n_outputs, n = z.shape
    room = np.empty((5, CHUNK), z.dtype)
    k, e, sign, c, spare = room[0], room[1], room[2], room[3], room[4]
    one, zero = z.dtype.type(1), z.dtype.type(0)
    apart = len(g) == 2 * n_outputs
    everything = 0.0
    for o in range(n_outputs):
        for lo in range(0, n, CHUNK):
            m = min(CHUNK, n - lo)
            row = z[o, lo : lo + m]
            for i in range(m):
                everything += row[i]
            targets(y, lo, m, positive[o], tables[o], sample, sign, c)
            bend = r[o, lo : lo + m] if curved else spare
            link(code, row, sign, c, k, bend, e, one, one, m, sums[o])
            if apart:
                for i in range(m):
                    above = sign[i] > zero
                    g[o, lo + i] = zero if above else k[i]
                    g[n_outputs + o, lo + i] = k[i] if above else zero
            else:
                for i in range(m):
                    g[o, lo + i] = k[i]
    return everything
