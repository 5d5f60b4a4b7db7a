"""The recorded order of updates: one process can repeat whatever several workers did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutti.errors import InputError
from tutti.strategies._order import ENTRY, Apply, Item, Read, schedule

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
    log = np.array(entries, ENTRY)
    again, seen = [0] * ranges, {}
    kept = 0
    for move in schedule(log[np.random.default_rng(0).permutation(len(log))]):
        if isinstance(move, Read):
            seen.setdefault(move.item, {})[move.range] = again[move.range]
            kept = max(kept, len(seen))
        else:
            found = seen[move.item]
            again[move.range] = moved(again[move.range], *move.item, [found[i] for i in range(ranges)])
            if move.last:
                del seen[move.item]
    assert again == model
    assert not seen
    assert kept <= 2 * workers  # copies of the model at once: an item of each worker, and the one after it


def test_one_item_is_read_then_applied() -> None:
    log = np.array([(0, 0, 0, 0, 0)], ENTRY)
    assert list(schedule(log)) == [Read(Item(0, 0), 0), Apply(Item(0, 0), 0, True)]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([(0, 0, 0, 0, 1)], "gaps"),
        ([(0, 0, 0, 1, 0)], "came later"),
        ([(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)], "twice"),
        ([(0, 0, 0, 0, 0), (1, 0, 0, 1, 1), (1, 0, 1, 0, 0), (0, 0, 1, 1, 1)], "contradict"),
    ],
)
def test_a_record_that_no_run_can_have_left_is_refused(entries: list[Entry], why: str) -> None:
    with pytest.raises(InputError, match=why):
        list(schedule(np.array(entries, ENTRY)))


def test_an_entry_takes_16_bytes() -> None:
    assert ENTRY.itemsize == 16
