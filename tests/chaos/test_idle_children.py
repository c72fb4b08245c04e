"""A pool whose processes are stopped or killed while they idle: it goes on, or its worker ends and is started anew.

Celery's prefork pool gives each process a pipe of its own, so no process can hold a lock that the others wait for; what
hangs a pool for certain is that all of its processes are there, and none of them begins anything. One that is stopped
in the middle of a task is another matter: it may be at a long aggregation, until its time limit.
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

from fedqueue import Client
from tests.chaos.evidence import SEED, Evidence
from tests.chaos.facts import read_facts
from tests.chaos.faults import hub_settings, hub_under_traffic
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.traffic import settled, wait_until
from tests.servers import valkey_server
from worker.bootstrap import HubCelery

_BAR_SECONDS = 60.0


def stop_idle_pool(fleet: Fleet) -> int:
    """Stop every process of the only worker's pool at a moment when none has a task; how many."""
    with HubCelery(fleet.settings) as app:
        for _ in range(200):
            pool = fleet.pool()
            for pid in pool:
                os.kill(pid, signal.SIGSTOP)
            # The main loop answers, whatever its pool does.
            active = app.control.inspect(destination=fleet.names, timeout=5.0).active() or {}
            if pool and active and not any(active.values()):
                return len(pool)
            for pid in pool:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
    raise AssertionError("the pool was never idle")


def hang_again_and_again(times: int, folder: Path, evidence: Evidence, **settings: Any) -> None:
    """One worker, its idle pool hung so many times, each time with something to do that it does not begin."""
    stopped, seen, restarted = 0, [], []
    accepted: list[Accepted] = []
    with valkey_server(folder) as broker:
        chosen = hub_settings(folder, broker.url, **settings)
        with (
            fleet_running(chosen, folder / "logs", workers=1) as fleet,
            Client(chosen.broker_url, chosen.result_url, resend_after=1.0) as hub,
        ):
            model = hub.create_model(initial=[[0.0]], requirement=None, allow_repeats=True).model_id
            client = hub.register_client(model).client_id
            for hang in range(1, times + 1):
                stopped += stop_idle_pool(fleet)
                began = time.monotonic()
                for number in range(1, 6):
                    # Nobody sends these again.
                    sent = hub.submit_update(model, client, [[1.0]], num_examples=number, wait=False)
                    accepted.append(Accepted(sent, number))
                told = "watchdog.leaving"
                wait_until("word of the watchdog", lambda: fleet.said().count(told) >= hang, 3 * _BAR_SECONDS)  # noqa: B023
                seen.append(time.monotonic() - began)
                last = hub.submit_update(model, client, [[1.0]], num_examples=7, timeout=180)
                accepted.append(Accepted(last.submission_id, 7))
                restarted.append(time.monotonic() - began)
            # What the worker gave back may stand behind the last one, which is counted before it has come in.
            wait_until(
                "row of every update",
                lambda: len(read_facts(chosen.database_url).updates) == len(accepted),
                2 * _BAR_SECONDS,
            )
            facts, took = settled(chosen.database_url, 120)
            restarts = fleet.restarts
    wrong = [*violations(facts, quiet=True), *unaccounted(facts, accepted)]
    evidence(
        "idle_child",
        f"a pool stopped whole, a patience of {chosen.watchdog_seconds:g} s",
        violations=len(wrong),
        updates=len(accepted),
        kills=stopped,
        hangs=times,
        workers_restarted=restarts,
        seen_after_seconds=round(max(seen), 1),
        restarted_after_seconds=round(max(restarted), 1),
        quiet_after_seconds=round(took, 2),
    )
    assert wrong == []
    assert restarts >= times
    assert max(seen) <= _BAR_SECONDS


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hung_pool_is_seen_and_its_worker_started_anew(tmp_path: Path, evidence: Evidence) -> None:
    hang_again_and_again(1, tmp_path, evidence, watchdog_seconds=6.0)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hung_pool_is_seen_within_a_minute_by_default(tmp_path: Path, evidence: Evidence) -> None:
    hang_again_and_again(2, tmp_path, evidence)


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
