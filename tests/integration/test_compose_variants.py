"""The production form on MariaDB and RabbitMQ, run: as test_compose.py does it for the first file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import pytest

from tests.chaos.facts import connect_mariadb
from tests.debian_servers import mariadb_server, rabbitmq_server, rabbitmqctl
from tests.integration.test_compose import Deployment, Place, until
from tests.production import copy_into, read_compose
from tests.servers import Server, free_port

pytestmark = pytest.mark.wide

SECRETS = {
    "POSTGRES_PASSWORD": "unused",
    "REDIS_PASSWORD": "unused",
    "MARIADB_PASSWORD": "mariadb8secret",
    "RABBITMQ_PASSWORD": "rabbit9secret",
    "MARIADB_BUFFER_POOL": "64M",
}


@dataclass
class OtherPlace(Place):
    """This machine in the containers' stead, with the other servers."""

    mariadb: str = ""
    rabbitmq: str = ""

    def local(self, value: str) -> str:
        """A word with the containers' hosts and ports replaced."""
        value = value.replace("@mariadb:3306", f"@{self.mariadb}").replace("@rabbitmq:5672", f"@{self.rabbitmq}")
        return super().local(value)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Servers as the files command them, their users as the images make them; the migration, a worker and beat."""
    services = read_compose(SECRETS, "mariadb", "rabbitmq")["services"]
    program, *options = services["mariadb"]["command"]
    assert program == "mariadbd"
    with mariadb_server(*options) as database, rabbitmq_server() as broker:
        _make_users(database, broker, services["mariadb"]["environment"], services["rabbitmq"]["environment"])
        folder = tmp_path_factory.mktemp("compose")
        place = OtherPlace(folder, free_port(), free_port(), _address(database), _address(broker))
        copy_into(place.app)
        place.data.mkdir()
        started = Deployment(place, services, broker, subprocess.CompletedProcess([], -1))
        started.migrated = started.run("migrate")
        try:
            for service, replica in (("worker", "one"), ("beat", "beat")):
                started.start(service, replica)
            yield started
        finally:
            for process in started.running.values():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _address(server: Server) -> str:
    found = re.search(r"@(127\.0\.0\.1:\d+)/", server.url)
    assert found
    return found[1]


def _make_users(database: Server, broker: Server, mariadb: dict[str, str], rabbitmq: dict[str, str]) -> None:
    """What the images' entry points make of their environment."""
    with closing(connect_mariadb(database.url)) as connection, connection.cursor() as cursor:
        user = f"'{mariadb['MARIADB_USER']}'@'%'"
        cursor.execute(f"CREATE USER {user} IDENTIFIED BY '{mariadb['MARIADB_PASSWORD']}'")
        cursor.execute(f"GRANT ALL ON `{mariadb['MARIADB_DATABASE']}`.* TO {user}")
    rabbitmqctl(broker, "add_user", rabbitmq["RABBITMQ_DEFAULT_USER"], rabbitmq["RABBITMQ_DEFAULT_PASS"])
    rabbitmqctl(broker, "set_permissions", rabbitmq["RABBITMQ_DEFAULT_USER"], ".*", ".*", ".*")


def test_a_round_goes_through_the_deployed_services(deployment: Deployment) -> None:
    """Two clients' [1, 2, 4] and [5, 2, 3] in equal parts: [3, 2, 3.5]."""
    assert deployment.migrated.returncode == 0, deployment.migrated.stderr
    assert "migrated from nothing" in deployment.migrated.stdout
    until(lambda: deployment.healthy("one"), 150)
    clients = [uuid4(), uuid4()]
    with deployment.client() as hub:
        model = hub.create_model(
            name="mean", initial={"w": np.zeros(3, np.float32)}, requirement="all_clients", clients=clients
        )
        for client_id, values in zip(clients, ([1, 2, 4], [5, 2, 3]), strict=True):
            hub.submit_update(model.model_id, client_id, {"w": np.array(values, np.float32)}, num_examples=10)
        hub.wait_for_aggregate(model.model_id, after=0, timeout=60)
        assert hub.fetch_latest(model.model_id).arrays["w"].tolist() == [3.0, 2.0, 3.5]


def test_a_worker_that_is_told_to_stop_goes_in_time(deployment: Deployment) -> None:
    deployment.start("worker", "two")
    until(lambda: deployment.healthy("two"), 150)
    assert deployment.stop("worker", "two") == 0, deployment.said_by("two")
