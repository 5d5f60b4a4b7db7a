"""The recorded order of updates: one process can repeat whatever several workers did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutti.errors import InputError
from tutti.strategies._order import ENTRY, NEVER, TORN, Apply, Item, Read, schedule

Entry = tuple[int, int, int, int, int]


def run(n_workers: int, n_steps: int, n_ranges: int, choices: list[int]) -> tuple[list[Entry], list[int]]:
    """Play workers that read and move ranges one at a time, in the order of ``choices``; return log and model."""
    model, versions, entries = [0] * n_ranges, [0] * n_ranges, []
    todo = {w: [(t, w) for t in range(n_steps)] for w in range(n_workers)}
    seen: dict[int, list[tuple[int, int]]] = {w: [] for w in todo}
    at = dict.fromkeys(todo, 0)
    k = 0
    while any(todo.values()):
        w = [w for w in todo if todo[w]][choices[k % len(choices)] % sum(map(bool, todo.values()))]
        k += 1
        step, part = todo[w][0]
        if len(seen[w]) < n_ranges:
            where = len(seen[w])
            seen[w].append((versions[where], model[where]))
            continue
        where = (at[w] + w) % n_ranges
        entries.append((step, part, where, seen[w][where][0], versions[where]))
        model[where] = moved(model[where], step, part, [value for _, value in seen[w]])
        versions[where] += 1
        at[w] += 1
        if at[w] == n_ranges:
            todo[w].pop(0)
            seen[w], at[w] = [], 0
    return entries, model


def moved(value: int, step: int, part: int, seen: list[int]) -> int:
    return hash((value, step, part, *seen))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.lists(st.integers(0, 11), min_size=1, max_size=80))
def test_the_schedule_repeats_what_the_workers_did(workers: int, steps: int, ranges: int, choices: list[int]) -> None:
    entries, model = run(workers, steps, ranges, choices)
    mixed = log(*entries)[np.random.default_rng(0).permutation(len(entries))]
    again, kept = repeat([mixed[mixed["part"] == w] for w in range(workers)], [0] * ranges)
    assert again == model
    assert kept <= 2 * workers  # copies of the model at once: an item of each worker, and the one after it


def repeat(logs: list[np.ndarray], base: list[int], whole: bool = True) -> tuple[list[int], int]:
    """Return the model that the schedule leads to, and how many items were under way at most."""
    again, seen, kept = [0] * len(base), dict[Item, dict[int, int]](), 0
    for move in schedule(logs, base, whole):
        if isinstance(move, Read):
            seen.setdefault(move.item, {})[move.range] = again[move.range]
            kept = max(kept, len(seen))
        else:
            found = [seen[move.item][i] for i in range(len(base))]
            again[move.range] = moved(again[move.range], *move.item[:2], found)
            if move.last:
                del seen[move.item]
    assert not whole or not seen
    return again, kept


def log(*entries: Entry) -> np.ndarray:
    return np.array(list(entries), ENTRY)


def test_one_item_is_read_then_applied() -> None:
    assert list(schedule([log((0, 0, 0, 0, 0))], [0])) == [Read(Item(0, 0), 0), Apply(Item(0, 0), 0, True)]


def test_versions_go_on_from_an_earlier_pause() -> None:
    first, second = log((0, 0, 0, 0, 0), (0, 0, 1, 0, 0)), log((1, 0, 0, 1, 1), (1, 0, 1, 1, 1))
    whole, _ = repeat([np.concatenate([first, second])], [0, 0])
    assert whole == [moved(moved(0, 0, 0, [0, 0]), 1, 0, [moved(0, 0, 0, [0, 0])] * 2)] * 2
    assert len(list(schedule([second], [1, 1]))) == 4


def test_what_a_lost_worker_had_begun_another_one_ends() -> None:
    lost = log((0, 0, 0, 0, 0), (0, 0, 1, 0, NEVER))  # it moved range 0; what it had read of range 1 is known
    other = log((0, 1, 1, 0, 0), (0, 1, 0, 1, 1), (0, 0, 0, 2, NEVER), (0, 0, 1, 1, 1))
    a = [moved(0, 0, 0, [0, 0]), moved(0, 0, 1, [moved(0, 0, 0, [0, 0]), 0])]
    a[0] = moved(a[0], 0, 1, [a[0], 0])
    a[1] = moved(a[1], 0, 0, a)
    assert repeat([lost, other], [0, 0])[0] == a


def test_a_run_that_was_cut_short_is_repeated_as_far_as_it_is_known() -> None:
    cut = log((0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (1, 0, 0, 1, 1))  # of step 1 nobody knows what it read of range 1
    assert repeat([cut], [0, 0], whole=False)[0] == [moved(0, 0, 0, [0, 0])] * 2


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([(0, 0, 0, 0, 1)], "gaps"),
        ([(0, 0, 0, 1, 0)], "came later"),
        ([(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)], "twice"),
        ([(0, 0, 0, 0, 0), (1, 0, 0, 0, 0)], "twice"),
        ([(0, 0, 0, 0, 0), (0, 0, 0, 1, NEVER)], "two readings"),
        ([(0, 0, 2, 0, 0)], "two readings of range 2 of 2"),
        ([(0, 0, 0, 0, 0)], "lacks what was read"),
        ([(0, 0, 0, 0, TORN), (0, 0, 1, 0, 0)], "in the middle of a move of range 0"),
        ([(0, 0, 0, 0, 0), (1, 0, 0, 1, 1), (1, 0, 1, 0, 0), (0, 0, 1, 1, 1)], "contradict"),
    ],
)
def test_a_record_that_no_run_can_have_left_is_refused(entries: list[Entry], why: str) -> None:
    with pytest.raises(InputError, match=why):
        list(schedule([log(*entries)], [0, 0]))


def test_an_entry_takes_16_bytes() -> None:
    assert ENTRY.itemsize == 16
