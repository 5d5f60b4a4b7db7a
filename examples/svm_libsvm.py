"""A linear SVM on a libsvm file with two processes.  Beside it: svm_libsvm_sklearn.py, the same on one."""

import tempfile
from pathlib import Path

from make_data import libsvm_file

import tutti

with tempfile.TemporaryDirectory() as folder:
    path = libsvm_file(Path(folder) / "small.svm")

    data = tutti.read_libsvm(str(path))
    model = tutti.LinearSVC(C=1.0, loss="hinge", tol=1e-4, engine=tutti.Processes(2))
    model.fit(data)

    print(f"accuracy {model.score(data):.4f}")
    print(f"certified: at most {model.report_.relative_gap:.0e} (relative) above the optimum")
