"""Tuned thresholds: scikit-learn's choice or better, from exact counts, the same for any number of workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.model_selection import StratifiedKFold, TunedThresholdClassifierCV, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import parametrize_with_checks

import tutti
from tutti.errors import DataError, InputError, ModelError, ParameterError
from tutti.estimators._base import NotFittedError
from tutti.estimators._threshold_curve import Held, Score, candidates, counts, curve

X, Y = make_classification(600, 8, n_informative=4, weights=[0.9], flip_y=0.05, random_state=1)
NAMES = np.where(Y == 1, "rare", "usual")
BOTH = np.array([0, 1])
SCORES = [
    (metrics.balanced_accuracy_score, {}),
    (metrics.accuracy_score, {}),
    (metrics.f1_score, {}),
    (metrics.fbeta_score, {"beta": 2.0}),
    (metrics.precision_score, {"zero_division": 0.0}),
    (metrics.recall_score, {}),
    (metrics.jaccard_score, {}),
    (metrics.matthews_corrcoef, {}),
]


def some_held(weighted: bool) -> Held:
    draw = np.random.default_rng(0)
    positive = draw.random(200) < 0.2
    values = np.round(draw.normal(size=200) + positive, 1)  # with ties
    return Held(values, positive, draw.integers(0, 4, 200).astype(float) if weighted else None)


@pytest.mark.thorough
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("function", "options"), SCORES, ids=lambda value: getattr(value, "__name__", ""))
def test_formulas_say_what_scikit_learn_says(function: Any, options: dict[str, Any], weighted: bool) -> None:
    held = some_held(weighted)
    at = candidates([held])[:-1]  # beyond the last value nothing is positive, of which some scores warn
    formula = Score(function, 1.0, {k: v for k, v in options.items() if k != "zero_division"}, BOTH)
    assert formula.counted() is not None
    asked = [function(held.positive, held.values >= t, sample_weight=held.weight, **options) for t in at]
    np.testing.assert_allclose(formula.at(held, at), asked, rtol=1e-12, atol=1e-12)


def test_a_score_without_a_formula_is_asked_for_each_threshold() -> None:
    held = some_held(True)
    score = Score(metrics.cohen_kappa_score, 1.0, {}, BOTH)
    at, found = curve(score, [held], None)
    assert len(at) == 100
    best = metrics.cohen_kappa_score(held.positive, held.values >= at[found.argmax()], sample_weight=held.weight)
    assert found.max() == pytest.approx(best)


def test_candidates_lie_between_neighbours() -> None:
    close = np.array([1.0, np.nextafter(1.0, 2.0), 3.0, 3.0])
    held = Held(close, np.array([False, True, False, True]), None)
    at = candidates([held])
    assert len(at) == 4
    assert [int(tp + fp) for tp, fp in zip(*counts(held, at)[:2], strict=True)] == [4, 3, 2, 0]


@pytest.mark.thorough
@pytest.mark.parametrize("estimator", [SklearnLogistic(), tutti.LogisticRegression(), tutti.LinearSVC()])
def test_no_threshold_scores_better_on_the_rows_held_out(estimator: Any) -> None:
    cv = StratifiedKFold(4)
    tuned = tutti.TunedThresholdClassifier(estimator, cv=cv, store_cv_results=True).fit(X, Y)
    how = "predict_proba" if hasattr(estimator, "predict_proba") else "decision_function"
    out = cross_val_predict(estimator, X, Y, cv=cv, method=how)
    out = out[:, 1] if out.ndim == 2 else out

    def mean_score(t: float) -> float:
        return float(np.mean([metrics.balanced_accuracy_score(Y[v], out[v] >= t) for _, v in cv.split(X, Y)]))

    assert tuned.best_score_ == pytest.approx(mean_score(tuned.best_threshold_), abs=1e-12)
    assert tuned.best_score_ == pytest.approx(max(map(mean_score, np.unique(out))), abs=1e-12)
    assert tuned.best_score_ == tuned.cv_results_["scores"].max()
    said = tuned.estimator_.predict_proba(X)[:, 1] if how == "predict_proba" else tuned.decision_function(X)
    np.testing.assert_array_equal(tuned.predict(X), (said >= tuned.best_threshold_).astype(int))
    theirs = TunedThresholdClassifierCV(estimator, cv=cv).fit(X, Y)
    assert tuned.best_score_ >= mean_score(theirs.best_threshold_)


def test_thresholds_may_be_given() -> None:
    for wanted in (20, [0.1, 0.2, 0.5]):
        ours = tutti.TunedThresholdClassifier(GaussianNB(), scoring="f1", cv="prefit", refit=False, thresholds=wanted)
        ours.estimator = GaussianNB().fit(X[:300], Y[:300])
        theirs = TunedThresholdClassifierCV(ours.estimator, scoring="f1", cv="prefit", refit=False, thresholds=wanted)
        assert ours.fit(X[300:], Y[300:]).best_threshold_ == theirs.fit(X[300:], Y[300:]).best_threshold_
        assert ours.best_score_ == pytest.approx(theirs.best_score_)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_same_threshold_for_any_number_of_workers(n: int) -> None:
    data = tutti.from_arrays(X, NAMES)
    for engine in (tutti.Threads(1), tutti.Threads(n)):
        model = tutti.LogisticRegression(engine=engine, n_shards=4)
        tuned = tutti.TunedThresholdClassifier(model, scoring="balanced_accuracy", engine=engine)
        found = tuned.fit(data).best_threshold_, tuned.best_score_, tuned.estimator_.report_.sha256
        folds = tuned.set_params(cv=3).fit(X, NAMES).best_threshold_, tuned.best_score_
        if engine.n == 1:
            first = found, folds
    assert (found, folds) == first


@pytest.mark.thorough
def test_folds_fitted_by_processes_are_those_of_threads() -> None:
    here, there = (
        tutti.TunedThresholdClassifier(SklearnLogistic(), cv=3, engine=engine).fit(X, Y)
        for engine in (tutti.Threads(1), tutti.Processes(2))
    )
    assert (here.best_threshold_, here.best_score_) == (there.best_threshold_, there.best_score_)


def test_a_dataset_holds_out_a_share_of_each_class() -> None:
    data = tutti.from_arrays(X, Y)
    tuned = tutti.TunedThresholdClassifier(tutti.LogisticRegression(), cv=0.25, refit=False, random_state=3).fit(data)
    train, held = data.split(0.25, random_state=3, stratify=True)
    model = tutti.LogisticRegression().fit(train)
    np.testing.assert_array_equal(tuned.estimator_.coef_, model.coef_)
    prefit = tutti.TunedThresholdClassifier(model, cv="prefit", refit=False).fit(held)
    assert prefit.estimator_ is model
    assert (tuned.best_threshold_, tuned.best_score_) == (prefit.best_threshold_, prefit.best_score_)
    rows = np.concatenate([block.x for block in held.predict_blocks(8)])
    labels = np.concatenate([block.y for block in held.predict_blocks(8, (0, 1))])
    assert metrics.balanced_accuracy_score(labels, tuned.predict(held)) == pytest.approx(tuned.best_score_)
    np.testing.assert_array_equal(tuned.predict(rows), tuned.predict(held))
    assert tuned.score(held) == tuned.score(rows, labels)
    whole = tutti.TunedThresholdClassifier(tutti.LogisticRegression(), cv=0.25, random_state=3).fit(data)
    assert whole.best_threshold_ == tuned.best_threshold_
    np.testing.assert_array_equal(whole.estimator_.coef_, tutti.LogisticRegression().fit(data).coef_)


def test_weights_count_in_the_fit_and_in_the_score() -> None:
    twice = np.where(np.arange(len(Y)) % 3 == 0, 2, 1)
    model = tutti.LogisticRegression(tol=1e-8)
    prefit = {"cv": "prefit", "refit": False}
    fitted = tutti.LogisticRegression(tol=1e-8).fit(X, Y)
    weighted = tutti.TunedThresholdClassifier(fitted, **prefit).fit(X, Y, sample_weight=twice)
    repeated = tutti.TunedThresholdClassifier(fitted, **prefit).fit(np.repeat(X, twice, 0), np.repeat(Y, twice))
    assert weighted.best_threshold_ == repeated.best_threshold_
    assert weighted.best_score_ == pytest.approx(repeated.best_score_, rel=1e-12)
    data = tutti.from_arrays(X, Y, sample_weight=twice)
    assert tutti.TunedThresholdClassifier(fitted, **prefit).fit(data).best_threshold_ == weighted.best_threshold_
    cut = tutti.TunedThresholdClassifier(model, cv=3).fit(X, Y, sample_weight=twice)
    np.testing.assert_array_equal(cut.estimator_.coef_, model.fit(X, Y, sample_weight=twice).coef_)


def test_the_positive_class_is_that_of_the_score() -> None:
    f1 = metrics.make_scorer(metrics.f1_score, pos_label="rare")
    tuned = tutti.TunedThresholdClassifier(tutti.LogisticRegression(), scoring=f1).fit(tutti.from_arrays(X, NAMES))
    assert set(tuned.predict(X)) == {"rare", "usual"}
    np.testing.assert_array_equal(tuned.predict(X) == "rare", tuned.predict_proba(X)[:, 0] >= tuned.best_threshold_)
    with pytest.raises(ParameterError, match=r"make_scorer\(f1_score, pos_label='usual'\)"):
        tutti.TunedThresholdClassifier(tutti.LogisticRegression(), scoring="f1").fit(X, NAMES)


@pytest.mark.parametrize("model", [tutti.LogisticRegression(class_weight={0: 1.0, 1: 2.0}), tutti.LinearSVC(C=0.5)])
def test_saved_and_loaded(model: Any, tmp_path: Path) -> None:
    tuned = tutti.TunedThresholdClassifier(model, scoring="f1", cv=0.3).fit(X, Y)
    tuned.save(tmp_path / "model")
    again = tutti.load(tmp_path / "model")
    assert again.best_threshold_ == tuned.best_threshold_
    assert again.estimator.get_params(deep=False) == model.get_params(deep=False)
    assert {**again.get_params(deep=False), "estimator": 0} == {**tuned.get_params(deep=False), "estimator": 0}
    np.testing.assert_array_equal(again.predict(X), tuned.predict(X))
    np.testing.assert_array_equal(again.decision_function(X), tuned.decision_function(X))
    header = tmp_path / "model" / "model.json"
    written = json.loads(header.read_text())
    written["estimator"]["class"] = "TunedThresholdClassifier"
    header.write_text(json.dumps(written))
    with pytest.raises(ModelError, match="none that a model folder with a threshold holds"):
        tutti.load(tmp_path / "model")


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        tutti.TunedThresholdClassifier(tutti.LogisticRegression()).save(tmp_path / "model")
    with pytest.raises(ParameterError, match="holds tutti's own estimators"):
        tutti.TunedThresholdClassifier(GaussianNB()).fit(X, Y).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_makes_no_sense_is_refused() -> None:
    def tuned(**params: Any) -> Any:
        return tutti.TunedThresholdClassifier(params.pop("estimator", tutti.LogisticRegression()), **params)

    three = np.arange(len(Y)) % 3
    data = tutti.from_arrays(X, Y)
    fitted = tutti.LogisticRegression().fit(X, Y)
    for bad, error, says in (
        (lambda: tuned().fit(X, three), DataError, "Only binary classification is supported.*multiclass"),
        (lambda: tuned().fit(tutti.from_arrays(X, three)), DataError, "multiclass: 3 classes, 0, 1, 2"),
        (lambda: tuned().fit(X, Y * 0), DataError, "only one class: 0"),
        (lambda: tuned().fit(tutti.from_arrays(X, Y * 0)), DataError, "only one class: 0"),
        (lambda: tuned(estimator=fitted, cv="prefit", refit=False).fit(data_of(0)), DataError, "all of one class"),
        (lambda: tuned(cv=[(np.arange(300), np.flatnonzero(Y == 0))]).fit(X, Y), DataError, "all of one class"),
        (lambda: tuned().fit(X * 0, Y), DataError, "constant predictions"),
        (lambda: tuned(cv=5).fit(data), ParameterError, "hold out a share"),
        (lambda: tuned(cv=1.5).fit(X, Y), ParameterError, "a share of the rows between 0 and 1"),
        (lambda: tuned(cv="pre").fit(X, Y), ParameterError, '"prefit"'),
        (lambda: tuned(refit=False).fit(X, Y), ParameterError, "which to keep"),
        (lambda: tuned(refit=1).fit(X, Y), ParameterError, "True or False"),
        (lambda: tuned(estimator=fitted, cv="prefit").fit(X, Y), ParameterError, "write refit=False"),
        (lambda: tuned(thresholds=0).fit(X, Y), ParameterError, "how many to try"),
        (lambda: tuned(thresholds="all").fit(X, Y), ParameterError, "how many to try"),
        (lambda: tuned(response_method="predict").fit(X, Y), ParameterError, "decision_function"),
        (lambda: tuned(scoring="roc_auc").fit(X, Y), ParameterError, "predicted classes only"),
        (lambda: tuned(scoring=lambda model, x, y: 0.0).fit(X, Y), ParameterError, "make_scorer"),
        (lambda: tuned(engine="fast").fit(X, Y), ParameterError, "tutti.Processes"),
        (lambda: tuned(estimator=tutti.Ridge()).fit(X, Y), ParameterError, "predict_proba or decision_function"),
        (lambda: tuned(estimator=GaussianNB()).fit(data), InputError, "fit it on arrays"),
        (lambda: tuned().fit(data, sample_weight=Y), InputError, "brings its own labels"),
    ):
        with pytest.raises(error, match=says):
            bad()


def data_of(label: int) -> Any:
    return tutti.from_arrays(X[label == Y], Y[label == Y])


def test_resampled_rows_feed_every_classifier_alike_for_any_number_of_workers() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), np.where(y == 0, "malignant", "benign")
    keep = np.flatnonzero((y == "benign") | (np.arange(len(y)) % 6 == 0))
    data = tutti.from_arrays(x[keep], y[keep])
    for how in ("oversample", "undersample"):
        even = data.resample(how, random_state=1)
        counted = even.schema("classification").class_counts
        assert counted[0] == counted[1]
        for model in (tutti.LogisticRegression(n_shards=3), tutti.LinearSVC(n_shards=3)):
            fits = [model.set_params(engine=tutti.Threads(n)).fit(even).report_.sha256 for n in (1, 2, 3)]
            assert len(set(fits)) == 1
            assert metrics.balanced_accuracy_score(y, model.predict(x)) > 0.9


def test_oversampled_rows_are_weights_of_whole_numbers() -> None:
    rare = np.flatnonzero(Y == 1)
    usual = np.flatnonzero(Y == 0)[: 4 * len(rare)]
    rows = np.sort(np.concatenate([rare, usual]))
    x, y = X[rows], Y[rows]
    over = tutti.LogisticRegression(tol=1e-9).fit(tutti.from_arrays(x, y).resample("oversample"))
    weighted = tutti.LogisticRegression(tol=1e-9, class_weight={0: 1.0, 1: 4.0}).fit(x, y)
    np.testing.assert_allclose(over.coef_, weighted.coef_, rtol=1e-3, atol=1e-5)


def test_a_threshold_within_a_search() -> None:
    tuned = tutti.TunedThresholdClassifier(SklearnLogistic(), cv=3)
    grid, scoring = {"estimator__C": [0.01, 1.0]}, "balanced_accuracy"
    here, there = (
        tutti.GridSearchCV(tuned, grid, cv=2, scoring=scoring, engine=engine).fit(X, Y)
        for engine in (tutti.Threads(2), tutti.Processes(2))
    )
    assert here.report_.sha256 == there.report_.sha256
    assert here.best_score_ > 0.6
    assert 0 < here.best_estimator_.best_threshold_ < 0.5


def test_nets_on_resampled_rows_and_with_a_threshold(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    data = tutti.from_arrays(X.astype(np.float32), Y)
    linear = torch.nn.Linear(8, 2)  # where each of the fits starts
    found = []
    for n in (1, 2):
        net = tutti.NeuralNetClassifier(linear, lr=0.05, epochs=2, n_shards=2, engine=tutti.Threads(n))
        tuned = tutti.TunedThresholdClassifier(net, refit=False).fit(data)
        even = net.fit(data.resample("oversample"))
        found.append((tuned.best_threshold_, tuned.estimator_.report_.sha256, even.report_.sha256))
    assert found[0] == found[1]
    tuned.save(tmp_path / "net")
    np.testing.assert_array_equal(tutti.load(tmp_path / "net").predict(data), tuned.predict(data))


@pytest.mark.slow
@parametrize_with_checks(
    [tutti.TunedThresholdClassifier(tutti.LogisticRegression(tol=1e-6), cv=3)],
    expected_failed_checks=lambda _: {
        "check_classifiers_train": "the more probable class need not be the predicted one: the threshold is not 1/2"
    },
)
def test_scikit_learns_check(estimator: Any, check: Any) -> None:
    check(estimator)
