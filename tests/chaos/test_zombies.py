"""Rounds that take longer than their lease, so that workers overtake each other all the time: the fence stops each.

Nobody dies here. Whoever combines falls asleep now and then, for more than twice the lease, and goes on as if nothing
had happened: by then somebody else has the model, its updates, and often the round's aggregate as well.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from config.settings import Settings
from tests.chaos.evidence import SEED, Evidence
from tests.chaos.failpoint_plugin import PLUGIN, failpoint_environment, sleeps
from tests.chaos.fleet import fleet_running
from tests.chaos.grounds import broker_on, database_on
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.log_tally import OVERTAKEN, LogTally
from tests.chaos.traffic import Load, settled, traffic_running
from worker.redelivery import give_back_unacknowledged

# Fewer, and the run has shown nothing. It goes on until it has them, for the ceiling's seconds at most.
_FENCED: Final = 20
_CEILING: Final = 150.0

_LEASE: Final = 0.3
_LOAD: Final = Load(models=8, parameters=2_000, processes=1, submitters=4, pause=0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "database", ["sqlite", *(pytest.param(it, marks=pytest.mark.wide) for it in ("postgresql", "mariadb"))]
)
def test_a_worker_that_was_overtaken_changes_nothing(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    sleeping = tmp_path / "sleeping"
    variables = failpoint_environment(
        sleeping, SEED, probability=0.0, points=(), fault_probability=0.0, sleep_probability=0.2, sleep_seconds=0.7
    )
    with (
        database_on(database, tmp_path, request) as url,
        broker_on("valkey", tmp_path) as broker,
        closing(LogTally(tmp_path / "logs")) as said,
    ):
        settings = Settings(
            home=tmp_path / "home",
            database_url=url,
            broker_url=broker.url,
            lease_seconds=_LEASE,
            sweep_seconds=0.3,
            retry_base_seconds=0.02,
            retry_cap_seconds=0.05,
            # An update is taken from sleepers again and again, through no fault of its own.
            max_attempts=100,
            worker_concurrency=6,
            soft_shutdown_seconds=1.0,
            plugins=(PLUGIN,),
        )
        with ExitStack() as sending:
            with fleet_running(settings, tmp_path / "logs", 2, variables) as fleet:
                traffic = sending.enter_context(traffic_running(settings, tmp_path, SEED, _LOAD))
                began = time.monotonic()
                while said.count(OVERTAKEN) < _FENCED and time.monotonic() < began + _CEILING:
                    time.sleep(0.2)
                took = time.monotonic() - began
            # A lease that a round does well within, on a busy machine, too: all must come to its end under it.
            honest = settings.model_copy(update={"lease_seconds": 10.0, "plugins": ()})
            with fleet_running(honest, tmp_path / "logs", 2):
                assert give_back_unacknowledged(honest) == ""
                told = traffic.finish(60)
                facts, quiet_after = settled(url, 60)
        slept, fenced = sleeps(sleeping), said.count(OVERTAKEN)
    rescued = sum(row["state"] == "RESCUED" for row in facts.rounds)
    found = [*violations(facts, quiet=True), *unaccounted(facts, told.accepted)]
    evidence(
        "zombie",
        f"{database} and valkey",
        seconds=took,
        slept=slept,
        fenced=fenced,
        rescued=rescued,
        updates=len(told.accepted),
        aggregates=len(facts.aggregates),
        violations=len(found),
        quiet_after_seconds=quiet_after,
    )
    assert told.problems == []
    assert found == []
    counted = {update["submission_id"] for update in facts.updates if update["status"] == "COMPLETE"}
    assert counted == {submission.submission_id for submission in told.accepted}, "and nothing else was counted"
    assert fleet.restarts == 0, "nobody was to die here"
    assert fenced >= _FENCED, "too few were overtaken: this run has shown nothing"
