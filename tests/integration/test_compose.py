"""The production form, run: every service's own command as a local process, against local servers.

No container engine is needed. The application runs from a folder that holds what the Dockerfile copies, with the
environment that the image and the compose file give. `Place` says all that differs from a container: hosts, ports,
folders, and each replica's name, which a container has from its hostname. Two things can't run here and are put so:
the PostgreSQL image's entry point (its user, password and database are made on a server of the tests' own, which trusts
this machine) and, where it is not installed, redis-cli (its PING is sent with the password by a client instead).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import psycopg
import pytest
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings
from fedqueue import Client
from tests.production import copy_into, image_command, image_environment, read_compose, seconds_of
from tests.servers import Server, free_port, postgres_programs
from worker.children import die_with_parent
from worker.server import find_server

PASSWORDS = {"POSTGRES_PASSWORD": "postgres8secret", "REDIS_PASSWORD": "redis9secret"}


@dataclass
class Place:
    """This machine in the containers' stead."""

    folder: Path
    redis_port: int
    postgres_port: int

    @property
    def data(self) -> Path:
        """The volume that workers mount at /data."""
        return self.folder / "data"

    @property
    def app(self) -> Path:
        """The image's WORKDIR."""
        return self.folder / "app"

    def local(self, value: str) -> str:
        """A word of a command or environment with the containers' hosts, ports and folders replaced."""
        for theirs, ours in (
            ("@redis:6379", f"@127.0.0.1:{self.redis_port}"),
            ("@postgres:5432", f"@127.0.0.1:{self.postgres_port}"),
            ("--port=5432", f"--port={self.postgres_port}"),
            ("file:///data", self.data.as_uri()),
        ):
            value = value.replace(theirs, ours)
        return str(self.data) if value == "/data" else value

    def environment(self, service: Mapping[str, Any], image: Mapping[str, str]) -> dict[str, str]:
        """The image's and the service's variables, and nothing of this process's but its PATH."""
        variables = {**image, **service.get("environment", {})}
        return {name: self.local(str(value)) for name, value in variables.items()} | {"PATH": os.environ["PATH"]}


@dataclass
class Deployment:
    """The compose file's services, started in its order."""

    place: Place
    services: dict[str, dict[str, Any]]
    redis: Server
    migrated: subprocess.CompletedProcess[str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def client(self) -> Client:
        """What another service would make, told the worker's own addresses."""
        environment = self.hub_environment("worker")
        return Client(environment["FEDQUEUE_BROKER_URL"], store_url=environment["FEDQUEUE_STORE_URL"])

    def hub_environment(self, service: str) -> dict[str, str]:
        """The environment of a service made from our image."""
        return self.place.environment(self.services[service], image_environment())

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm SERVICE COMMAND`; without a command, the service's own."""
        words = image_command(list(command) or self.services[service]["command"])
        return subprocess.run(
            _by_this_python(words),
            cwd=self.place.app,
            env=self.hub_environment(service),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, service: str, replica: str) -> None:
        """One container of the service."""
        words = _by_this_python(image_command(self.services[service]["command"]))
        if service == "worker":
            words += ["--hostname", f"celery@{replica}"]
        with (self.place.folder / f"{replica}.log").open("ab") as log:
            self.running[replica] = subprocess.Popen(
                words,
                cwd=self.place.app,
                env=self.hub_environment(service),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def healthy(self, replica: str) -> bool:
        """Whether a worker's own health check passes; one that takes too long has failed, as in Docker."""
        check = self.services["worker"]["healthcheck"]
        kind, *words = check["test"]
        assert kind == "CMD"
        try:
            checked = subprocess.run(
                [*_by_this_python(words), f"celery@{replica}"],
                cwd=self.place.app,
                env=self.hub_environment("worker"),
                capture_output=True,
                timeout=seconds_of(check["timeout"]),
            )
        except subprocess.TimeoutExpired:
            return False
        return checked.returncode == 0

    def stop(self, service: str, replica: str) -> int:
        """The exit code, after the signal that `docker compose stop` sends, within the grace period."""
        process = self.running.pop(replica)
        process.send_signal(signal.Signals[self.services[service].get("stop_signal", "SIGTERM")])
        return process.wait(seconds_of(self.services[service]["stop_grace_period"]))

    def said_by(self, replica: str) -> str:
        """Its output so far."""
        return (self.place.folder / f"{replica}.log").read_text()


def _by_this_python(words: list[str]) -> list[str]:
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.1)


@contextmanager
def redis_running(place: Place, service: Mapping[str, Any]) -> Iterator[Server]:
    """The compose file's own command line; the port and the image's WORKDIR come after it."""
    program, *options = service["command"]
    assert program == "redis-server"
    folder = place.folder / "redis"
    folder.mkdir()
    here = ["--port", str(place.redis_port), "--bind", "127.0.0.1", "--dir", str(folder)]
    url = f"redis://:{PASSWORDS['REDIS_PASSWORD']}@127.0.0.1:{place.redis_port}/0"
    server = Server(
        url,
        [str(find_server()), *options, *here],
        folder / "log",
        lambda: answers_ping(url),
        environment=place.environment(service, {}),
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def answers_ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def database_made(server: Server, environment: Mapping[str, str]) -> Iterator[None]:
    """What the PostgreSQL image's entry point makes of its environment."""
    user, database = sql.Identifier(environment["POSTGRES_USER"]), sql.Identifier(environment["POSTGRES_DB"])
    password = sql.Literal(environment["POSTGRES_PASSWORD"])
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(user, password))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))
        try:
            yield
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
            admin.execute(sql.SQL("DROP ROLE {}").format(user))


@pytest.fixture(scope="module")
def deployment(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """`docker compose up --scale worker=2`: servers, then the migration to its end, then workers and beat."""
    services = read_compose(PASSWORDS)["services"]
    postgres_port = int(postgres.url.rpartition(":")[2].partition("/")[0])
    place = Place(tmp_path_factory.mktemp("compose"), free_port(), postgres_port)
    copy_into(place.app)
    place.data.mkdir()
    with (
        redis_running(place, services["redis"]) as server,
        database_made(postgres, services["postgres"]["environment"]),
    ):
        started = Deployment(place, services, server, subprocess.CompletedProcess([], -1))
        started.migrated = started.run("migrate")
        try:
            for service, replica in (("worker", "one"), ("worker", "two"), ("beat", "beat")):
                started.start(service, replica)
            yield started
        finally:
            for process in started.running.values():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def ready(deployment: Deployment) -> Deployment:
    """The same, once both workers' health checks pass."""
    for replica in ("one", "two"):
        until(lambda replica=replica: deployment.healthy(replica))  # type: ignore[misc]
    return deployment


def test_the_migration_runs_to_its_end_and_again_finds_nothing_to_do(deployment: Deployment) -> None:
    """The workers wait for its exit code 0; the second time is every later `docker compose up`."""
    assert deployment.migrated.returncode == 0, deployment.migrated.stderr
    assert "migrated from nothing" in deployment.migrated.stdout
    again = deployment.run("migrate")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_a_round_goes_through_the_deployed_services(ready: Deployment) -> None:
    """Two clients' [1, 2, 4] and [5, 2, 3] in equal parts: [3, 2, 3.5]."""
    clients = [uuid4(), uuid4()]
    with ready.client() as hub:
        model = hub.create_model(
            name="mean", initial={"w": np.zeros(3, np.float32)}, requirement="all_clients", clients=clients
        )
        for client_id, values in zip(clients, ([1, 2, 4], [5, 2, 3]), strict=True):
            hub.submit_update(model.model_id, client_id, {"w": np.array(values, np.float32)}, num_examples=10)
        hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
        assert hub.fetch_latest(model.model_id).arrays["w"].tolist() == [3.0, 2.0, 3.5]
    shown = ready.run("worker", "aggregates", str(model.model_id), "--json")
    assert '"num_updates": 2' in shown.stdout, shown.stderr


def test_a_worker_that_hangs_fails_its_own_health_check_and_no_other(ready: Deployment) -> None:
    hanging = ready.running["one"]
    os.killpg(hanging.pid, signal.SIGSTOP)
    try:
        assert not ready.healthy("one")
        until(lambda: ready.healthy("two"))
    finally:
        os.killpg(hanging.pid, signal.SIGCONT)
    until(lambda: ready.healthy("one"))


def test_the_servers_health_checks_tell_up_from_down(deployment: Deployment) -> None:
    check = deployment.services["postgres"]["healthcheck"]["test"]
    programs = postgres_programs()
    assert programs is not None
    assert check[:2] == ["CMD", "pg_isready"]
    words = [str(programs / "pg_isready"), *(deployment.place.local(word) for word in check[2:])]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    nobody = [word if not word.startswith("--port=") else f"--port={free_port()}" for word in words]
    assert subprocess.run(nobody, capture_output=True, check=False).returncode != 0

    service = deployment.services["redis"]
    assert service["healthcheck"]["test"] == ["CMD-SHELL", "redis-cli ping | grep --quiet PONG"]
    if shutil.which("redis-cli"):
        command = service["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {deployment.place.redis_port}")
        for password, code in ((service["environment"]["REDISCLI_AUTH"], 0), ("wrong", 1)):
            environment = deployment.place.environment(service, {}) | {"REDISCLI_AUTH": password}
            assert subprocess.run(["sh", "-c", command], env=environment, check=False).returncode == code
    assert service["environment"]["REDISCLI_AUTH"] == PASSWORDS["REDIS_PASSWORD"]
    assert answers_ping(deployment.redis.url)


def test_the_broker_keeps_its_messages_and_lets_nobody_in_without_the_password(deployment: Deployment) -> None:
    with redis.Redis.from_url(deployment.redis.url, decode_responses=True) as client:
        for name, value in (("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")):
            assert client.config_get(name) == {name: value}
    port = deployment.place.redis_port
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_scaled_up_a_worker_joins_and_scaled_down_it_goes_in_time(ready: Deployment) -> None:
    ready.start("worker", "three")
    until(lambda: ready.healthy("three"))
    assert ready.stop("worker", "three") == 0, ready.said_by("three")
    until(lambda: ready.healthy("two"))


def test_beat_reaches_the_broker_and_stops_when_told_to(deployment: Deployment) -> None:
    deployment.start("beat", "second")
    process = psutil.Process(deployment.running["second"].pid)
    until(
        lambda: any(line.raddr and line.raddr.port == deployment.place.redis_port for line in process.net_connections())
    )
    assert deployment.stop("beat", "second") == 0, deployment.said_by("second")


def test_the_grace_period_is_longer_than_a_worker_takes_to_give_its_tasks_back(deployment: Deployment) -> None:
    """Cut short, its messages would wait for the visibility timeout: 20 minutes."""
    soft = Settings.model_fields["soft_shutdown_seconds"].default
    assert seconds_of(deployment.services["worker"]["stop_grace_period"]) >= soft + 20


def test_nothing_is_written_beside_the_code(ready: Deployment) -> None:
    """The container's root is read-only: a file written there would be an error."""
    copied = ready.place.folder / "copied-again"
    copy_into(copied)
    assert files_in(ready.place.app) == files_in(copied)
    shutil.rmtree(copied)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
