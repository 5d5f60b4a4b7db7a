"""A model that tutti does not have, checked against the contract and trained on three engines: see poisson.py."""

import numpy as np
from poisson import PoissonRegression

import tutti
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import train
from tutti.testing.learner import check_learner
from tutti.testing.local import cut

rng = np.random.default_rng(0)
truth = np.array([0.5, -0.3, 0.2, 0.0])
X = rng.normal(size=(20_000, 4))
y = rng.poisson(np.exp(X @ truth)).astype(np.float64)

data = tutti.from_arrays(X, y)
schema = data.schema("regression")
learner = PoissonRegression()
check_learner(learner, schema, cut(X, y, n_shards=3))
print("keeps the contract of tutti.protocols.Learner")

for engine in (tutti.Threads(1), tutti.Threads(3), tutti.Processes(2)):
    result = train(learner, data, schema=schema, strategy=tutti.AllReduce(), engine=engine)
    sha = model_sha256({"coef": result.arrays["coef"]})
    print(f"{engine}: {len(result.history)} rounds, sha256 {sha}")
print(f"weights {result.arrays['coef'].round(2)}, truth {truth}")
