"""SVC and SVR against scikit-learn's, their optimality, the same bits, lost workers, and what is refused."""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import datasets, svm
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import tutti
from tutti.errors import DataError, InputError, ModelError, ParameterError, PlanError
from tutti.estimators._approximate import features_of
from tutti.learners._kernel_rows import Kernel
from tutti.learners.featured import FeaturedShard, Features, fourier
from tutti.learners.kernel_svm import KernelMachine, KernelProblem
from tutti.runtime.digest import model_sha256
from tutti.runtime.driver import train
from tutti.strategies.task_parallel import TaskParallel
from tutti.tasking import Rows
from tutti.testing.tasks import check_tasked
from tutti.types import Arrays

R = np.random.default_rng(0)
DIGITS, DIGIT = datasets.load_digits(return_X_y=True)
CANCER, SICK = datasets.load_breast_cancer(return_X_y=True)
MADE, MADE_Y = datasets.make_classification(900, 20, n_informative=8, n_classes=3, flip_y=0.1, random_state=0)
WINE, KIND = datasets.load_wine(return_X_y=True)
SETS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "digits": (DIGITS, DIGIT, {}),
    "cancer": ((CANCER - CANCER.mean(0)) / CANCER.std(0), SICK, {"C": 10.0}),
    "cancer, not scaled": (CANCER, SICK, {}),
    "made": (MADE, MADE_Y, {}),
    "made, large C": (MADE, MADE_Y, {"C": 1000.0}),
    "wine": ((WINE - WINE.mean(0)) / WINE.std(0), KIND, {"kernel": "linear"}),
    "poly": (DIGITS / 16, DIGIT, {"kernel": "poly", "degree": 2, "coef0": 1.0}),
    "sigmoid": (MADE, MADE_Y, {"kernel": "sigmoid", "gamma": 0.01}),
    "float32": (DIGITS.astype(np.float32), DIGIT % 2, {}),
    "weights": (MADE, MADE_Y, {"class_weight": {0: 3.0, 2: 0.5}}),
    "balanced": (MADE, np.where(MADE_Y == 1, "b", "a"), {"class_weight": "balanced"}),
}


def quiet(estimator: Any, *data: Any, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return estimator.fit(*data, **more)


def dual_objective(model: Any, X: Any, y: Any, pair: tuple[int, int]) -> float:
    """The dual objective of one pair of a fitted SVC, ours or scikit-learn's, from its attributes alone."""
    from sklearn.metrics.pairwise import pairwise_kernels

    ends = np.cumsum(model.n_support_)
    mine = [np.arange(ends[c] - model.n_support_[c], ends[c]) for c in pair]
    binary = len(model.classes_) == 2
    rows = [0, 0] if binary else [pair[1] - 1, pair[0]]
    beta = np.concatenate([model.dual_coef_[r, m] for r, m in zip(rows, mine, strict=True)])
    x = np.asarray(X, np.float64)[model.support_[np.concatenate(mine)]]
    k = pairwise_kernels(x, metric=model.kernel, filter_params=True, **kernel_params(model))
    return float(np.abs(beta).sum() - 0.5 * beta @ k @ beta)


def kernel_params(model: Any) -> dict[str, Any]:
    return {"gamma": model._gamma, "coef0": model.coef0, "degree": model.degree}


@pytest.mark.parametrize("name", SETS)
def test_svc_finds_the_minimum_of_scikit_learns(name: str) -> None:
    X, y, params = SETS[name]
    params = {**params, "decision_function_shape": "ovo"}
    ours, theirs = tutti.SVC(**params, engine=tutti.Threads(2)).fit(X, y), svm.SVC(**params).fit(X, y)
    assert np.mean(ours.predict(X) == theirs.predict(X)) >= (0.99 if name == "sigmoid" else 0.998)
    assert abs(ours.score(X, y) - theirs.score(X, y)) <= (0.003 if name == "sigmoid" else 0.001)
    assert ours._gamma == pytest.approx(theirs._gamma, rel=1e-10)
    k = len(ours.classes_)
    scale = np.abs(theirs.decision_function(X)).max()
    if name != "sigmoid":  # which has several minima
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=0.02 * scale)
        for a in range(k):
            for b in range(a + 1, k):
                own, other = (dual_objective(m, X, y, (a, b)) for m in (ours, theirs))
                assert own >= other - 1e-3 * max(abs(other), 1.0)
    assert ours.n_support_.sum() == pytest.approx(theirs.n_support_.sum(), rel=0.02)
    for attribute in ("dual_coef_", "intercept_", "class_weight_", "shape_fit_"):
        assert np.shape(getattr(ours, attribute))[:1] == np.shape(getattr(theirs, attribute))[:1]


def test_balanced_classes_are_counted_in_rows_as_by_scikit_learn_whatever_the_rows_weigh() -> None:
    params, weight = {"class_weight": "balanced", "decision_function_shape": "ovo"}, np.where(MADE_Y == 2, 5.0, 1.0)
    ours = tutti.SVC(**params, engine=tutti.Threads(1)).fit(MADE, MADE_Y, sample_weight=weight)
    theirs = svm.SVC(**params).fit(MADE, MADE_Y, sample_weight=weight)
    np.testing.assert_allclose(ours.class_weight_, theirs.class_weight_)
    scale = np.abs(theirs.decision_function(MADE)).max()
    np.testing.assert_allclose(ours.decision_function(MADE), theirs.decision_function(MADE), atol=0.02 * scale)


@pytest.mark.parametrize("params", [{}, {"kernel": "linear"}, {"C": 100.0, "epsilon": 0.5}, {"epsilon": 0.0}])
def test_svr_finds_the_minimum_of_scikit_learns(params: dict[str, Any]) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = X / X.std(), y / 10
    weight = R.random(len(y)) + 0.1
    ours = tutti.SVR(**params, engine=tutti.Threads(2)).fit(X, y, sample_weight=weight)
    theirs = svm.SVR(**params).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=0.02)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-3)
    assert ours.dual_coef_.shape == (1, len(ours.support_))


HARD = pytest.param("linear", 100.0, marks=pytest.mark.slow)


@pytest.mark.thorough
@pytest.mark.parametrize("leaf_rows", [32768, 300, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kernel, C",
    [*itertools.product(["rbf", "poly", "linear"], [1.0]), ("rbf", 100.0), ("poly", 100.0), HARD],
)
def test_all_rows_satisfy_the_optimality_also_after_a_cascade(kernel: Any, C: float, leaf_rows: int) -> None:
    X, t = MADE, np.where(MADE_Y == 0, 1.0, -1.0)
    data = tutti.from_arrays(X, MADE_Y != 0)
    schema = data.schema("classification")
    learner = KernelMachine(KernelProblem(kernel, C=C, degree=2, coef0=1.0), leaf_rows=leaf_rows)
    result = train(learner, data, schema=schema, strategy=TaskParallel(), engine=tutti.Threads(2))
    assert result.progress.converged
    beta = np.zeros(len(t))
    beta[result.arrays["row"]] = result.arrays["dual"][0]
    f = t - gram(kernel, X, float(result.arrays["gamma"][0])) @ beta
    low, high = np.where(t > 0, 0, -C), np.where(t > 0, C, 0)
    assert (low <= beta).all()
    assert (beta <= high).all()
    assert abs(beta.sum()) < 1e-8 * C
    assert f[beta < high].max() - f[beta > low].min() < 1.5e-3
    if leaf_rows < 900:
        assert [r.metrics["tasks"] for r in result.history][2] == 2 ** np.ceil(np.log2(900 / leaf_rows))


def gram(kernel: str, X: Any, gamma: float) -> Any:
    if kernel == "rbf":
        return np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(axis=2))
    return X @ X.T if kernel == "linear" else (gamma * X @ X.T + 1.0) ** 2


def test_rows_far_from_the_origin_and_large_C_are_solved_in_float64() -> None:
    X = MADE[:300] + 1e4
    ours = tutti.SVC(C=100.0, kernel="rbf").fit(X, MADE_Y[:300])
    theirs = svm.SVC(C=100.0).fit(X, MADE_Y[:300])
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=0.05)


@pytest.mark.parametrize("params", [{}, {"probability": True}], ids=["plain", "probability"])
def test_same_bits_for_any_number_of_workers(params: dict[str, Any]) -> None:
    engines = [*map(tutti.Threads, (1, 2, 3, 5, 8)), tutti.Processes(2), tutti.Processes(3, transport="tcp")]
    seen = {tutti.SVC(**params, engine=e).fit(MADE, MADE_Y).report_.sha256 for e in engines}
    assert len(seen) == 1
    assigns = [tutti.TaskParallel(a) for a in ("round_robin", "random", "static")]
    seen |= {tutti.SVC(**params, engine=tutti.Threads(2), strategy=a).fit(MADE, MADE_Y).report_.sha256 for a in assigns}
    assert len(seen) == 1


def test_same_bits_of_a_regression() -> None:
    y = MADE @ R.standard_normal(20)
    engines = [*map(tutti.Threads, (1, 2, 3)), tutti.Processes(2)]
    assert len({tutti.SVR(engine=e).fit(MADE, y).report_.sha256 for e in engines}) == 1


@dataclass(frozen=True)
class Mortal(KernelMachine):
    """The first to do a task in which a file of that stage and number lies takes it away and is killed."""

    folder: str = ""

    def perform(self, shared: Arrays, task: int, rows: Rows) -> Arrays:
        try:
            os.unlink(os.path.join(self.folder, f"{int(shared['phase'][0])}-{task}"))
        except FileNotFoundError:
            return super().perform(shared, task, rows)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.thorough
@pytest.mark.parametrize("fatal", [["1-3"], ["3-0"], ["4-0", "5-1"], ["7-2"]])
def test_same_bits_after_a_worker_is_killed(fatal: list[str], tmp_path: Path) -> None:
    data = tutti.from_arrays(MADE, MADE_Y != 0)
    schema = data.schema("classification")

    def sha(learner: Any, engine: Any) -> str:
        return model_sha256(train(learner, data, schema=schema, strategy=TaskParallel(), engine=engine).arrays)

    right = sha(KernelMachine(leaf_rows=300), tutti.Threads(1))
    for name in fatal:
        (tmp_path / name).touch()
    with pytest.warns(RuntimeWarning, match="the others go on"):
        assert sha(Mortal(leaf_rows=300, folder=str(tmp_path)), tutti.Processes(3)) == right
    assert not list(tmp_path.iterdir())


def test_the_learner_keeps_the_contract_of_tasks() -> None:
    data = tutti.from_arrays(MADE[:300], MADE_Y[:300])
    schema = data.schema("classification")
    settled = data.settled(3, schema)
    shards = {s: settled.open(s, 3, schema) for s in range(3)}
    check_tasked(KernelMachine(n_shards=3, leaf_rows=60, folds=3), schema, shards)


def test_probabilities_are_calibrated_like_scikit_learns() -> None:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.metrics import log_loss

    half = len(DIGIT) // 2
    ours = tutti.SVC(probability=True).fit(DIGITS[:half], DIGIT[:half])
    proba = ours.predict_proba(DIGITS[half:])
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    other = CalibratedClassifierCV(svm.SVC(), ensemble=False).fit(DIGITS[:half], DIGIT[:half])
    assert log_loss(DIGIT[half:], proba) <= log_loss(DIGIT[half:], other.predict_proba(DIGITS[half:])) * 1.1
    two = tutti.SVC(probability=True).fit(CANCER, SICK)
    assert np.mean((two.predict_proba(CANCER)[:, 1] > 0.5) == (two.predict(CANCER) == 1)) > 0.97
    np.testing.assert_allclose(np.exp(two.predict_log_proba(CANCER)), two.predict_proba(CANCER))


def test_probabilities_need_a_fit_with_them() -> None:
    assert not hasattr(tutti.SVC(), "predict_proba")
    model = tutti.SVC().fit(CANCER, SICK).set_params(probability=True)
    with pytest.raises(ValueError, match="fitted with probability=False"):
        model.predict_proba(CANCER)


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_decision_values_have_scikit_learns_shape_and_sign(shape: str) -> None:
    ours = tutti.SVC(decision_function_shape=shape).fit(MADE, MADE_Y)
    theirs = svm.SVC(decision_function_shape=shape).fit(MADE, MADE_Y)
    close = np.abs(ours.decision_function(MADE) - theirs.decision_function(MADE)) < 0.02
    assert close.mean() > 0.998  # a vote may differ where a value is next to zero


def test_break_ties_predicts_the_largest_value() -> None:
    ours = tutti.SVC(break_ties=True).fit(MADE, MADE_Y)
    np.testing.assert_array_equal(ours.predict(MADE), ours.decision_function(MADE).argmax(axis=1))


@pytest.mark.parametrize("y", [MADE_Y, MADE_Y > 0, np.array(["no", "yes"])[(MADE_Y > 0).astype(int)]])
def test_scikit_learn_takes_the_model(y: Any) -> None:
    ours = tutti.SVC().fit(MADE, y)
    theirs = ours.to_sklearn()
    np.testing.assert_array_equal(theirs.predict(MADE), ours.predict(MADE))
    np.testing.assert_allclose(theirs.decision_function(MADE), ours.decision_function(MADE), atol=1e-8)
    regression = tutti.SVR().fit(MADE, MADE[:, 0])
    np.testing.assert_allclose(regression.to_sklearn().predict(MADE), regression.predict(MADE), atol=1e-8)


@pytest.mark.parametrize(
    "model", [tutti.SVC(probability=True), tutti.SVC(strategy=tutti.TaskParallel("static")), tutti.SVR(kernel="poly")]
)
def test_a_model_is_saved_and_loaded(model: Any, tmp_path: Path) -> None:
    y = MADE_Y if isinstance(model, tutti.SVC) else MADE[:, 0]
    fitted = clone(model).fit(MADE, y)
    fitted.save(tmp_path / "m")
    again = tutti.load(tmp_path / "m")
    np.testing.assert_array_equal(again.predict(MADE), fitted.predict(MADE))
    assert again.get_params()["kernel"] == fitted.kernel
    if hasattr(model, "predict_proba"):
        np.testing.assert_array_equal(again.predict_proba(MADE), fitted.predict_proba(MADE))
    again.n_support_ = again.n_support_ + 1
    again.save(tmp_path / "broken")
    with pytest.raises(ModelError, match="'n_support' sums to"):
        tutti.load(tmp_path / "broken")


def test_sparse_rows_and_datasets_give_the_same_model(tmp_path: Path) -> None:
    import scipy.sparse as sp

    x = np.where(np.abs(MADE) > 0.7, MADE, 0.0)
    dense, sparse = tutti.SVC().fit(x, MADE_Y), tutti.SVC().fit(sp.csr_matrix(x), MADE_Y)
    np.testing.assert_array_equal(sparse.predict(sp.csr_matrix(x)), dense.predict(x))
    data = tutti.from_arrays(x, MADE_Y)
    of_dataset = tutti.SVC().fit(data)
    assert of_dataset.report_.sha256 == dense.report_.sha256
    assert of_dataset.score(data) == pytest.approx(dense.score(x, MADE_Y))
    np.testing.assert_array_equal(of_dataset.predict(data), dense.predict(x))


def test_weights_count_like_repeated_rows_and_zero_drops_them() -> None:
    weight = R.integers(0, 3, len(MADE_Y)).astype(float)
    ours = tutti.SVC(C=0.5, tol=1e-6, gamma=0.1).fit(MADE, MADE_Y, sample_weight=weight)
    many = tutti.SVC(C=0.5, tol=1e-6, gamma=0.1).fit(
        np.repeat(MADE, weight.astype(int), 0), np.repeat(MADE_Y, weight.astype(int))
    )
    np.testing.assert_allclose(ours.decision_function(MADE), many.decision_function(MADE), atol=1e-4)
    assert not np.isin(ours.support_, np.flatnonzero(weight == 0)).any()


def test_the_weights_of_a_linear_kernel() -> None:
    ours, theirs = tutti.SVC(kernel="linear").fit(MADE, MADE_Y), svm.SVC(kernel="linear").fit(MADE, MADE_Y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.02)
    assert not hasattr(tutti.SVC().fit(MADE, MADE_Y), "coef_")


def test_the_plan_shows_the_pairs() -> None:
    text = str(tutti.SVC(engine=tutti.Threads(2)).explain(DIGITS, DIGIT))
    assert "leaves: 45 tasks" in text
    assert "TaskParallel" in text


def test_max_iter_ends_a_fit_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="before tol=0.001 was reached"):
        model = tutti.SVC(max_iter=5).fit(MADE, MADE_Y)
    assert model.fit_status_ == 1
    assert (model.n_iter_ <= 5).all()


@pytest.mark.thorough
@pytest.mark.parametrize("approximate", ["fourier", "nystroem"])
def test_an_approximate_machine_comes_near_the_exact_one(approximate: str, tmp_path: Path) -> None:
    train_x, train_y, x, y = DIGITS[::2], DIGIT[::2], DIGITS[1::2], DIGIT[1::2]
    settings = {"approximate": approximate, "n_components": 200, "random_state": 1}
    models = [
        tutti.SVC(**settings, engine=e).fit(train_x, train_y)
        for e in (tutti.Threads(1), tutti.Threads(3), tutti.Processes(2))
    ]
    assert len({model.report_.sha256 for model in models}) == 1
    assert models[0].score(x, y) > tutti.SVC().fit(train_x, train_y).score(x, y) - 0.04
    assert models[0].coef_.shape == (10, 200)
    assert models[0].decision_function(x).shape == (len(x), 10)
    assert not hasattr(models[0], "support_")
    models[0].save(tmp_path / "m")
    np.testing.assert_array_equal(tutti.load(tmp_path / "m").predict(x), models[0].predict(x))
    with pytest.raises(ModelError, match="fit with approximate=None"):
        models[0].to_sklearn()
    again = models[0].set_params(approximate=None).fit(train_x, train_y)
    assert hasattr(again, "support_")


@pytest.mark.thorough
@pytest.mark.parametrize("approximate", ["fourier", "nystroem"])
def test_an_approximate_regression_comes_near_the_exact_one(approximate: str, tmp_path: Path) -> None:
    x, y = datasets.make_friedman1(1500, 6, noise=0.5, random_state=0)
    weight = np.random.default_rng(0).random(len(y)) + 0.5
    settings = {"approximate": approximate, "n_components": 200, "random_state": 1, "C": 10.0, "epsilon": 0.2}
    models = [
        tutti.SVR(**settings, engine=e).fit(x[::2], y[::2], weight[::2])
        for e in (tutti.Threads(1), tutti.Threads(3), tutti.Processes(2))
    ]
    assert len({model.report_.sha256 for model in models}) == 1
    model = models[0]
    exact = tutti.SVR(C=10.0, epsilon=0.2).fit(x[::2], y[::2], weight[::2])
    assert model.score(x[1::2], y[1::2]) > exact.score(x[1::2], y[1::2]) - 0.04
    assert model.coef_.shape == (1, 200)
    assert model.fit_status_ == 0
    assert not hasattr(model, "support_")
    gap = model.history_[-1]
    assert gap["objective"] == model.objective_
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(tutti.load(tmp_path / "m").predict(x), model.predict(x))
    with pytest.raises(ModelError, match="SVR has no form of an approximate machine: fit with approximate=None"):
        model.to_sklearn()
    again = model.set_params(approximate=None).fit(x[::2], y[::2])
    assert hasattr(again, "support_")
    assert not hasattr(again, "_linear")


def test_features_that_are_kept_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, the first 2048 rows or all rows of two shards, 60 features each, are kept between passes."""
    x, y = (np.concatenate([part] * 4) for part in datasets.load_digits(return_X_y=True))
    made, of = [0], Features.of

    def counted(self: Features, rows: Any) -> Any:
        made[0] += len(rows)
        return of(self, rows)

    monkeypatch.setattr(Features, "of", counted)
    rows, hashes = [], set()
    for megabytes in (1e-3, 2.5, 200.0):
        for workers in (1, 2):
            made[0] = 0
            options = {"cache_size": megabytes, "engine": tutti.Threads(workers), "random_state": 0, "n_shards": 2}
            model = tutti.SVC(approximate="nystroem", n_components=60, C=10.0, **options).fit(x / 16.0, y)
            hashes.add(model.report_.sha256)
            rows.append(made[0])
    assert len(hashes) == 1
    none, some, every = rows[::2]
    assert rows[::2] == rows[1::2]
    assert every < 2 * len(x) + 100
    assert every < some < none


def test_an_approximate_regression_is_libsvms_on_the_same_features() -> None:
    x, y = datasets.make_friedman1(400, 6, noise=0.5, random_state=0)
    model = tutti.SVR(approximate="nystroem", n_components=60, epsilon=0.3, tol=1e-6).fit(x, y)
    z = model._linear.features.of(x)
    rival = svm.SVR(kernel="linear", epsilon=0.3, tol=1e-10).fit(z, y)
    loss = np.maximum(np.abs(y - rival.predict(z)) - 0.3, 0.0).sum()
    assert model.objective_ == pytest.approx(0.5 * float((rival.coef_**2).sum()) + loss, rel=2e-6)
    np.testing.assert_allclose(model.predict(x), rival.predict(z), atol=0.02)


def test_features_stand_for_the_kernel() -> None:
    x = DIGITS[:200] / 16
    for approximate, n in (("fourier", 20_000), ("nystroem", 200)):
        model = tutti.SVC(approximate=approximate, n_components=n, gamma=0.05)
        data = tutti.from_arrays(x, DIGIT[:200])
        z = features_of(model, data, data.schema("classification")).of(x)
        assert np.abs(z @ z.T - gram("rbf", x, 0.05)).max() < (0.05 if approximate == "fourier" else 1e-4)


def test_features_are_made_of_a_few_rows_at_a_time() -> None:
    data = tutti.from_arrays(np.ones((5000, 3)), np.arange(5000) % 2)
    schema = data.schema("classification")
    whole = data.settled(1, schema).open(0, 1, schema)
    shard = FeaturedShard(whole, fourier(Kernel("rbf", 1.0), np.zeros(3), 7, seed=0))
    assert shard.bounds == [(0, 2048), (2048, 4096), (4096, 5000)]
    blocks = [shard.block(i) for i in range(3)]
    assert [b.x.shape for b in blocks] == [(2048, 7), (2048, 7), (904, 7)]
    np.testing.assert_array_equal(np.concatenate([b.y for b in blocks]), whole.block(0).y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"approximate": "random"}, 'write None, "fourier" or "nystroem"'),
        ({"approximate": "fourier", "kernel": "poly"}, 'write "nystroem"'),
        ({"approximate": "nystroem", "probability": True}, "CalibratedClassifierCV"),
        ({"approximate": "nystroem", "decision_function_shape": "ovo"}, "against the rest"),
        ({"approximate": "fourier", "n_components": 0}, "at least 1"),
        ({"kernel": "precomputed"}, "rows cannot be dealt to shards"),
        ({"kernel": "rbff"}, "did you mean 'rbf'"),
        ({"gamma": "scaled"}, 'write "scale", "auto" or a number'),
        ({"gamma": -1.0}, "gamma"),
        ({"C": 0.0}, "C"),
        ({"degree": -1}, "degree"),
        ({"tol": 0}, "tol"),
        ({"cache_size": 0}, "megabytes"),
        ({"max_iter": -2}, "max_iter"),
        ({"decision_function_shape": "ovx"}, "write 'ovr' or 'ovo'"),
        ({"break_ties": True, "decision_function_shape": "ovo"}, "ties"),
        ({"probability": 1.5}, "write True or False"),
        ({"strategy": "static"}, 'write "auto" or an object'),
        ({"class_weight": {9: 2.0}}, "not among the classes"),
        ({"n_shards": 0}, "n_shards"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        tutti.SVC(**params).fit(MADE, MADE_Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"approximate": "random"}, 'write None, "fourier" or "nystroem"'),
        ({"approximate": "fourier", "kernel": "linear"}, 'write "nystroem"'),
        ({"n_components": 0, "approximate": "nystroem"}, "at least 1"),
        ({"approximate": "nystroem", "strategy": tutti.CoCoA()}, "epsilon_insensitive loss here has none"),
        ({"epsilon": -0.1}, "half the width of the tube"),
    ],
)
def test_a_wrong_parameter_of_a_regression_is_refused_by_name(params: dict[str, Any], message: str) -> None:
    with pytest.raises((ParameterError, PlanError), match=message):
        tutti.SVR(**params).fit(MADE, MADE[:, 0])


def test_wrong_data_is_refused() -> None:
    bad = MADE.copy()
    bad[17, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        tutti.SVC().fit(bad, MADE_Y)
    with pytest.raises(DataError, match="only one class"):
        tutti.SVC().fit(MADE, np.zeros(len(MADE)))
    with pytest.raises(DataError, match="sample_weight is zero for every row"):
        tutti.SVR().fit(MADE, MADE[:, 0], sample_weight=np.zeros(len(MADE)))
    with pytest.raises(DataError, match="expecting 20 features"):
        tutti.SVC().fit(MADE, MADE_Y).predict(MADE[:, :3])
    with pytest.raises(ParameterError, match="epsilon"):
        tutti.SVR(epsilon=-1).fit(MADE, MADE[:, 0])


@pytest.mark.filterwarnings("error:invalid value")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bad_row_is_named_before_values_are_made_of_it(n_classes: int, dtype: Any) -> None:
    fitted = tutti.SVC().fit(MADE.astype(dtype), MADE_Y % n_classes)
    for bad, word in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")):
        rows = np.tile(MADE, (4, 1)).astype(dtype)
        rows[2500, 3] = rows[3000, 1] = bad
        with pytest.raises(DataError, match=word) as caught:
            fitted.predict(rows)
        assert (caught.value.row, caught.value.column) == (2500, 3)
    far = np.full((1, 20), 1e160 if dtype is np.float64 else 1e30, dtype)  # its length is no float64, its values are
    votes = fitted.decision_function(far)
    assert np.isfinite(votes).all()
    if n_classes == 2:
        np.testing.assert_array_equal(votes, fitted.intercept_)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_do_not_depend_on_the_cores(n_classes: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = tutti.SVC(decision_function_shape="ovo").fit(MADE.astype(dtype), MADE_Y % n_classes)
    rows = np.tile(MADE, (4, 1)).astype(dtype)
    found = []
    for n in (1, 2, 3, 5):
        monkeypatch.setattr("tutti.estimators._kernel_machine.cores", lambda n=n: n)
        found.append(fitted.decision_function(rows))
        np.testing.assert_array_equal(found[-1], found[0])
    kernel = np.exp(-fitted._gamma * ((rows[:900, None].astype(float) - fitted.support_vectors_) ** 2).sum(axis=2))
    exact = kernel @ fitted._outputs() + fitted.intercept_
    np.testing.assert_allclose(found[0].reshape(len(rows), -1)[:900], exact, atol=1e-4 if dtype is np.float32 else 1e-9)


def test_other_strategies_are_refused() -> None:
    with pytest.raises(PlanError, match="KernelMachine offers part"):
        tutti.SVC(strategy=tutti.AllReduce()).fit(MADE, MADE_Y)
    with pytest.raises(PlanError, match="TaskParallel deals tasks"):
        tutti.LinearSVC(strategy=tutti.TaskParallel()).fit(MADE, MADE_Y)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    _CHECKED = parametrize_with_checks([tutti.SVC(tol=1e-8, gamma=0.5), tutti.SVR(tol=1e-8, gamma=0.5)])


@pytest.mark.thorough
@_CHECKED
def test_scikit_learns_check(estimator: Any, check: Any) -> None:
    check(estimator)
