"""Which model suits the digits?  Forest, boosted trees and a kernel machine, each searched with one and two workers."""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tutti

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)

CANDIDATES = {
    "forest": (tutti.RandomForestClassifier(50, random_state=0), {"min_samples_leaf": [1, 5]}),
    "boosted trees": (tutti.GradientBoostingClassifier(n_estimators=30, random_state=0), {"max_depth": [2, 4]}),
    "kernel machine": (tutti.SVC(), {"C": [1.0, 10.0], "gamma": ["scale", 1e-3]}),
}

for name, (estimator, grid) in CANDIDATES.items():
    for n in (1, 2):
        found = tutti.GridSearchCV(estimator, grid, cv=3, engine=tutti.Threads(n)).fit(X, y)
        print(
            f"{name}, workers {n}: accuracy {found.score(X_test, y_test):.4f}, "
            f"sha256 {found.best_estimator_.report_.sha256[:16]}, {found.best_params_}"
        )
