"""What may be given to fit and predict, what comes back, and what is said when it makes no sense."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from sklearn import exceptions
from sklearn.datasets import dump_svmlight_file

from tests.estimators.problems import dataset
from tutti.data import from_arrays
from tutti.errors import DataError, InputError, ParameterError, PlanError
from tutti.estimators._base import ConvergenceWarning, DataConversionWarning
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.strategies.all_reduce import AllReduce
from tutti.strategies.cocoa import CoCoA


@pytest.fixture(scope="module")
def small():
    x, y = dataset("breast_cancer")
    return x[:, :6], y


@pytest.fixture(scope="module")
def model(small):
    return LinearSVC().fit(*small)


def names(x):
    return [f"f{i}" for i in range(x.shape[1])]


CONTAINERS = {
    "list": lambda x: x.tolist(),
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "object": lambda x: x.astype(object),
    "pandas": lambda x: pd.DataFrame(x, columns=names(x)),
    "polars": lambda x: pl.DataFrame(x, schema=names(x)),
    "arrow": lambda x: pa.table(dict(zip(names(x), x.T, strict=True))),
    "torch": lambda x: pytest.importorskip("torch", reason="torch is not installed").from_numpy(x),
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
    "coo": sp.coo_array,
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same_model(small, kind):
    x, y = small
    given = CONTAINERS[kind](x)
    exact = LogisticRegression(tol=1e-9).fit(x, y)
    model = LogisticRegression(tol=1e-9).fit(given, y.tolist() if kind == "list" else y)
    np.testing.assert_allclose(model.coef_, exact.coef_, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model.predict(given), exact.predict(x))
    assert hasattr(model, "feature_names_in_") == (kind in ("pandas", "polars", "arrow"))


def test_attributes_have_scikit_learns_shapes():
    x, y = dataset("iris")
    for cls in (LogisticRegression, LinearSVC):
        three, two = cls().fit(x, y), cls().fit(x[:100], y[:100])
        assert (three.coef_.shape, three.intercept_.shape) == ((3, 4), (3,))
        assert (two.coef_.shape, two.intercept_.shape) == ((1, 4), (1,))
        assert three.decision_function(x).shape == (150, 3)
        assert two.decision_function(x).shape == (150,)
    for cls in (Ridge, LinearRegression):
        found = cls().fit(x, y)
        assert found.coef_.shape == (4,)
        assert isinstance(found.intercept_, float)
        assert found.predict(x).shape == (150,)
    assert three.coef_.dtype == three.decision_function(x.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize(
    "labels",
    [np.array(["ham", "spam"]), np.array([-1, 1], dtype=np.int8), np.array([0.0, 2.0]), np.array([False, True])],
    ids=lambda a: str(a.dtype),
)
def test_labels_come_back_in_their_own_type(small, labels):
    x, y = small
    found = LogisticRegression().fit(x, labels[y])
    assert found.classes_.dtype == labels.dtype
    assert found.classes_.tolist() == labels.tolist()
    predicted = found.predict(x)
    assert predicted.dtype == labels.dtype
    assert found.score(x, labels[y]) == np.mean(predicted == labels[y]) > 0.9


def test_labels_of_type_object_stay_objects(small):
    x, y = small
    labels = np.array(["b", "m"], dtype=object)[y]
    assert LinearSVC().fit(x, labels).predict(x).dtype == object


def test_history_plan_and_report_describe_the_fit(small):
    x, y = small
    found = LinearSVC(tol=1e-6, n_shards=4).fit(x, y)
    assert found.history_[-1].keys() == {"step", "seconds", "objective", "gap", "passes"}
    assert found.n_iter_ == found.history_[-1]["step"] == len(found.history_)
    assert found.plan_.n_shards == 4
    assert sum(found.plan_.shard_rows) == len(y)
    assert found.plan_.reason
    assert found.report_.converged
    assert 0 <= found.duality_gap_ <= 1e-6 * found.objective_
    assert found.report_.relative_gap == pytest.approx(found.duality_gap_ / found.objective_)
    assert len(found.report_.sha256) == 64


def test_explain_tells_the_plan_and_fits_nothing(small, monkeypatch):
    from tutti.engines.threads import Threads

    monkeypatch.setattr(Threads, "launch", lambda *a: pytest.fail("something was started"))
    estimator = LinearSVC()
    explanation = estimator.explain(*small)
    assert "plan for 569 rows x 6 features" in str(explanation)
    assert explanation.to_dict()["loss"] == "squared_hinge"
    assert not hasattr(estimator, "coef_")
    with pytest.raises(ParameterError):
        LinearSVC(C=-1).explain(*small)


def test_a_dataset_is_fitted_predicted_and_scored(small, model):
    x, y = small
    data = from_arrays(x, y)
    found = LinearSVC().fit(data)
    assert found.report_.sha256 == model.report_.sha256
    np.testing.assert_array_equal(found.predict(data), model.predict(x))
    assert found.score(data) == model.score(x, y)
    train, test = data.split(0.3)
    assert LinearSVC().fit(train).score(test) > 0.9
    target = x @ np.arange(6.0)
    regression = from_arrays(x, target, sample_weight=np.arange(len(y)) % 3)
    assert Ridge().fit(regression).score(regression) == pytest.approx(
        Ridge().fit(x, target, np.arange(len(y)) % 3).score(x, target, np.arange(len(y)) % 3)
    )


def test_rows_of_a_dataset_are_predicted_in_their_own_order(small, model):
    x, _ = small
    data = from_arrays(x).partition("random")
    np.testing.assert_allclose(model.decision_function(data), model.decision_function(x), rtol=1e-12)


def test_files_are_fitted_by_their_name(small, tmp_path):
    import pandas as pd

    x, y = small
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(6)]).assign(label=y)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    dump_svmlight_file(x, y, str(tmp_path / "t.svm"), zero_based=False)
    expected = LinearSVC(tol=1e-8).fit(x, y).coef_
    for name, label in (("t.csv", "label"), ("t.parquet", "label"), ("t.svm", None)):
        found = LinearSVC(tol=1e-8).fit(str(tmp_path / name), label)
        np.testing.assert_allclose(found.coef_, expected, rtol=1e-3, atol=1e-4)
        assert found.classes_.tolist() == [0, 1]
    assert LinearSVC().fit(tmp_path / "t.csv", "label").feature_names_in_.tolist() == [f"f{i}" for i in range(6)]


@pytest.mark.parametrize(
    "args, message",
    [
        (("a.svm", "label"), "y='label' is not possible: a libsvm file has the label in front of each row; write fit"),
        (("a.csv", None), "y=None is not possible: write the name of the label column: fit('a.csv', \"label\")"),
        (("a.csv.gz", 3), "y=3 is not possible: write the name of the label column"),
        (("a.txt", "y"), "the format of 'a.txt' cannot be told by its suffix (.svm, .libsvm, .svmlight, .csv, .parq"),
        (("a.csv", "y", [1.0]), "sample_weight belongs to arrays; name the column of weights in tutti.read_csv"),
    ],
    ids=str,
)
def test_a_file_name_without_sense_is_refused(args, message):
    with pytest.raises(InputError) as caught:
        LinearSVC().fit(*args)
    assert message in str(caught.value)


def test_a_dataset_brings_its_own_labels(small):
    data = from_arrays(*small)
    with pytest.raises(
        InputError, match=r"a Dataset brings its own labels and weights: write fit\(dataset\), without y"
    ):
        LinearSVC().fit(data, small[1])
    with pytest.raises(InputError, match="without sample_weight"):
        LinearSVC().fit(data, None, np.ones(569))


BAD = [
    (LinearSVC(C=0), "C=0 is not possible: write the inverse strength of the regularisation, a finite number > 0"),
    (LogisticRegression(C=-1.0), "C=-1.0 is not possible: write the inverse strength of the regularisation, a finite"),
    (LogisticRegression(C="1"), "C='1' is not possible: write the inverse strength"),
    (LogisticRegression(C=np.inf), "C=inf is not possible: write the inverse strength"),
    (Ridge(alpha=-1), "alpha=-1 is not possible: write the strength of the regularisation, a finite number >= 0"),
    (Ridge(tol=-1e-3), "tol=-0.001 is not possible: write a relative gap such as 1e-4, a finite number > 0"),
    (LinearSVC(tol=True), "tol=True is not possible: write a relative gap such as 1e-4"),
    (LinearSVC(max_iter=0), "max_iter=0 is not possible: write None (the solver's default) or a whole number of at"),
    (LinearSVC(n_shards=0), "n_shards=0 is not possible: write a whole number of at least 1 (the default is 8)"),
    (LinearSVC(n_shards=2.5), "n_shards=2.5 is not possible: write a whole number of at least 1"),
    (LinearSVC(fit_intercept=None), "fit_intercept=None is not possible: write True or False"),
    (Ridge(warm_start=1), "warm_start=1 is not possible: write True or False"),
    (
        LinearSVC(loss="hinges"),
        "loss='hinges' is not possible: expected 'squared_hinge' or 'hinge'; did you mean 'hinge'?",
    ),
    (LinearSVC(loss=3), "loss=3 is not possible: expected 'squared_hinge' or 'hinge'"),
    (
        LinearSVC(intercept_scaling=0),
        "intercept_scaling=0 is not possible: write the constant column, a finite number > 0",
    ),
    (LinearSVC(class_weight="even"), "class_weight='even' is not possible: write None, \"balanced\" or a dict"),
    (LinearSVC(class_weight={7: 1.0}), "class_weight={7: 1.0} is not possible: 7 is not among the classes 0, 1"),
    (LinearSVC(class_weight={0: 0}), "class_weight=0 is not possible: write one weight per class, a finite number > 0"),
    (LinearSVC(solver="newtom"), "solver='newtom' is not possible: expected 'auto' or one of"),
    (LinearSVC(solver="newtom"), "did you mean 'newton'?"),
    (
        LinearSVC(strategy="CoCoA"),
        "strategy='CoCoA' is not possible: write \"auto\" or an object such as tutti.AllReduce()",
    ),
    (LinearSVC(strategy=CoCoA), 'write "auto" or an object such as tutti.AllReduce()'),
    (
        LinearSVC(engine="threads"),
        "engine='threads' is not possible: write \"auto\" or an object such as tutti.Processes(2)",
    ),
    (LinearSVC(random_state="0"), "random_state='0' is not possible: write None, an int, or a numpy generator"),
    (LinearSVC(probability=2), "probability=2 is not possible: write True or False"),
    (LinearSVC(probability=True, n_shards=1), "n_shards=1 is not possible: probability=True holds out shards"),
]


@pytest.mark.parametrize("estimator, message", BAD, ids=[f"{e!r}-{i}" for i, (e, _) in enumerate(BAD)])
def test_bad_parameters_are_refused_in_fit_before_anything_starts(estimator, message, small, monkeypatch):
    from tutti.engines.threads import Threads

    monkeypatch.setattr(Threads, "launch", lambda *a: pytest.fail("something was started"))
    with pytest.raises(ParameterError) as caught:
        estimator.fit(*small)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "estimator, message",
    [
        (
            LinearSVC(loss="hinge", solver="lbfgs"),
            "solver='lbfgs' cannot minimise the hinge loss; use 'auto' or one of",
        ),
        (LinearSVC(solver="gram"), "solver='gram' cannot minimise the squared_hinge loss"),
        (Ridge(solver="newton"), "solver='newton' cannot minimise the squared loss"),
        (LinearRegression(solver="dual"), "solver='dual' needs a regularised problem"),
        (LinearSVC(solver="dual", strategy=AllReduce()), "AllReduce sums gradients, but DualCoordinateDescent offers"),
        (LinearSVC(solver="newton", strategy=CoCoA()), "CoCoA"),
    ],
    ids=repr,
)
def test_parts_that_do_not_fit_together_are_refused(estimator, message, small):
    with pytest.raises(PlanError) as caught:
        estimator.fit(*small)
    assert message in str(caught.value)


def test_three_classes_have_no_logistic_dual():
    with pytest.raises(PlanError, match="cannot minimise the multinomial loss"):
        LogisticRegression(solver="dual").fit(*dataset("iris"))


def test_a_class_without_weight_is_refused(small):
    x, y = small
    with pytest.raises(DataError, match="the sample weights of class 1 sum to zero: leave those rows out"):
        LogisticRegression().fit(x, y, (y == 0).astype(float))


def test_one_class_alone_is_refused(small):
    with pytest.raises(DataError, match="at least 2 classes"):
        LogisticRegression().fit(small[0], np.zeros(569))


def test_broken_values_are_found_in_fit_and_predict(small, model):
    x, y = small
    for bad, word in ((np.nan, "NaN"), (np.inf, "inf")):
        for make in (np.array, sp.csr_array):
            broken = x.copy()
            broken[41, 2] = bad
            with pytest.raises(DataError, match=word):
                LinearSVC().fit(make(broken), y)
            with pytest.raises(DataError, match=f"row 41, column 2: Input X contains {word}"):
                model.predict(make(broken))
    with pytest.raises(DataError, match="NaN"):
        Ridge().fit(x, np.where(np.arange(len(y)) == 3, np.nan, 1.0))


def test_a_wrong_width_is_said_as_scikit_learn_says_it(small, model):
    with pytest.raises(ValueError, match=r"^X has 3 features, but LinearSVC is expecting 6 features as input\.$"):
        model.predict(small[0][:, :3])
    with pytest.raises(ValueError, match="Reshape your data"):
        model.predict(small[0][0])


def test_a_column_of_labels_is_flattened_with_a_warning(small):
    x, y = small
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        found = LinearSVC().fit(x, y[:, None])
    assert found.report_.sha256 == LinearSVC().fit(x, y).report_.sha256


def test_feature_names_are_checked(small):
    import pandas as pd

    x, y = small
    frame = pd.DataFrame(x, columns=list("abcdef"))
    named, plain = LinearSVC().fit(frame, y), LinearSVC().fit(x, y)
    assert named.feature_names_in_.tolist() == list("abcdef")
    with pytest.warns(UserWarning, match="X does not have valid feature names, but LinearSVC was fitted with"):
        named.predict(x)
    with pytest.warns(UserWarning, match="X has feature names, but LinearSVC was fitted without feature names"):
        plain.predict(frame)
    with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
        named.predict(frame[list("bacdef")])
    with pytest.raises(
        ValueError, match=r"unseen at fit time:\n- x\nFeature names seen at fit time, yet now missing:\n- a\n"
    ):
        named.predict(frame.rename(columns={"a": "x"}))
    assert not hasattr(named.fit(x, y), "feature_names_in_")


@pytest.mark.parametrize("cls", [LogisticRegression, LinearSVC])
def test_class_weights_act_like_sample_weights(cls, small):
    x, y = small
    by_class = cls(class_weight={0: 3.0}, tol=1e-10).fit(x, y)
    by_row = cls(tol=1e-10).fit(x, y, np.where(y == 0, 3.0, 1.0))
    np.testing.assert_allclose(by_class.coef_, by_row.coef_, rtol=1e-4)


def test_a_warm_start_begins_where_the_last_fit_ended(small):
    x, y = small
    estimator = LogisticRegression(tol=1e-10, warm_start=True, solver="lbfgs").fit(x, y)
    first = estimator.n_iter_
    assert estimator.fit(x, y).n_iter_ < first
    with pytest.raises(InputError, match=r"warm_start=True continues from a model of 6 features and 1 outputs"):
        estimator.fit(x[:, :4], y)


def test_a_fit_that_stops_early_warns_with_the_numbers(small):

    with pytest.warns(exceptions.ConvergenceWarning, match=r"LogisticRegression stopped after 1 rounds at objective"):
        found = LogisticRegression(solver="lbfgs", max_iter=1, tol=1e-9).fit(*small)
    assert not found.report_.converged
    with pytest.warns(ConvergenceWarning, match=r"tol=1e-09 was asked for: raise max_iter=1, loosen tol"):
        LogisticRegression(solver="lbfgs", max_iter=1, tol=1e-9).fit(*small)


def test_a_fit_leaves_its_inputs_alone(small):
    x, y = small[0].copy(), small[1].copy()
    x.flags.writeable = y.flags.writeable = False
    LogisticRegression().fit(x, y)
    Ridge().fit(x, y)


def test_probabilities_are_exact_and_do_not_underflow(small):
    x, y = small
    found = LogisticRegression(C=1e3).fit(x, y)
    p = found.predict_proba(x)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), found.decision_function(x), rtol=1e-6)
    assert np.isfinite(found.predict_log_proba(x * 1e3)).all()
    three = LogisticRegression().fit(*dataset("iris"))
    np.testing.assert_allclose(three.predict_proba(dataset("iris")[0]).sum(axis=1), 1.0)
    assert abs(three.intercept_.sum()) < 1e-12


def test_a_fitted_estimator_is_pickled(small, model):
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(small[0]), model.predict(small[0]))
    assert str(again.report_) == str(model.report_)


def test_a_fit_can_be_saved_and_loaded(small, model, tmp_path):
    from tutti.estimators.store import load

    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    np.testing.assert_array_equal(again.decision_function(small[0]), model.decision_function(small[0]))
    assert again.report_.sha256 == model.report_.sha256


def test_no_warning_on_the_ordinary_path(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in (LogisticRegression, LinearSVC, Ridge, LinearRegression):
            cls().fit(*small).score(*small)
