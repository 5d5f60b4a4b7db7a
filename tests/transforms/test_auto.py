"""``compress="auto"``: what it measures, what it chooses, and what it says before and after."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

import tutti
from tutti.engines.processes import Processes
from tutti.runtime.link import measure, traffic_of
from tutti.testing.communicator import on_ranks, thread_ranks
from tutti.transforms.auto import CANDIDATES, SPEEDS, Link, break_even, choose, most_shards, name_of, seconds
from tutti.types import Cost

MBIT = 1e6 / 8


def traffic(n_values=6_250_000, n_shards=2, size=2, **more):
    seats = [range(n_shards * r // size, n_shards * (r + 1) // size) for r in range(size)]
    return dataclasses.replace(traffic_of(Cost(4 * n_values, itemsize=4), seats), **more)


def test_as_it_is_a_round_moves_what_the_communicator_counts():
    assert traffic(n_shards=8).plain_bytes() == 25e6
    assert traffic(n_shards=8, size=4).plain_bytes() == 2 * 25e6 * 3 / 4
    assert traffic(n_shards=3).plain_bytes() == 3 * 25e6 / 2, "a rank with two shards may send two partial sums"
    int8 = (tutti.Int8(),)
    assert traffic(n_shards=8).sent_bytes(int8) == 4 * int8[0].n_bytes(6_250_000, np.dtype("f4"))


@pytest.mark.parametrize(
    "mbit, latency, wanted",
    [(100_000, 1e-5, ()), (40_000, 1e-4, ()), (100, 0.02, CANDIDATES[2]), (1000, 0.001, CANDIDATES[2])],
)
def test_the_slower_the_link_the_less_is_sent(mbit, latency, wanted):
    assert choose(traffic(), Link(latency, mbit * MBIT)) == wanted


def test_a_less_faithful_form_must_save_much():
    slow = Link(1e-3, 100 * MBIT)
    slower_topk = {**SPEEDS, "TopK": (1e7, 1e7)}
    assert choose(traffic(), slow, slower_topk) == CANDIDATES[1]
    assert choose(traffic(), slow, {**slower_topk, "Int8": (1e7, 1e7)}) == CANDIDATES[0]
    assert choose(traffic(), slow, dict.fromkeys(SPEEDS, (1e6, 1e6))) == ()


def test_many_shards_are_many_payloads():
    many = traffic(n_shards=16)
    assert break_even(many, CANDIDATES[1]) == 0
    assert most_shards(many, CANDIDATES[1]) == 4
    assert break_even(traffic(n_shards=4), CANDIDATES[1]) > 0
    assert choose(traffic(n_shards=512), Link(1e-3, 100 * MBIT)) == ()


@pytest.mark.parametrize("chain", CANDIDATES, ids=name_of)
def test_at_the_break_even_both_take_the_same_time(chain):
    t = traffic()
    link = Link(0.0, break_even(t, chain))
    assert seconds(t, chain, link) == pytest.approx(seconds(t, (), link))
    assert seconds(t, chain, Link(0.0, link.bandwidth / 2)) < seconds(t, (), Link(0.0, link.bandwidth / 2))


def test_rows_that_travel_in_place_of_gradients_count():
    assert choose(traffic(n_bytes=100_000, row_bytes=400_000), Link(1e-3, 100 * MBIT)) == ()


class Slow:
    """A communicator over a link of 80 Mbit/s and 2 ms; one rank sees a link that is half as fast."""

    def __init__(self, comm):
        self._comm, self.rank, self.size = comm, comm.rank, comm.size

    def barrier(self):
        self._comm.barrier()

    def all_gather(self, payload):
        time.sleep((0.002 + len(payload) / 1e7) * (1 + self.rank))
        return self._comm.all_gather(payload)


def test_the_worst_link_that_any_rank_sees_is_found_by_all():
    found = on_ranks(thread_ranks, 2, lambda comm: measure(Slow(comm)))
    assert found[0] == found[1], "all decide the same"
    assert found[0].latency == pytest.approx(0.004, rel=0.5)
    assert found[0].bandwidth == pytest.approx(5e6, rel=0.3)


torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.estimators.nets import MLP, rows  # noqa: E402


def net(engine, compress="auto", **params):
    strategy = tutti.AllReduce(compress=compress)
    settings = {"epochs": 1, "batch_size": 100, "random_state": 0, "strategy": strategy, "engine": engine, **params}
    return tutti.NeuralNetClassifier(MLP, **settings)


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [tutti.Threads(1), tutti.Threads(2), tutti.Processes(2)], ids=repr)
def test_where_all_see_the_same_memory_it_is_off_and_nothing_changes(engine):
    auto, plain = net(engine).fit(*rows(MLP)), net(engine, None).fit(*rows(MLP))
    assert auto.report_.sha256 == plain.report_.sha256
    (note,) = auto.report_.notes
    assert note.startswith('compress="auto": off: the ranks see the same memory')
    assert note in str(auto.report_)


def test_over_sockets_it_measures_and_says_what_it_found():
    model = net(Processes(2, transport="gloo")).fit(*rows(MLP))
    (note,) = model.report_.notes
    assert "Mbit/s" in note


def test_explain_says_where_each_form_begins_to_pay():
    engine = Processes(2, transport="gloo")
    notes = net(engine, module__hidden=300).explain(*rows(MLP)).plan.notes
    assert any("measured when the run begins" in note for note in notes)
    assert any(note.startswith("(TopK(0.05), Int8(512)): 4 payloads of") and "Mbit/s" in note for note in notes)
    assert any(note.startswith("Int8(512)") and "never pays (n_shards=4 would save" in note for note in notes)
    (note,) = net(engine, tutti.TopK(0.02)).explain(*rows(MLP)).plan.notes
    assert "pays below about" in note
    (note,) = net(tutti.Processes(2), tutti.Int8()).explain(*rows(MLP)).plan.notes
    assert "nothing travels" in note


def test_a_job_file_writes_transforms_as_tables(tmp_path):
    from tutti.cli.job import JobError, read_job

    (tmp_path / "rows.csv").write_text("y,a\n1,2\n0,3\n")

    def job(line):
        text = '[data]\nformat = "csv"\npath = "rows.csv"\n[model]\ntype = "LinearSVC"\n'
        (tmp_path / "job.toml").write_text(f'{text}[strategy]\ntype = "AllReduce"\n{line}')
        return read_job(tmp_path / "job.toml").strategy.make().compress

    assert job("") is None
    assert job('compress = "auto"') == "auto"
    assert job('compress = { type = "Int8", block = 256 }') == tutti.Int8(256)
    two = job('compress = [{ type = "TopK", share = 0.01 }, { type = "Int8" }]')
    assert two == (tutti.TopK(0.01), tutti.Int8())
    for wrong, words in [
        ('compress = "int8"', "tutti.Int8"),
        ('compress = { type = "Gzip" }', "types: Half"),
        ('compress = { type = "Int8", bits = 4 }', "has the options block"),
        ('compress = [{ type = "Int8" }, { type = "TopK" }]', "first what selects"),
    ]:
        with pytest.raises(JobError, match=words):
            job(wrong)
