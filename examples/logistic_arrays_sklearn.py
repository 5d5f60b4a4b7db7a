"""Logistic regression on arrays with scikit-learn.  Beside it: logistic_arrays.py, the same on two workers."""

import numpy as np
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
X = rng.normal(size=(20_000, 20))
y = np.where(X @ rng.normal(size=20) + rng.logistic(size=20_000) > 0, "yes", "no")

model = LogisticRegression(C=1.0, tol=1e-8)
model.fit(X[:15_000], y[:15_000])

print(f"accuracy {model.score(X[15_000:], y[15_000:]):.4f}")
print(f"weight 0 {model.coef_[0, 0]:.5f}")
