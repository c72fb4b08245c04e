"""What the benchmark of events makes of its measurements."""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.event_load import Load, events_of
from benchmarks.events import Report, as_json, shown
from benchmarks.pool_memory import PoolMemory, PoolWatch

_MEMORY = PoolMemory(120.0, 100.0, 98.0, 99.0)


def _report(**rates: list[float]) -> Report:
    given = {"no-op": [1_000.0], "single": [600.0], "batched": [8_000.0], "endpoint": [800.0]} | {
        name.replace("_", "-"): values for name, values in rates.items()
    }
    return Report("PostgreSQL 18", 8, dict.fromkeys(given, 10), given, _MEMORY, 1.0)  # type: ignore[arg-type]


def test_both_goals_are_met_at_their_borders() -> None:
    report = _report()
    assert (report.batched_to_endpoint, report.single_to_noop, report.goals_met) == (10.0, 0.6, True)
    assert shown(report).count("met)") == 2
    assert as_json(report)["goals_met"] is True


@pytest.mark.parametrize("slow", [{"batched": [7_999.0]}, {"single": [599.0]}])
def test_either_goal_can_be_missed(slow: dict[str, list[float]]) -> None:
    report = _report(**slow)
    assert not report.goals_met
    assert shown(report).count("MISSED") == 1


def test_the_median_counts() -> None:
    assert _report(single=[1.0, 700.0, 10_000.0]).single_to_noop == 0.7


def test_a_load_is_of_all_three_kinds_and_the_same_for_the_same_seed() -> None:
    load = Load("single", 200, 10, uuid4(), "", "", home=Path(), seed=1)
    one, again, other = (events_of(load, number) for number in (0, 0, 1))
    kinds = {(event.metric is None, event.event_type, event.log is None) for event in one}
    assert len(kinds) == 3
    facts = [[event.model_dump(exclude={"event_id"}) for event in events] for events in (one, again, other)]
    assert facts[0] == facts[1] != facts[2]


def test_memory_is_seen_from_outside() -> None:
    looks = []

    def pool() -> list[int]:
        looks.append(os.getpid())
        return looks[-1:]

    def wait_for_looks(count: int) -> None:
        while len(looks) <= count:  # one more has begun: those before it are over
            time.sleep(0.01)

    with PoolWatch(pool) as watch:
        wait_for_looks(1)
        ballast = bytearray(64 << 20)
        ballast[::4096] = b"x" * len(ballast[::4096])
        wait_for_looks(2 * len(looks))  # as many as before, so that the last fifth has seen it
    memory = watch.memory()
    assert memory.peak_anonymous > memory.first_anonymous + 50
    assert memory.growth > 50
    assert memory.peak_rss >= memory.peak_anonymous
    del ballast
