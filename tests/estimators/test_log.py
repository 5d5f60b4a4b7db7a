"""Where a training is told of: lines, TensorBoard's event files, MLflow."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import struct

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tutti  # noqa: E402
from tests.estimators.nets import MLP, rows  # noqa: E402
from tutti.errors import InputError, ParameterError  # noqa: E402
from tutti.estimators._log import EpochLog  # noqa: E402
from tutti.estimators.neural import NeuralNetClassifier  # noqa: E402
from tutti.types import Round  # noqa: E402

try:  # here and not in a test: it sets environment variables, and tests leave nothing behind
    import mlflow
    import polars  # noqa: F401
except ImportError:
    mlflow = None


def net(**params):
    return NeuralNetClassifier(MLP, **{"batch_size": 100, "epochs": 2, "random_state": 0, **params})


def crc32c(data):
    """Bit by bit, as the polynomial is defined."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def fields(message):
    """The fields of a protocol buffer as (number, value), whatever they mean."""
    at = 0

    def varint():
        nonlocal at
        n = shift = 0
        while True:
            byte = message[at]
            at += 1
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size


def events(path):
    """(step, {tag: value}) of every event of an event file, with all its checksums checked."""
    data, found = path.read_bytes(), []
    while data:
        (size,), (crc,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert crc == masked(data[:8])
        event, data = data[12 : 12 + size], data[12 + size :]
        assert struct.unpack("<I", data[:4]) == (masked(event),)
        data = data[4:]
        parts = dict(fields(event))
        if 3 in parts:
            assert parts[3] == b"brain.Event:2"
        else:
            values = [dict(fields(value)) for _, value in fields(parts[5])]
            found.append((parts[2], {v[1].decode(): struct.unpack("<f", v[2])[0] for v in values}))
    return found


def test_the_checksum_of_the_test_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283


def test_event_files_hold_every_epoch(tmp_path):
    made = net(log=f"tensorboard:{tmp_path / 'runs' / 'first'}", validation=0.2).fit(*rows(MLP))
    (path,) = (tmp_path / "runs" / "first").iterdir()
    found = events(path)
    assert [step for step, _ in found] == [h["step"] for h in made.history_]
    for (_, values), history in zip(found, made.history_, strict=True):
        assert values.keys() == {"epoch", "loss", "lr", "valid_loss", "valid_accuracy"}
        assert all(values[k] == np.float32(history[k]) for k in values)


def test_numbers_beyond_float32_and_large_steps_are_written(tmp_path):
    with EpochLog(f"tensorboard:{tmp_path}") as log:
        log(Round(2**40, 0.1, 1e300, math.inf, 1.0, metrics={"valid_loss": math.nan}))
    ((step, values),) = events(next(tmp_path.iterdir()))
    assert step == 2**40
    assert values["loss"] == math.inf
    assert math.isnan(values["valid_loss"])


def test_tensorboard_reads_them_itself(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    with EpochLog(f"tensorboard:{tmp_path}") as log:
        for step in (11, 22):
            log(Round(step, 0.1, 1 / step, math.inf, step / 11, metrics={"lr": 0.5}))
    found = reader.EventAccumulator(str(tmp_path)).Reload()
    assert set(found.Tags()["scalars"]) == {"epoch", "loss", "lr"}
    assert [(e.step, np.float32(e.value)) for e in found.Scalars("loss")] == [
        (11, np.float32(1 / 11)),
        (22, np.float32(1 / 22)),
    ]


def test_several_places_are_told_the_same(tmp_path):
    made = net(log=[tmp_path / "a.jsonl", str(tmp_path / "a.csv"), f"tensorboard:{tmp_path / 'tb'}"]).fit(*rows(MLP))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    losses = [h["loss"] for h in made.history_]
    assert [line["loss"] for line in lines] == [float(row["loss"]) for row in table] == losses
    assert len(events(next((tmp_path / "tb").iterdir()))) == 2


def test_train_has_logs_too(tmp_path):
    def loss(module, batch):
        return torch.nn.functional.cross_entropy(module(batch["x"]), batch["y"])

    tutti.train(MLP, loss, rows(MLP), epochs=2, log=f"tensorboard:{tmp_path}")
    assert len(events(next(tmp_path.iterdir()))) == 2


@pytest.mark.parametrize("log", ["run.txt", "runs", "tensorboard:", "mlflow:", 3, ["a.csv", "b.doc"], "wandb:x"])
def test_a_place_that_is_unknown_is_refused_before_the_training(log, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"tensorboard:"):
        net(log=log).fit(*rows(MLP))
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_refused_before_the_training(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError):
        net(log=["a.csv", f"tensorboard:{tmp_path / 'taken'}"][1:]).fit(*rows(MLP))


def test_a_place_that_fails_on_the_way_does_not_end_the_training(tmp_path):
    class Full:
        def write(self, text):
            raise OSError("disk full")

        def close(self):
            pass

    with EpochLog([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) as log:
        log._sinks[0]._file.close()
        log._sinks[0]._file = Full()
        with pytest.warns(RuntimeWarning, match=r"a\.jsonl failed \(OSError: disk full\); training goes on without it"):
            log(Round(1, 0.1, 1.0, math.inf, 1.0))
        log(Round(2, 0.1, 1.0, math.inf, 2.0))
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 2


def test_without_mlflow_the_way_out_is_said():
    if importlib.util.find_spec("mlflow") is not None:
        pytest.skip("mlflow is installed")
    with pytest.raises(ParameterError, match="MLflow is not installed: pip install mlflow-skinny"):
        net(log="mlflow").fit(*rows(MLP))


@pytest.mark.skipif(mlflow is None, reason="mlflow is not installed")
def test_mlflow_gets_parameters_and_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    made = net(log="mlflow:digits", lr=0.01, module__hidden=8).fit(*rows(MLP))
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert mlflow.active_run() is None
    assert run.info.status == "FINISHED"
    expected = {"module": "MLP", "lr": "0.01", "module__hidden": "8", "patience": "None"}
    assert expected.items() <= run.data.params.items()
    found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert found == [(h["step"], h["loss"]) for h in made.history_]


@pytest.mark.skipif(mlflow is None, reason="mlflow is not installed")
def test_an_mlflow_store_that_cannot_be_reached_is_said_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://store")
    with pytest.raises(InputError, match="MLflow cannot begin a run at 'nosuch://store'"):
        net(log=["mlflow", tmp_path / "a.csv"]).fit(*rows(MLP))
