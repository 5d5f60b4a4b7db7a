"""Logistic regression on arrays with two workers.  Beside it: logistic_arrays_sklearn.py, the same on one."""

import numpy as np

import tutti

rng = np.random.default_rng(0)
X = rng.normal(size=(20_000, 20))
y = np.where(X @ rng.normal(size=20) + rng.logistic(size=20_000) > 0, "yes", "no")

model = tutti.LogisticRegression(C=1.0, tol=1e-8, engine=tutti.Threads(2))
model.fit(X[:15_000], y[:15_000])

print(f"accuracy {model.score(X[15_000:], y[15_000:]):.4f}")
print(f"weight 0 {model.coef_[0, 0]:.5f}")
print(f"certified: at most {model.report_.relative_gap:.0e} (relative) above the optimum")
print(f"sha256 {model.report_.sha256}, the same for any number of workers")
