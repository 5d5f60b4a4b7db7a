"""Who is to blame, on the virtual clock."""

from __future__ import annotations

from tutti.clock import VirtualClock
from tutti.engines._judge import Done, Exited, Judge, Raised, Returned, Sign, Silent


def watch(judge: Judge, clock: VirtualClock, seconds: float, beats: dict[int, bool], waits: bool = True) -> object:
    """Look four times a second; ranks whose ``beats`` is True show a new sign at each look."""
    for k in range(int(seconds * 4)):
        clock.advance(0.25)
        for rank, alive in beats.items():
            judge.hear(Sign(rank, k + 1000 * round(clock.now()) if alive else -1))
        verdict = judge.look(clock.now(), waits)
        if verdict is not None:
            return verdict
    return None


def test_a_silent_rank_is_named_when_its_time_is_up_and_not_before() -> None:
    clock = VirtualClock()
    judge = Judge(3, timeout_seconds=10.0, now=clock.now())
    assert watch(judge, clock, 10.0, {0: True, 1: False, 2: True}) is None
    verdict = watch(judge, clock, 1.0, {0: True, 1: False, 2: True})
    assert isinstance(verdict, Silent)
    assert verdict.rank == 1
    assert 10.0 < verdict.seconds <= 11.0


def test_the_most_silent_rank_is_named() -> None:
    clock = VirtualClock()
    judge = Judge(2, timeout_seconds=5.0, now=clock.now())
    watch(judge, clock, 2.0, {0: True, 1: False})
    verdict = watch(judge, clock, 9.0, {0: False, 1: False})
    assert isinstance(verdict, Silent)
    assert verdict.rank == 1


def test_time_in_which_the_judge_did_not_look_blames_nobody() -> None:
    clock = VirtualClock()
    judge = Judge(2, timeout_seconds=10.0, now=clock.now(), look_seconds=0.5)
    watch(judge, clock, 1.0, {0: True, 1: True})
    clock.advance(3600.0)  # the lid of the laptop was closed
    assert judge.look(clock.now()) is None
    assert isinstance(watch(judge, clock, 11.0, {0: True, 1: False}), Silent)


def test_nobody_is_silent_while_nobody_waits() -> None:
    clock = VirtualClock()
    judge = Judge(2, timeout_seconds=1.0, now=clock.now())
    assert watch(judge, clock, 100.0, {0: False, 1: False}, waits=False) is None


def test_a_rank_that_waits_or_has_not_begun_is_excused() -> None:
    judge = Judge(2, timeout_seconds=1.0, now=0.0)
    for k in range(100):
        judge.hear(Sign(0, 7, excused=True))
        judge.hear(Sign(1, k))
        assert judge.look(k * 0.25) is None


def test_a_rank_that_came_back_is_not_silent() -> None:
    judge = Judge(2, timeout_seconds=1.0, now=0.0)
    judge.hear(Sign(0, 1))
    judge.hear(Returned(0))
    for k in range(100):
        judge.hear(Sign(1, k))
        assert judge.look(k * 0.25) is None
    judge.hear(Returned(1))
    assert judge.look(30.0) == Done()


def test_the_first_cause_is_blamed_and_not_those_who_were_stopped() -> None:
    judge = Judge(3, timeout_seconds=1.0, now=0.0)
    judge.hear(Raised(0, True, "aborted"))
    assert judge.look(0.1) is None
    judge.hear(Exited(2, -9))
    assert judge.look(0.2) == Exited(2, -9)


def test_of_faults_found_together_the_lowest_rank_is_blamed() -> None:
    judge = Judge(3, timeout_seconds=1.0, now=0.0)
    judge.hear(Raised(2, False, "two"))
    judge.hear(Raised(1, False, "one"))
    assert judge.look(0.1) == Raised(1, False, "one")


def test_ranks_stopped_by_nobody_known_still_end_the_run() -> None:
    judge = Judge(2, timeout_seconds=1.0, now=0.0)
    judge.hear(Raised(0, True, "aborted"))
    judge.hear(Returned(1))
    assert judge.look(0.1) == Raised(0, True, "aborted")


def test_the_end_of_a_process_that_has_given_its_value_is_no_fault() -> None:
    judge = Judge(2, timeout_seconds=1.0, now=0.0)
    judge.hear(Returned(0))
    judge.hear(Exited(0, 0))
    judge.hear(Returned(1))
    assert judge.look(0.1) == Done()
