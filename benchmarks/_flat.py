"""Stream one Parquet fit under a memory cap; prints one JSON line.  Called by flat.py.

usage: python benchmarks/_flat.py FOLDER ESTIMATOR
"""

from __future__ import annotations

import json
import resource
import sys
import time

import tutti

folder, name = sys.argv[1], sys.argv[2]
make = {
    "logistic": lambda: tutti.LogisticRegression(tol=1e-3),
    "hinge": lambda: tutti.LinearSVC(loss="hinge", tol=1e-3),
    "ridge": lambda: tutti.Ridge(),
    "forest": lambda: tutti.RandomForestClassifier(n_estimators=20, max_depth=10),
    "boosting": lambda: tutti.GradientBoostingClassifier(n_estimators=20),
}[name]
ds = tutti.read_parquet(folder, label="y").cached(None)
began = time.perf_counter()
model = make().fit(ds)
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
passes = getattr(model, "history_", [{}])[-1].get("passes", 2.0)
print(json.dumps({"seconds": seconds, "rows": ds.n_rows, "passes": passes, "peak": peak}))
