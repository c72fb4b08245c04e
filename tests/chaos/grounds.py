"""Where a chaos run takes place: each database and each broker by its name, real and of the test's own.

`valkey` is what the wheel brings (or $REDIS_SERVER names), `redis` Debian's; MariaDB and RabbitMQ are Debian's, too.
What is not installed skips the test, saying so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, Literal, overload

import pytest

from tests.debian_servers import fresh_mariadb_database, mariadb_server, rabbitmq_server
from tests.servers import Server, fresh_database, postgres_server, valkey_server

DATABASES: Final = ("sqlite", "postgresql", "mariadb")
BROKERS: Final = ("valkey", "redis", "rabbitmq")

_SHARED: Final = {"postgresql": ("postgres", fresh_database), "mariadb": ("mariadb", fresh_mariadb_database)}


@overload
def database_on(
    kind: str, folder: Path, request: pytest.FixtureRequest, *, own_server: Literal[False] = ...
) -> AbstractContextManager[str]: ...


@overload
def database_on(
    kind: str, folder: Path, request: pytest.FixtureRequest, *, own_server: Literal[True]
) -> AbstractContextManager[tuple[str, Server]]: ...


def database_on(
    kind: str, folder: Path, request: pytest.FixtureRequest, *, own_server: bool = False
) -> AbstractContextManager[str] | AbstractContextManager[tuple[str, Server]]:
    """The URL of an empty database of the caller's own, on the server that all tests share.

    `own_server`: also a server of the caller's own, which may be killed and started again. It keeps what it has
    committed whatever happens, as in production (the shared ones need not). SQLite has no server.
    """
    if own_server:
        return _own_server(kind, folder)
    if kind == "sqlite":
        return nullcontext(f"sqlite:///{folder}/hub.db")
    fixture, fresh = _SHARED[kind]
    return fresh(request.getfixturevalue(fixture))


def broker_on(kind: str, folder: Path, *, debug: bool = False) -> AbstractContextManager[Server]:
    """A broker of the caller's own, which may be killed; its data are in `folder`, RabbitMQ's in a place of its own.

    `debug`: a Redis-like one takes DEBUG, which can put it to sleep.
    """
    if kind == "rabbitmq":
        return rabbitmq_server()
    return valkey_server(folder, program=_redis_program() if kind == "redis" else None, debug=debug)


@contextmanager
def _own_server(kind: str, folder: Path) -> Iterator[tuple[str, Server]]:
    with postgres_server(folder) if kind == "postgresql" else mariadb_server() as server:
        yield server.url, server


def _redis_program() -> Path:
    named = os.environ.get("REDIS_SERVER", "redis-server")
    found = shutil.which(named, path=f"{os.environ.get('PATH', '')}:/usr/bin")
    if found is None:
        pytest.skip(f"{named} can't be run: Debian's package redis-server brings it, or set REDIS_SERVER")
    return Path(found)
