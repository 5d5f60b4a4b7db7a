"""One reader on one libsvm file, alone in its process; prints one JSON line.  Called by readers.py.

usage: python benchmarks/_read.py READER FILE REPEATS      READER: tutti-1 tutti-2 xgboost sklearn
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

reader, path, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
warnings.filterwarnings("ignore")


def read() -> object:
    if reader.startswith("tutti"):
        import tutti

        data = tutti.read_libsvm(path).cached("memory", limit="8GB")
        data.schema("classification", threads=int(reader[-1]))  # parsed, checked and kept, with the classes counted
        return data
    if reader == "xgboost":
        import xgboost

        return xgboost.DMatrix(path + "?format=libsvm", nthread=2)
    import numpy as np
    from sklearn.datasets import load_svmlight_file

    return load_svmlight_file(path, dtype=np.float32)


seconds = []
for i in range(repeats + 1):
    began = time.perf_counter()
    kept = read()
    if i:
        seconds.append(time.perf_counter() - began)
    del kept
megabytes = os.path.getsize(path) / 1e6
print(json.dumps({"reader": reader, "seconds": seconds, "megabytes": megabytes}))
