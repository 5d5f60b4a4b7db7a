"""From libsvm text to a sparse logistic model in a fresh process.  Called by whole_process.py.

usage: python benchmarks/_whole.py SYSTEM FILE MAX_ITER
SYSTEM: tutti, snapml (its own loader), snapml-sklearn (scikit-learn's loader)
"""

from __future__ import annotations

import sys

system, path, max_iter = sys.argv[1], sys.argv[2], int(sys.argv[3])
if system == "tutti":
    import tutti

    tutti.LogisticRegression(C=1.0, tol=1e-3).fit(tutti.read_libsvm(path, n_features=100_000))
else:
    from snapml import LogisticRegression

    model = LogisticRegression(regularizer=1.0, fit_intercept=True, n_jobs=2, tol=1e-9, max_iter=max_iter)
    if system == "snapml":
        from snapml.Loaders import load_from_svmlight_format

        model.fit(load_from_svmlight_format(path, num_ft=100_001))
    else:
        import numpy as np
        from sklearn.datasets import load_svmlight_file

        x, y = load_svmlight_file(path, n_features=100_000, dtype=np.float32)
        model.fit(x, y)
