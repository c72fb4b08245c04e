"""When a silent pool counts as hung; the seconds are made up, so nothing waits."""

from __future__ import annotations

from worker.watchdog import Silence


def test_a_canary_that_nobody_begins_is_overdue_after_the_patience() -> None:
    silence = Silence(30.0, now=0.0)
    silence.taken("one", 10.0)
    assert silence.overdue(40.0) == ""
    assert "no process of the pool has begun it" in silence.overdue(40.1)


def test_canaries_that_are_begun_are_no_silence() -> None:
    silence = Silence(30.0, now=0.0)
    for moment in range(10, 1000, 10):
        silence.taken(str(moment), float(moment))
        assert silence.overdue(moment + 9.0) == ""
        silence.begun(str(moment))


def test_one_stuck_canary_is_overdue_although_others_are_begun() -> None:
    """A part of the pool hangs: whatever is given to it would wait for ever."""
    silence = Silence(30.0, now=0.0)
    silence.taken("stuck", 5.0)
    for moment in (10.0, 20.0, 30.0):
        silence.taken("fine", moment)
        silence.begun("fine")
    assert silence.overdue(36.0)


def test_a_worker_that_takes_no_canary_is_overdue_after_the_patience() -> None:
    """Its main loop hangs, not its pool."""
    silence = Silence(30.0, now=0.0)
    silence.taken("one", 10.0)
    silence.begun("one")
    assert silence.overdue(40.0) == ""
    assert "has taken no canary" in silence.overdue(40.1)


def test_an_excuse_begins_the_patience_anew_for_both() -> None:
    """A broker that was away, a machine that was stopped, a pool at work: then nothing can be told."""
    silence = Silence(30.0, now=0.0)
    silence.taken("stuck", 5.0)
    silence.excuse(100.0)
    assert silence.overdue(130.0) == ""
    assert silence.overdue(130.1)
