"""No password and no key in anything that a hub writes or prints, least of all when something does not work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from config.secrets import masked
from config.settings import Settings
from fedqueue import Client
from fedqueue.endpoint import Endpoint
from fedqueue.errors import FedqueueError
from tests.hubs import ROOT, environment, run_worker_command
from tests.security.parties import Parties, variables_of
from tests.security.secured_servers import redis_with_users
from tests.security.workers import worker_of
from tests.servers import Server, free_port, fresh_database, valkey_server

# With what would end a password for a careless pattern: an at sign, a colon, a percent sign.
BROKER, DATABASE, RESULT = "br0ker-h%40sh%3Ahush", "d4tabase-hushhush", "r3sult-hushhush"
SECRETS = (BROKER, "br0ker-h@sh:hush", "br0ker", DATABASE, RESULT)


def told(*texts: str) -> list[str]:
    """The secrets that stand in them."""
    return [secret for secret in SECRETS for text in texts if secret in text]


def key_lines(*keys: Path) -> list[str]:
    return [line for key in keys for line in key.read_text().splitlines() if not line.startswith("-----")]


def test_a_hub_that_works_says_nothing_of_its_secrets(tmp_path: Path) -> None:
    """At the most talkative: a worker with every kind of message, the commands, dead letters, a signing key."""
    parties = Parties(tmp_path / "parties")
    hub, site = parties.party("hub"), parties.party("site")
    (tmp_path / "server").mkdir()
    rules = [f"user hub on >{SECRETS[1]} ~* &* +@all"]
    with redis_with_users(tmp_path / "server", rules) as server:
        url = server.url.replace("://", f"://hub:{BROKER}@")
        settings = {"FEDQUEUE_BROKER_URL": url, "FEDQUEUE_LOG_LEVEL": "DEBUG", **variables_of(hub)}
        with worker_of(tmp_path / "home", settings) as worker:
            with Client(
                url,
                timeout=30,
                signing_key=site.key,
                signing_certificate=site.certificate,
                trusted_certificates=site.trusted,
            ) as client:
                client.create_model(name="digits")
                with pytest.raises(FedqueueError):
                    client.create_model(name="x", aggregator="none such")
                said = [repr(client), repr(client._transport)]
            for command in (
                ("config",),
                ("status", "--json"),
                ("dead-letters", "--json"),
            ):
                found = worker.command(*command)
                said += [found.stdout, found.stderr]
            os.kill(worker.process.pid, signal.SIGTERM)
            worker.process.wait(60)
            said.append(worker.log.read_text())
        assert "aggregator" in said[-3] + said[-2], "the dead letter is shown"
        assert told(*said) == []
        kept = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
        assert not [secret for secret in SECRETS if secret.encode() in kept], "nor is it in the database"
        for line in key_lines(hub.key, site.key):
            assert line not in "".join(said)
            assert line.encode() not in kept


@contextmanager
def rude_server(answer: bytes) -> Iterator[int]:
    """Something that answers whatever it is told by that, and hangs up: no broker, and no database."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    line, _ = listening.accept()
                except TimeoutError:
                    continue
                with line:
                    line.settimeout(1)
                    try:
                        line.recv(4096)
                        line.sendall(answer)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("kind", ["away", "rude"])
@pytest.mark.parametrize(
    "part",
    ["redis", *(pytest.param(part, marks=pytest.mark.wide) for part in ("rediss", "amqp", "postgresql", "mariadb"))],
)
def test_what_is_away_or_no_such_server_is_told_without_its_password(tmp_path: Path, part: str, kind: str) -> None:
    """By every command that meets it, and by the client: also through tracebacks of drivers."""
    with rude_server(b"-ERR what do you mean?\r\n") as rude:
        place = f"127.0.0.1:{rude if kind == 'rude' else free_port()}"
        home = tmp_path / "home"
        said = []
        if part in ("postgresql", "mariadb"):
            settings = {"FEDQUEUE_DATABASE_URL": f"{part}://hub:{DATABASE}@{place}/hub?connect_timeout=2"}
            commands: tuple[tuple[str, ...], ...] = (("migrate",), ("models",), ("config",))
        else:
            result = {} if part == "amqp" else {"FEDQUEUE_RESULT_URL": f"redis://:{RESULT}@{place}/1"}
            url = f"{part}://hub:{BROKER}@{place}/0"
            settings = {"FEDQUEUE_BROKER_URL": url, **result}
            commands = (("health", "--seconds", "1"), ("config",))
            with Client(url, timeout=0.5) as client, pytest.raises(FedqueueError) as refused:
                client.create_model(name="x")
            said += [str(refused.value), repr(refused.value), repr(Endpoint(url, url))]
        for command in commands:
            found = run_worker_command(home, *command, **settings)
            said += [found.stdout, found.stderr]
            assert found.returncode != 0 or command == ("config",)
        assert told(*said) == []
        assert place in "".join(said) or "127.0.0.1" in "".join(said), "it does say where"


@pytest.mark.wide
def test_a_worker_whose_servers_go_says_nothing_of_their_secrets(tmp_path: Path, postgres: Server) -> None:
    """Its log holds the tracebacks of drivers, and they like to show what they connected by."""
    (tmp_path / "server").mkdir()
    with valkey_server(tmp_path / "server") as server, fresh_database(postgres) as database:
        with redis.Redis.from_url(server.url) as connection:
            connection.config_set("requirepass", SECRETS[1])
        url = server.url.replace("://", f"://:{BROKER}@")
        with_password = database.replace("postgres@", f"postgres:{DATABASE}@")
        with worker_of(
            tmp_path / "home", FEDQUEUE_BROKER_URL=url, FEDQUEUE_DATABASE_URL=with_password, FEDQUEUE_LOG_LEVEL="DEBUG"
        ) as worker:
            with Client(url, timeout=20) as client:
                model = client.create_model(name="digits")
                renamed = database.rpartition("/")[2]

                def ask() -> None:
                    try:
                        client.get_model(model.model_id, timeout=2)
                    finally:
                        worker.wait_for("a word of the database", lambda: "task.postponed" in worker.log.read_text())

                with pytest.raises(FedqueueError):
                    _take_away(postgres, renamed, ask)
            server.stop()
            worker.wait_for("a word of the broker", lambda: "Cannot connect to" in worker.log.read_text())
            said = worker.log.read_text()
        assert "task.postponed" in said
        assert told(said) == []


def _take_away(postgres: Server, name: str, do: object) -> None:
    import psycopg

    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            do()  # type: ignore[operator]
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.wide
def test_a_hub_started_whole_says_nothing_of_its_secrets(tmp_path: Path) -> None:
    """`up` hands passwords to its processes by their environment: not by their arguments, which everybody may read."""
    home = tmp_path / "home"
    settings = {"FEDQUEUE_RESULT_URL": f"redis://:{RESULT}@127.0.0.1:{free_port()}/1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", "up", "--json"],
        cwd=ROOT,
        env=environment(home, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = ""
    arguments = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if line.startswith("{") and json.loads(line)["event"] in ("ready", "ended"):
                break
        arguments = "".join(
            path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if _is_of(path, home)
        )
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said += process.communicate(timeout=60)[0]
    logs = "".join(path.read_text(errors="replace") for path in (home / "logs").glob("*"))
    assert logs
    assert told(said, logs, arguments) == []


def _is_of(path: Path, home: Path) -> bool:
    try:
        return str(home).encode() in path.with_name("environ").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://hub:{DATABASE}@db/hub",
        f"(psycopg.OperationalError) connection to redis://:{RESULT}@h:1/0 failed, password={DATABASE} host=db",
        f"redis+socket:///run/x.sock?password={RESULT}&virtual_host=0",
        f"Error connecting to rediss://u:{BROKER}@h:1/0?ssl_keyfile=/k.pem.",
        f"Endpoint(broker_url='amqps://u:{BROKER}@h//')",
        f"sslpassword={DATABASE}",
        f"mariadb://u:{DATABASE}@h/d?ssl_ca=/x",
        f"postgresql://h/d?user=hub&password={DATABASE}",
    ],
)
def test_a_password_is_masked_wherever_it_stands(text: str) -> None:
    assert told(masked(text)) == []


def test_settings_show_no_secret(tmp_path: Path) -> None:
    url = f"redis://:{BROKER}@h:1/0"
    settings = Settings(home=tmp_path, broker_url=url, database_url=f"postgresql://u:{DATABASE}@h/d")
    assert told(repr(settings), str(settings), json.dumps(settings.shown())) == []
