"""Sparse batches on the few features that they touch: renumber them, fetch their weights, move their weights.

``place`` (d,) int32 is -1 everywhere between batches; inside one it tells where in ``touched`` a feature stands.
"""

from __future__ import annotations

from numba import njit

from tutti.learners._kernels.inner import inner


@njit(cache=True, nogil=True, error_model="numpy")
def compact(indptr, indices, values, starts, size, place, touched, n, out_indptr, out_indices, out_values, row, at):
    """Append the runs of ``size`` rows from each of ``starts`` with renumbered features.

    Returns (features touched so far, rows written so far, values written so far), given the same three as ``n``,
    ``row``, ``at``; ``out_indptr[row]`` is ``at`` already.
    """
    rows = len(indptr) - 1
    for t in range(len(starts)):
        for i in range(starts[t], min(starts[t] + size, rows)):
            for p in range(indptr[i], indptr[i + 1]):
                j = indices[p]
                if place[j] < 0:
                    place[j] = n
                    touched[n] = j
                    n += 1
                out_indices[at] = place[j]
                out_values[at] = values[p]
                at += 1
            row += 1
            out_indptr[row] = at
    return n, row, at


@njit(cache=True, nogil=True, error_model="numpy")
def forget(place, touched):
    """Make ``place`` ready for the next batch."""
    for j in touched:
        place[j] = -1


@njit(cache=True, nogil=True, error_model="numpy")
def fetch(w, moved, decay, step, touched, out):
    """out (n, K) = the weights of the touched features as they are at ``step``.

    A weight that was last moved at step s has shrunk since, by decay[step] / decay[s].
    """
    n_outputs = w.shape[1]
    for i in range(len(touched)):
        j = touched[i]
        shrink = decay[step] / decay[moved[j]] if moved[j] < step else 1.0
        for o in range(n_outputs):
            out[i, o] = w[j, o] * shrink


@njit(cache=True, nogil=True, error_model="numpy")
def move(w, moved, decay, total, seen, step, lo, hi, touched, rate, v):
    """w[j] = w[j] shrunk to ``step`` + rate v[i], for each touched feature j = touched[i] in lo:hi; v (n, K).

    ``total`` (as w, or of no rows: not kept) is the sum of w[j] over all steps before the one it was last moved at,
    with ``seen[t]`` = sum of decay over the steps before t that count.
    """
    n_outputs = w.shape[1]
    for i in range(len(touched)):
        j = touched[i]
        if lo <= j and j < hi:
            _shrink(w, moved, decay, total, seen, step, j)
            for o in range(n_outputs):
                w[j, o] += rate * v[i, o]


@njit(cache=True, nogil=True, error_model="numpy")
def settle(w, moved, decay, total, seen, step):
    """Shrink every weight to ``step``."""
    for j in range(len(w)):
        _shrink(w, moved, decay, total, seen, step, j)


@inner(error_model="numpy")
def _shrink(w, moved, decay, total, seen, step, j):
    last = moved[j]
    if last >= step:
        return
    shrink = decay[step] / decay[last]
    lasted = (seen[step] - seen[last]) / decay[last]
    for o in range(w.shape[1]):
        if len(total) > 0:
            total[j, o] += w[j, o] * lasted
        w[j, o] *= shrink
    moved[j] = step
