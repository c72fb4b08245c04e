"""The database crashes under load: what it had committed stands, what it had not is done anew, and all is answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.faults import hub_settings, hub_under_traffic
from tests.chaos.grounds import broker_on, database_on
from tests.servers import Server

# How a server ends: PostgreSQL's immediate stop keeps nothing but its log; MariaDB has no such thing.
Crash = Callable[[Server], None]


def stop_at_once(server: Server) -> None:
    """As `pg_ctl stop -m immediate`: what is in memory is gone, what was committed is read back from the log."""
    server.quit()


def crash_repeatedly(
    kind: str, crashes: list[Crash], folder: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    """Crash it so often, each time under load and with a pause before it is started again."""
    with database_on(kind, folder, request, own_server=True) as (url, database), broker_on("valkey", folder) as broker:
        settings = hub_settings(folder, broker.url, url, max_attempts=100)
        away = []
        with hub_under_traffic(settings, folder) as run:
            for crash in crashes:
                run.wait_for_answers(6)
                crash(database)
                began = time.monotonic()
                run.wait_to_hear("task.postponed")
                database.start()
                run.wait_for_answers(1)
                away.append(time.monotonic() - began)
            outcome = run.end()
            postponed = run.fleet.said().count("task.postponed")
            restarts = run.fleet.restarts
    evidence(
        "database_crash",
        kind,
        crashes=len(crashes),
        postponed=postponed,
        workers_restarted=restarts,
        longest_without_an_answer=round(max(away), 1),
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert postponed >= len(crashes), "no task met the crashed database: this run has shown nothing"
    assert restarts == 0, "a worker outlives its database"


@pytest.mark.slow
def test_a_database_that_crashes_under_load_loses_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    crash_repeatedly("postgresql", [stop_at_once, Server.kill], tmp_path, request, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_crashes_four_times_under_load_loses_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    gentle = stop_at_once if kind == "postgresql" else Server.kill
    crash_repeatedly(kind, [gentle, Server.kill, gentle, Server.kill], tmp_path, request, evidence)
