"""Real workers, killed and stopped at random while real clients submit: nothing lost, nothing counted twice.

CHAOS_SECONDS makes it longer, CHAOS_SEED repeats the draws of a run (the moments are the machine's).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from config.settings import Settings
from tests.chaos.evidence import SECONDS, SEED, Evidence
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.havoc import Havoc
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.traffic import settled, traffic_running
from tests.servers import valkey_server

# Fewer, and the run has shown nothing. A slow machine gets up to three times as long for them.
_KILLS = max(8, int(SECONDS / 2))
_RESCUED = max(3, int(SECONDS / 8))
_FENCED = max(1, int(SECONDS / 20))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 120)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_workers_that_die_and_sleep_lose_nothing_and_count_nothing_twice(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    url = f"sqlite:///{tmp_path}/hub.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    with valkey_server(tmp_path) as broker:
        settings = Settings(
            home=tmp_path / "home",
            database_url=url,
            broker_url=broker.url,
            lease_seconds=0.6,
            sweep_seconds=0.3,
            retry_base_seconds=0.05,
            retry_cap_seconds=0.2,
            # Healthy updates are struck again and again here: none of them may be taken for poison.
            max_attempts=100,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with fleet_running(settings, tmp_path / "logs") as fleet, traffic_running(settings, tmp_path, SEED) as traffic:
            havoc = Havoc(fleet, SEED)
            havoc.start()
            began = time.monotonic()
            while time.monotonic() < began + SECONDS or not _enough(havoc, fleet):
                time.sleep(0.5)
                if time.monotonic() > began + 3 * SECONDS:
                    break
            havoc.stop()
            told = traffic.finish(40)
            facts, took = settled(url, 20)
            fenced = _fenced(fleet)
    rescued = sum(row["state"] == "RESCUED" for row in facts.rounds)
    evidence(
        "process",
        f"{database} and valkey",
        updates=len(told.accepted),
        rejected=len(told.rejected),
        aggregates=len(facts.aggregates),
        kills=havoc.kills,
        stops=havoc.struck["stop child"],
        aimed_at_a_round=sum(havoc.aimed.values()),
        workers_restarted=fleet.restarts,
        rescued=rescued,
        fenced=fenced,
        quiet_after_seconds=took,
    )
    assert told.problems == []
    assert violations(facts, quiet=True) == []
    assert unaccounted(facts, told.accepted) == []
    counted = {update["submission_id"] for update in facts.updates if update["status"] == "COMPLETE"}
    assert counted == {submission.submission_id for submission in told.accepted}, "and nothing else was counted"
    assert {u["submission_id"] for u in facts.updates if u["status"] == "INVALID"} == set(told.rejected)
    assert havoc.kills >= _KILLS, "too few kills: this run has shown nothing"
    assert rescued >= _RESCUED, "too few kills met a round under way: this run has shown nothing"
    assert fenced >= _FENCED, "no zombie was fenced off: this run has shown nothing"


def _enough(havoc: Havoc, fleet: Fleet) -> bool:
    # A round that was struck is rescued soon, but may also have been over: hence one more.
    return havoc.kills >= _KILLS and sum(havoc.aimed.values()) > _RESCUED and _fenced(fleet) >= _FENCED


def _fenced(fleet: Fleet) -> int:
    """Rounds whose worker found itself overtaken."""
    return fleet.said().count('"round.overtaken"')
