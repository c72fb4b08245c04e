"""A backup under load, then all is lost: what the backup holds is whole, and what came later can be sent again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from config.settings import Settings
from fedqueue import Client
from fedqueue.blobs import path_of
from tests.chaos.evidence import SEED, Evidence
from tests.chaos.facts import read_facts
from tests.chaos.fleet import fleet_running
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.traffic import settled, traffic_running, wait_until
from tests.hubs import ROOT
from tests.servers import postgres_programs, valkey_server
from worker.plan import process_environment


def command(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m worker WORDS`, with PostgreSQL's programs on the PATH."""
    environment = process_environment(settings)
    programs = postgres_programs()
    if programs is not None:
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "worker", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def wipe(settings: Settings) -> None:
    """The disk is lost: database and store."""
    shutil.rmtree(path_of(settings.store_url))
    if settings.database_url.startswith("sqlite"):
        path = Path(settings.database_url.removeprefix("sqlite:///"))
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return
    with psycopg.connect(settings.database_url.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("DROP SCHEMA public CASCADE")
        server.execute("CREATE SCHEMA public")


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_backup_under_load_brings_a_whole_hub_back(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    url = f"sqlite:///{tmp_path}/hub.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    backup = tmp_path / "backup"
    with valkey_server(tmp_path) as broker:
        settings = Settings(
            home=tmp_path / "home",
            database_url=url,
            broker_url=broker.url,
            lease_seconds=5.0,
            sweep_seconds=0.5,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with (
            fleet_running(settings, tmp_path / "logs", workers=1),
            traffic_running(settings, tmp_path, SEED) as traffic,
            Client(settings.broker_url, settings.result_url, settings.store_url, resend_after=1.0) as hub,
        ):
            late = Late(hub)
            wait_until("accepted updates", lambda: len(traffic.told().accepted) >= 15, 60)
            before = list(traffic.told().accepted)
            taken = command(settings, "backup", str(backup))
            assert taken.returncode == 0, taken.stderr
            assert "the database in" in taken.stdout
            late.submit(hub)
            wait_until("accepted updates", lambda: len(traffic.told().accepted) >= len(before) + 5, 60)
        lost = read_facts(url)

        wipe(settings)
        restored = command(settings, "restore", str(backup))
        assert restored.returncode == 0, restored.stderr
        assert command(settings, "restore", str(backup)).returncode == 2, "not over what is there"
        found = read_facts(url)
        assert late.submission in {update["submission_id"] for update in lost.updates}
        assert late.submission not in {update["submission_id"] for update in found.updates}
        at_once = len(violations(found, quiet=False))

        with fleet_running(settings, tmp_path / "logs2", workers=1):
            with Client(settings.broker_url, settings.result_url, settings.store_url, resend_after=1.0) as hub:
                accounted = [*before, late.submit(hub)]
                for model in traffic.models:
                    hub.edit_model(model, requirement=None, timeout=60)
            facts, _ = settled(url, 60)
    wrong = at_once + len(violations(facts, quiet=True)) + len(unaccounted(facts, accounted))
    evidence(
        "restore",
        f"{database} and valkey",
        updates=len(facts.updates),
        accepted_before=len(before),
        after_it_lost=len(lost.updates) - len(found.updates),
        resent=1,
        violations=wrong,
    )
    assert unaccounted(facts, accounted) == []
    assert violations(found, quiet=False) == []
    assert violations(facts, quiet=True) == []
    assert len(lost.updates) > len(found.updates), "nothing came after the backup: this run has shown nothing"


class Late:
    """A model of its own, and an update of it that is sent after the backup: again, once that was brought back."""

    def __init__(self, hub: Client) -> None:
        self.model = hub.create_model(initial={"w": np.zeros(3, np.float32)}, requirement=None).model_id
        self.client = hub.register_client(self.model).client_id
        self.submission = uuid4()

    def submit(self, hub: Client) -> Accepted:
        """The same to the letter, every time."""
        values = {"w": np.full(3, 5, np.float32)}
        hub.submit_update(self.model, self.client, values, num_examples=3, submission_id=self.submission, timeout=60)
        return Accepted(self.submission, 3.0)
