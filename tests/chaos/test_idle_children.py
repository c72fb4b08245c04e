"""A pool whose processes are stopped or killed while they idle: it goes on, or its worker ends and is started anew.

Celery's prefork pool gives each process a pipe of its own, so no process can hold a lock that the others wait for; what
hangs a pool for certain is that all of its processes are there, and none of them answers.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.evidence import SEED, Evidence
from tests.chaos.faults import Run, hub_settings, hub_under_traffic
from tests.chaos.traffic import wait_until
from tests.servers import valkey_server

_BAR_SECONDS = 60.0


def hang(run: Run) -> tuple[int, float, float]:
    """Stop every process of the only worker's pool: how many; seconds until the canary told, and until an answer."""
    before = run.count("watchdog.leaving")
    pool = run.fleet.pool()
    for pid in pool:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    run.note_answers()
    wait_until("word of the watchdog", lambda: run.count("watchdog.leaving") > before, 2 * _BAR_SECONDS)
    seen = time.monotonic() - began
    run.wait_for_answers(1, 2 * _BAR_SECONDS)
    return len(pool), seen, time.monotonic() - began


def hang_again_and_again(times: int, folder: Path, evidence: Evidence, **settings: Any) -> None:
    """One worker, its pool hung so many times under traffic, each time until it was replaced."""
    stopped, seen, restarted = 0, [], []
    with (
        valkey_server(folder) as broker,
        hub_under_traffic(hub_settings(folder, broker.url, **settings), folder, workers=1) as run,
    ):
        for _ in range(times):
            processes, seen_after, restarted_after = hang(run)
            stopped += processes
            seen.append(seen_after)
            restarted.append(restarted_after)
        outcome = run.end(90)
        restarts, patience = run.fleet.restarts, run.settings.watchdog_seconds
    evidence(
        "idle_child",
        f"a pool stopped whole, a patience of {patience:g} s",
        kills=stopped,
        hangs=times,
        workers_restarted=restarts,
        seen_after_seconds=round(max(seen), 1),
        restarted_after_seconds=round(max(restarted), 1),
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert restarts >= times
    assert max(seen) <= _BAR_SECONDS


@pytest.mark.slow
def test_a_hung_pool_is_seen_and_its_worker_started_anew(tmp_path: Path, evidence: Evidence) -> None:
    hang_again_and_again(1, tmp_path, evidence, watchdog_seconds=6.0)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hung_pool_is_seen_within_a_minute_by_default(tmp_path: Path, evidence: Evidence) -> None:
    hang_again_and_again(3, tmp_path, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pool_whose_processes_are_killed_again_and_again_never_stays_silent(
    tmp_path: Path, evidence: Evidence
) -> None:
    """One, or all at once, idle or just given something to do: now and then that hangs a pool for good."""
    draw = random.Random(f"idle children {SEED}")
    kills, longest = 0, 0.0
    with (
        valkey_server(tmp_path) as broker,
        hub_under_traffic(hub_settings(tmp_path, broker.url, max_attempts=100), tmp_path, workers=1) as run,
    ):
        while kills < 60:
            pool = run.fleet.pool()
            for pid in pool if draw.random() < 0.3 else pool[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
            if draw.random() < 0.5:
                longest = max(longest, run.wait_for_answers(1, 3 * _BAR_SECONDS))
            else:
                time.sleep(draw.uniform(0, 0.3))
        longest = max(longest, run.wait_for_answers(1, 3 * _BAR_SECONDS))
        outcome = run.end(90)
        restarts, hangs = run.fleet.restarts, run.count("watchdog.leaving")
    evidence(
        "idle_child",
        "a pool killed one by one and whole",
        kills=kills,
        hangs=hangs,
        workers_restarted=restarts,
        longest_without_an_answer=round(longest, 1),
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert kills >= 60
