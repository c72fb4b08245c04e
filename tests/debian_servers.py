"""MariaDB and RabbitMQ for the wider matrix: from Debian's packages, skipped (saying so) where there are none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pymysql
import pytest

from tests.servers import Server, free_port, listens


@contextmanager
def mariadb_server(*options: str) -> Iterator[Server]:
    """A MariaDB server with an empty database `fedqueue`, its root user open to this machine; `options` are its own."""
    program, installer = _program("mariadbd"), _program("mariadb-install-db")
    # Its own short place: a server run as nobody can't enter a test's folder under root's.
    with tempfile.TemporaryDirectory(prefix="mariadb-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        user = "nobody" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(data, user)
            shutil.chown(folder, user)
        subprocess.run(
            [
                installer,
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *(["--user=nobody"] if user else []),
            ],
            check=True,
            capture_output=True,
        )
        port = free_port()
        command = [
            program,
            "--no-defaults",
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder}/mariadb.sock",
            f"--pid-file={folder}/mariadb.pid",
            "--character-set-server=utf8mb4",
            *options,
        ]
        url = f"mariadb+pymysql://root@127.0.0.1:{port}/fedqueue"
        server = Server(url, command, folder / "mariadb.log", lambda: _answers(port), user=user)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def fresh_mariadb_database(server: Server) -> Iterator[str]:
    """The URL of an empty database of the caller's own."""
    name = f"t{uuid4().hex}"
    port = int(server.url.rsplit(":", 1)[1].split("/")[0])
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=port, user="root")) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        yield f"mariadb+pymysql://root@127.0.0.1:{port}/{name}"
        connection.cursor().execute(f"DROP DATABASE {name}")


@contextmanager
def rabbitmq_server(*tls: str) -> Iterator[Server]:
    """A RabbitMQ node of its own, with the guest user; with lines of configuration about TLS it speaks nothing else."""
    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if not program.exists():
        pytest.skip("rabbitmq-server is not installed: Debian's package rabbitmq-server brings it")
    with tempfile.TemporaryDirectory(prefix="rabbitmq-") as place:
        folder = Path(place)
        port, distribution_port, epmd_port = free_port(), free_port(), free_port()
        listener = ["listeners.tcp = none", f"listeners.ssl.default = 127.0.0.1:{port}"] if tls else []
        (folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in (*listener, *tls)))
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": place,
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"fedqueue{port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            **({} if tls else {"RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(port)}),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{place}/mnesia",
            "RABBITMQ_LOG_BASE": f"{place}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{place}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # Its own name server: the machine's would outlive the test.
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        server = Server(
            f"amqps://guest:guest@localhost:{port}//" if tls else f"amqp://guest:guest@127.0.0.1:{port}//",
            [str(program)],
            folder / "rabbitmq.log",
            lambda: listens(port),
            environment=environment,
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["epmd", "-port", str(epmd_port), "-kill"], check=False, capture_output=True)


def rabbitmqctl(server: Server, *arguments: str) -> str:
    """What RabbitMQ's own tool says when it is told that of the node."""
    done = subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", "--quiet", *arguments],
        env=server.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: Debian's package mariadb-server brings it")
    return found


def _answers(port: int) -> bool:
    try:
        connection = pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2)
    except pymysql.err.OperationalError:
        return False
    connection.cursor().execute("CREATE DATABASE IF NOT EXISTS fedqueue CHARACTER SET utf8mb4")
    connection.close()
    return True
