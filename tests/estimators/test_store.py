"""A model folder is complete, plain, atomic, and trusts nobody."""

from __future__ import annotations

import inspect
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

import tutti
from tutti._spec import Spec
from tutti.engines.hosts import Hosts
from tutti.errors import InputError, ModelError, ParameterError
from tutti.estimators import store
from tutti.estimators._base import NotFittedError
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.runtime.digest import model_sha256
from tutti.runtime.report import Report
from tutti.strategies.all_reduce import AllReduce
from tutti.strategies.local_sgd import LocalSGD
from tutti.strategies.parameter_server import ParameterServer
from tutti.strategies.replay import Replay
from tutti.strategies.server_optimizers import Adam
from tutti.transforms import Half, Int8, PowerSGD, TopK
from tutti.types import RankReport


def fitted(estimator, classes=("no", "yes"), d=4, names=None, dtype=None):
    """An estimator with made-up weights, as a fit would leave it."""
    rng = np.random.default_rng(0)
    if estimator._estimator_type == "regressor":
        estimator.coef_, estimator.intercept_ = rng.normal(size=d), 0.5
    else:
        k = 1 if len(classes) == 2 else len(classes)
        estimator.coef_, estimator.intercept_ = rng.normal(size=(k, d)), rng.normal(size=k)
        estimator.classes_ = np.array(classes, dtype=dtype)
    if names:
        estimator.feature_names_in_ = np.array(names, dtype=object)
    estimator.n_features_in_, estimator.n_iter_ = d, 7
    estimator.objective_, estimator.duality_gap_ = 12.5, 1e-4
    rank = RankReport(0, "host", 1, {"compute": 0.5}, 10, 7)
    sha = model_sha256(estimator._model_arrays())
    estimator.report_ = Report(1.5, {"compute": 0.5}, 10, 7, 0, sha, 12.5, 1e-4, True, (rank,))
    return estimator


def header_of(folder):
    return json.loads((folder / store.HEADER).read_text())


def rewrite(folder, **changes):
    header = {**header_of(folder), **changes}
    (folder / store.HEADER).write_text(json.dumps(header))


@pytest.fixture
def folder(tmp_path):
    fitted(LinearSVC(C=0.5)).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "estimator",
    [
        fitted(LogisticRegression(C=2.0, class_weight="balanced")),
        fitted(LogisticRegression(class_weight={1: 2.0, 2: 0.5, 3: 1.0}), classes=(1, 2, 3)),
        fitted(LinearSVC(loss="hinge", strategy=AllReduce()), classes=(False, True)),
        fitted(LinearSVC(), classes=("a", "b", "c"), dtype=object, names=list("wxyz")),
        fitted(LinearSVC(), classes=(0.5, 1.5), dtype=np.float32),
        fitted(Ridge(alpha=3)),
        fitted(LinearRegression(random_state=np.int64(3))),
    ],
    ids=lambda e: repr(e),
)
def test_load_gives_back_what_was_saved(estimator, tmp_path):
    estimator.save(tmp_path / "m")
    loaded = store.load(tmp_path / "m")
    assert type(loaded) is type(estimator)
    assert loaded.get_params() == estimator.get_params()
    np.testing.assert_array_equal(loaded.coef_, estimator.coef_)
    if hasattr(estimator, "classes_"):
        assert loaded.classes_.dtype == estimator.classes_.dtype
        assert loaded.classes_.tolist() == estimator.classes_.tolist()
    assert type(loaded.intercept_) is type(estimator.intercept_)
    assert (loaded.n_iter_, loaded.objective_, loaded.duality_gap_) == (7, 12.5, 1e-4)
    assert loaded.report_.sha256 == estimator.report_.sha256
    assert str(loaded.report_) == str(estimator.report_)


@pytest.mark.parametrize(
    "strategy",
    [
        AllReduce(compress=(TopK(0.1), Int8())),
        LocalSGD(4, "nesterov", compress=Half()),
        AllReduce(compress=PowerSGD(1)),
        ParameterServer(staleness=math.inf, server_optimizer=Adam(lr=0.1)),
        Replay("a record", to=3),
    ],
    ids=lambda s: type(s).__name__,
)
def test_strategies_come_back_with_all_that_they_hold(strategy, tmp_path):
    fitted(LogisticRegression(strategy=strategy, engine=Hosts(2))).save(tmp_path / "m")
    again = store.load(tmp_path / "m")
    assert again.strategy == strategy
    assert again.engine == Hosts(2)


def test_every_public_strategy_engine_and_transform_can_be_saved():
    classes = {name for name in tutti.__all__ if inspect.isclass(getattr(tutti, name))}
    wanted = {n for n in classes if issubclass(getattr(tutti, n), Spec) and n not in ("Checkpoint", "Dataset")}
    assert wanted <= store._SPECS.keys()


def test_the_header_is_plain_and_names_no_machine(folder):
    header = header_of(folder)
    assert header["format"] == "tutti-model"
    assert header["format_version"] == 1
    assert header["class"] == "LinearSVC"
    assert header["params"]["C"] == 0.5
    assert header["certificate"] == {"objective": 12.5, "duality_gap": 1e-4}
    assert "host" not in header["report"]["ranks"][0]
    assert "pid" not in header["report"]["ranks"][0]
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_an_infinite_gap_is_valid_json_and_comes_back(tmp_path):
    estimator = fitted(Ridge())
    estimator.duality_gap_ = float("inf")
    estimator.save(tmp_path / "m")
    assert "Infinity" not in (tmp_path / "m" / store.HEADER).read_text()
    assert store.load(tmp_path / "m").duality_gap_ == float("inf")


def test_class_weights_keep_the_type_of_their_keys(tmp_path):
    for weights in ({0: 1.0, 1: 2.0}, {"float": 2.0}, {"no": 1.0, "yes": 3.0}):
        fitted(LogisticRegression(class_weight=weights)).save(tmp_path / "m")
        assert store.load(tmp_path / "m").class_weight == weights


def test_saving_again_replaces_the_model_and_leaves_nothing_beside(folder):
    other = fitted(Ridge(alpha=9))
    other.save(folder)
    assert store.load(folder).alpha == 9
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_swap_that_the_filesystem_cannot_do_in_one_step_still_replaces(folder, monkeypatch):
    monkeypatch.setattr(store, "_exchange", lambda a, b: False)
    fitted(Ridge(alpha=9)).save(folder)
    assert store.load(folder).alpha == 9
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_model_and_nothing_beside(folder, monkeypatch):
    def broken(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(store, "write_durably", broken)
    with pytest.raises(OSError, match="disk full"):
        fitted(Ridge()).save(folder)
    assert type(store.load(folder)) is LinearSVC
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_path_through_a_link_replaces_what_the_link_names(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    fitted(Ridge(alpha=9)).save(link)
    assert link.is_symlink()
    assert store.load(folder).alpha == 9


def test_missing_parents_are_made_and_an_empty_folder_is_used(tmp_path):
    fitted(Ridge()).save(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    fitted(Ridge()).save(tmp_path / "empty")
    assert type(store.load(str(tmp_path / "empty"))) is Ridge


@pytest.mark.parametrize("kind", ["file", "folder", "other json"])
def test_what_is_not_a_model_is_never_overwritten(tmp_path, kind):
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("thesis")
    else:
        path.mkdir()
        (path / ("model.json" if kind == "other json" else "thesis.txt")).write_text("{}")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"precious exists and is not a tutti model; choose another path"):
        fitted(Ridge()).save(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_an_unfitted_estimator_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError, match="this Ridge is not fitted yet: call fit first"):
        Ridge().save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_live_objects_are_not_saved(tmp_path):
    with pytest.raises(ParameterError, match=r"random_state=.* a model folder holds plain values"):
        fitted(Ridge(random_state=np.random.RandomState(0))).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def flip_byte(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))


def test_a_flipped_byte_is_noticed(folder):
    flip_byte(folder / store.ARRAYS, -3)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: its SHA-256 is not the one in model\.json"):
        store.load(folder)


def test_a_truncated_array_file_is_noticed(folder):
    file = folder / store.ARRAYS
    size = file.stat().st_size
    os.truncate(file, size - 8)
    with pytest.raises(ModelError, match=rf"model\.safetensors is truncated: {size - 8} bytes, expected {size}"):
        store.load(folder)


def test_an_array_file_of_another_kind_is_refused(folder):
    import hashlib

    blob = b"not safetensors at all"
    (folder / store.ARRAYS).write_bytes(blob)
    rewrite(folder, arrays={"file": store.ARRAYS, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()})
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file"):
        store.load(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere is not a tutti model: it has no model\.json"):
        store.load(tmp_path / "nowhere")
    (folder / store.ARRAYS).unlink()
    with pytest.raises(ModelError, match=r"model is incomplete: model\.safetensors is missing"):
        store.load(folder)


@pytest.mark.parametrize("text", ["", "{", '{"format": "tutti-model"', "\xff"])
def test_a_broken_header_is_named(folder, text):
    (folder / store.HEADER).write_bytes(text.encode("latin1"))
    with pytest.raises(ModelError, match=r"model\.json is not valid JSON"):
        store.load(folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"format": "other"}'])
def test_another_json_file_is_not_a_model(folder, text):
    (folder / store.HEADER).write_text(text)
    with pytest.raises(ModelError, match=r'does not describe a tutti model \(no "format": "tutti-model"\)'):
        store.load(folder)


def test_a_newer_format_asks_for_an_upgrade(folder):
    rewrite(folder, format_version=2, tutti_version="9.1")
    wanted = r"written by tutti 9\.1, format 2; this library reads up to format 1: upgrade tutti"
    with pytest.raises(ModelError, match=wanted):
        store.load(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"class": "os.system"}, "class 'os.system' is none of LogisticRegression, LinearRegression, Ridge, LinearSVC"),
        ({"class": None}, "expected 'class' to be a str, came None"),
        ({"format_version": True}, "expected 'format_version' to be a int, came True"),
        ({"params": {"gamma": 1}}, "LinearSVC has no parameter 'gamma'"),
        (
            {"params": {"strategy": {"object": "Popen", "params": {}}}},
            "'Popen' is none of the objects a model may hold",
        ),
        ({"params": {"strategy": {"object": "AllReduce", "params": {"x": 1}}}}, "not what save writes"),
        ({"params": {"C": {"float": "one"}}}, "not what save writes"),
        ({"class": "Ridge", "params": {}}, "Ridge and the classes of the model do not fit together"),
        ({"n_features": 5}, r"the array 'coef' has shape (1, 4), expected (1, 5)"),
        ({"classes": {"dtype": "<i8", "values": [1, 2, 3]}}, "the array 'coef' has shape (1, 4), expected (3, 4)"),
        ({"classes": {"dtype": "<i8", "values": [1, None]}}, "the classes are no strings or numbers"),
        ({"classes": {"dtype": "V8", "values": []}}, "the classes are no strings or numbers"),
        ({"classes": None}, "LinearSVC and the classes of the model do not fit together"),
        ({"feature_names": ["a"]}, "1 feature names for 4 features"),
        ({"report": {}}, "not what save writes"),
        ({"certificate": []}, "not what save writes"),
        ({"arrays": {}}, "expected 'bytes' to be a int, came nothing"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_caught(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ModelError) as caught:
        store.load(folder)
    assert message in str(caught.value)
    assert "model" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["class", "params", "arrays", "n_features", "classes", "n_iter", "certificate", "report"]
)
def test_a_header_without_a_key_is_caught(folder, key):
    header = header_of(folder)
    del header[key]
    (folder / store.HEADER).write_text(json.dumps(header))
    with pytest.raises(ModelError):
        store.load(folder)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    estimator = fitted(Ridge())
    estimator.coef_[1] = np.nan
    estimator.save(tmp_path / "m")
    with pytest.raises(ModelError, match="'coef' must be finite float64"):
        store.load(tmp_path / "m")


def test_the_sigmoid_travels_and_its_shape_is_checked(tmp_path):
    estimator = fitted(LinearSVC(probability=True), classes=(0, 1, 2))
    estimator.sigmoid_ = np.array([[-1.0, 0.1], [-2.0, 0.0], [-1.5, 0.2]])
    estimator.save(tmp_path / "m")
    x = np.random.default_rng(1).normal(size=(9, 4))
    np.testing.assert_array_equal(store.load(tmp_path / "m").predict_proba(x), estimator.predict_proba(x))
    estimator.sigmoid_ = estimator.sigmoid_[:2]
    estimator.save(tmp_path / "m")
    with pytest.raises(ModelError, match=r"'sigmoid' has shape \(2, 2\), expected \(3, 2\)"):
        store.load(tmp_path / "m")
