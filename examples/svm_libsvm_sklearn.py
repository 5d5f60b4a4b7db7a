"""A linear SVM on a libsvm file with scikit-learn.  Beside it: svm_libsvm.py, the same on two processes."""

import tempfile
from pathlib import Path

from make_data import libsvm_file
from sklearn.datasets import load_svmlight_file
from sklearn.svm import LinearSVC

with tempfile.TemporaryDirectory() as folder:
    path = libsvm_file(Path(folder) / "small.svm")

    X, y = load_svmlight_file(str(path))
    X.indices, X.indptr = X.indices.astype("int32"), X.indptr.astype("int32")  # LinearSVC refuses 64-bit indices
    model = LinearSVC(C=1.0, loss="hinge", tol=1e-4, max_iter=10_000)
    model.fit(X, y)

    print(f"accuracy {model.score(X, y):.4f}")
