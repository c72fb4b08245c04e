"""The accounts that docs/databases-and-brokers.md gives: enough for all that the hub does, and no more than it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from fedqueue import Client
from tests.chaos.facts import connect_mariadb
from tests.debian_servers import mariadb_server, rabbitmq_server, rabbitmqctl
from tests.hubs import ROOT, hub_running, run_worker_command
from tests.integration.test_rabbitmq import Place, until
from tests.servers import Server

pytestmark = pytest.mark.wide

PAGE = (ROOT / "docs" / "databases-and-brokers.md").read_text()


def statements(heading: str) -> list[str]:
    """The SQL under that heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```sql\n(.*?)```", section, re.DOTALL)
    assert found, f"no SQL under {heading}"
    return [each.strip() for each in found[1].split(";") if each.strip()]


def make_a_round(client: Client) -> None:
    model = client.create_model(data_format="json", requirement="require_x_updates", requirement_args=[1]).model_id
    sender = client.register_client(model).client_id
    client.submit_update(model, sender, [[1.0], [2.0]], num_examples=1)
    client.wait_for_aggregate(model, after=0, timeout=60)
    client.send_events([{"model_id": model, "log": "said"}], wait=True)
    client.delete_model(model)


@pytest.fixture
def mariadb_accounts() -> Iterator[tuple[str, str]]:
    """The URLs of the owner and of the workers, on a server of their own."""
    with mariadb_server() as server:
        with closing(connect_mariadb(server.url)) as connection, connection.cursor() as cursor:
            cursor.execute("DROP DATABASE fedqueue")
            for statement in statements("MariaDB"):
                cursor.execute(statement)
        address = server.url.partition("@")[2]
        yield f"mariadb://fedqueue_owner:owner8secret@{address}", f"mariadb://fedqueue:worker9secret@{address}"


@pytest.fixture
def postgresql_accounts(postgres_url: str) -> Iterator[tuple[str, str]]:
    """The same on PostgreSQL; the roles are the whole server's, and go with the test."""
    plain = postgres_url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as admin:
        for statement in statements("PostgreSQL"):
            admin.execute(statement.encode())
        place = plain.partition("@")[2]
        try:
            yield f"postgresql://fedqueue_owner:owner8secret@{place}", f"postgresql://fedqueue:worker9secret@{place}"
        finally:
            for role in ("fedqueue", "fedqueue_owner"):
                admin.execute(f"DROP OWNED BY {role} CASCADE".encode())
                admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_one_account_migrates_and_the_other_does_all_else(
    kind: str, request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, worker = request.getfixturevalue(f"{kind}_accounts")
    refused = run_worker_command(home, "migrate", FEDQUEUE_DATABASE_URL=worker)
    assert refused.returncode != 0, "the workers' account may change the schema"
    migrated = run_worker_command(home, "migrate", FEDQUEUE_DATABASE_URL=owner)
    assert migrated.returncode == 0, migrated.stderr
    with hub_running(home, {"FEDQUEUE_DATABASE_URL": worker, "FEDQUEUE_EMBEDDED_WORKERS": "1"}) as hub:
        monkeypatch.setenv("FEDQUEUE_HOME", str(home))
        with Client() as client:
            make_a_round(client)
        seen = json.loads(hub.command("status", "--json", FEDQUEUE_DATABASE_URL=worker).stdout)
        assert seen["updates"]["COMPLETE"] + seen["models"] == 0, "the deleted model is not counted"
        assert "***" in hub.command("config", FEDQUEUE_DATABASE_URL=worker, COLUMNS="300").stdout


@pytest.fixture
def guarded_broker() -> Iterator[Server]:
    """A RabbitMQ whose accounts are those of the page, and no others."""
    with rabbitmq_server() as server:
        commands = re.findall(r"^\$ rabbitmqctl (.*)$", PAGE, re.MULTILINE)
        assert len(commands) == 4
        for command in commands:
            rabbitmqctl(server, *shlex.split(command))
        yield server


def test_the_broker_s_accounts_are_enough(guarded_broker: Server, home: Path) -> None:
    home.mkdir()
    address = guarded_broker.url.partition("@")[2]
    guarded_broker.url = f"amqp://fedqueue:worker9secret@{address}"
    place = Place(home, guarded_broker, f"sqlite:///{home}/hub.db")
    place.command("migrate")
    with place.worker() as worker:
        submitter = f"amqp://submitter:submit7secret@{address}"
        with Client(submitter, store_url=f"file://{home}/store", timeout=60) as client:
            make_a_round(client)
        assert "one@here: alive" in place.command("health", "--seconds", "30", "one@here")

        def is_shown_alive() -> bool:
            seen = json.loads(place.command("status", "--json"))
            return [each["health"] for each in seen["workers"]] == ["alive"]

        until(is_shown_alive, 120)  # it waits half a second for who is there
        os.killpg(worker.pid, signal.SIGTERM)
        worker.wait(60)
    assert "ACCESS_REFUSED" not in (home / "one.log").read_text()
