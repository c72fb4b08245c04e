"""A schema changed under working workers: what only adds disturbs nobody, what takes away waits and shuts old ones out.

The next version is this one's own application, copied, with two migrations more: what its image would hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from config.settings import Settings
from tests.chaos.evidence import SEED, Evidence
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.traffic import Traffic, settled, traffic_running, wait_until
from tests.next_version import CONTRACTED, EXPANDED, add_next_version
from tests.production import ROOT, copy_into
from tests.servers import valkey_server
from worker.bootstrap import HubCelery
from worker.children import Child
from worker.health import check_workers
from worker.plan import process_environment, worker_command
from worker.signals import EXIT_TOO_OLD

_NEXT = "next@localhost"


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """The folder that the next version is installed in."""
    folder = tmp_path / "next"
    copy_into(folder)
    add_next_version(folder / "connectors" / "sql" / "migrations")
    return folder


def migrate(settings: Settings, version: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`python -m worker migrate` of that version."""
    return subprocess.run(
        [sys.executable, "-m", "worker", "migrate", *options],
        cwd=version,
        env=process_environment(settings) | {"PYTHONPATH": str(version)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextmanager
def newer_worker(settings: Settings, version: Path, folder: Path) -> Iterator[None]:
    """A worker of the next version, ready."""
    environment = process_environment(settings) | {"PYTHONPATH": str(version)}
    # Celery looks for the application where it is started first.
    command = ["env", f"--chdir={version}", *worker_command(["--hostname", _NEXT])]
    child = Child(_NEXT, "worker", command, environment, folder / "next.log")
    child.start()
    try:
        with HubCelery(settings) as app:
            wait_until("newer worker", lambda: check_workers(app, [_NEXT], 2.0)[0].is_well, 60)
        yield
    finally:
        child.kill_family()


def more_accepted(traffic: Traffic, count: int) -> None:
    """Return when so many more updates were accepted."""
    before = len(traffic.told().accepted)
    wait_until("accepted updates", lambda: len(traffic.told().accepted) >= before + count, 60)


def failed_tasks(logs: str) -> list[str]:
    """What Celery says of tasks that ended in an exception."""
    return [line for line in logs.splitlines() if "raised unexpected" in line]


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_schema_changes_under_load_and_no_task_fails(
    tmp_path: Path, postgres_url: str, next_version: Path, evidence: Evidence
) -> None:
    with valkey_server(tmp_path) as broker:
        settings = Settings(
            home=tmp_path / "home",
            database_url=postgres_url,
            broker_url=broker.url,
            lease_seconds=5.0,
            sweep_seconds=0.5,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with traffic_after_start(settings, tmp_path) as (fleet, traffic):
            more_accepted(traffic, 5)
            expanded = migrate(settings, next_version)
            assert expanded.returncode == 0, expanded.stderr
            assert f"schema {EXPANDED}: migrated from" in expanded.stdout
            assert f"{CONTRACTED} waits: it shuts out workers older than {EXPANDED}" in expanded.stdout
            more_accepted(traffic, 5)

            started_again = fleet.restarts
            os.kill(fleet.parents()[0], 9)
            wait_until("a restart", lambda: fleet.restarts > started_again, 30)
            with HubCelery(settings) as app:
                wait_until("both", lambda: all(r.is_well for r in check_workers(app, fleet.names, 5.0)), 60)
            more_accepted(traffic, 5)
            during = failed_tasks(fleet.said())

            contracted = migrate(settings, next_version, "--contract")
            assert f"schema {CONTRACTED}: migrated from {EXPANDED}" in contracted.stdout, contracted.stderr
            fleet.stop()
            with newer_worker(settings, next_version, tmp_path):
                more_accepted(traffic, 5)
                told = traffic.finish(60)
                facts, _ = settled(postgres_url, 60)
        refused = start_one_more(settings, tmp_path / "late.log")
    found = len(violations(facts, quiet=True)) + len(unaccounted(facts, told.accepted))
    evidence("upgrade", "postgresql and valkey", updates=len(told.accepted), failed_tasks=len(during), violations=found)
    assert during == []
    assert told.problems == []
    assert found == 0
    assert refused.returncode == EXIT_TOO_OLD
    assert f"at {CONTRACTED}, which code of revision {EXPANDED} or newer may work on" in refused.stdout
    assert migrate(settings, ROOT).returncode == 2, "and an older version migrates nothing"


@contextmanager
def traffic_after_start(settings: Settings, folder: Path) -> Iterator[tuple[Fleet, Traffic]]:
    """This version's workers, and traffic for them."""
    with fleet_running(settings, folder / "logs") as fleet, traffic_running(settings, folder, SEED) as traffic:
        yield fleet, traffic


def start_one_more(settings: Settings, log: Path) -> subprocess.CompletedProcess[str]:
    """A worker of this version, which should end by itself."""
    found = subprocess.run(
        worker_command(["--hostname", "late@localhost"]),
        env=process_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    log.write_text(found.stdout)
    return found


@pytest.mark.slow
def test_two_migrations_at_once_wait_for_one_another(tmp_path: Path, postgres_url: str) -> None:
    """Two processes, both held up by a third that holds the lock: one does the work, the other finds it done."""
    from connectors.sql.migrate import _ADVISORY_LOCK

    settings = Settings(home=tmp_path, database_url=postgres_url)
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as third:
        third.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "worker", "migrate"],
                env=process_environment(settings),
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]

        def waiting() -> bool:
            asked = third.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return asked.fetchone() == (2,)

        wait_until("two that wait", waiting, 60)
        third.execute("SELECT pg_advisory_unlock(%s)", (_ADVISORY_LOCK,))
        said = [process.communicate(timeout=60)[0].strip().partition(": ")[2] for process in both]
    assert sorted(said) == ["migrated from nothing", "nothing to do"]
    assert [process.returncode for process in both] == [0, 0]
