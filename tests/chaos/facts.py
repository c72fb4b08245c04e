"""What the hub's database says, read with plain SQL: nothing of the hub's own reading code, whose errors would hide."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg
import pymysql
from psycopg.rows import dict_row
from pymysql.cursors import DictCursor
from sqlalchemy.engine import make_url

Row = dict[str, Any]

_TABLES: Final = {
    "models": "federated_model",
    "updates": "model_update",
    "aggregates": "model_aggregate",
    "artifacts": "model_artifact",
    "rounds": "round",
    "audit": "model_audit",
    "logs": "model_log",
}
_UUIDS: Final = {"uuid", "client_uuid", "submission_id", "event_id", "run_id"}
_JSON: Final = {"aggregator_params", "manifest", "details"}


@dataclass(frozen=True)
class Facts:
    """Every row of the tables that the invariants speak of, as they stood at one moment; by id, where they have one."""

    models: list[Row]
    updates: list[Row]
    aggregates: list[Row]
    artifacts: list[Row]
    rounds: list[Row]
    audit: list[Row]
    logs: list[Row]


def read_facts(database_url: str) -> Facts:
    """The database's facts, all of one snapshot."""
    if database_url.startswith("sqlite"):
        return _from_sqlite(database_url.removeprefix("sqlite:///"))
    if database_url.startswith("mariadb"):
        return _from_mariadb(database_url)
    server = psycopg.connect(database_url.replace("+psycopg", ""), row_factory=dict_row)
    server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with closing(server):
        return _facts({name: server.execute(_select(table)).fetchall() for name, table in _TABLES.items()})


def _from_sqlite(path: str) -> Facts:
    file = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)
    with closing(file):
        file.row_factory = sqlite3.Row
        file.execute("BEGIN")
        return _facts({name: map(dict, file.execute(_select(table))) for name, table in _TABLES.items()})


def _from_mariadb(database_url: str) -> Facts:
    with closing(connect_mariadb(database_url)) as server, server.cursor(DictCursor) as rows:
        # By its own default the server reads at REPEATABLE READ, which the words CONSISTENT SNAPSHOT need.
        rows.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        tables = {}
        for name, table in _TABLES.items():
            rows.execute(_select(table).replace('"', "`"))
            tables[name] = rows.fetchall()
        return _facts(tables)


def connect_mariadb(database_url: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """A plain connection to the MariaDB database at that URL, committing each statement."""
    url = make_url(database_url)
    return pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=10,
    )


def _select(table: str) -> str:
    order = "model_id, fence" if table == "round" else "id"
    return f'SELECT * FROM "{table}" ORDER BY {order}'


def _facts(tables: Mapping[str, Iterable[Any]]) -> Facts:
    return Facts(**{name: [_plain(row) for row in rows] for name, rows in tables.items()})


def _plain(row: Mapping[str, Any]) -> Row:
    """The row with UUIDs as UUIDs and JSON as values, whichever way the database hands them out."""
    plain = dict(row)
    for name in _UUIDS & plain.keys():
        if isinstance(plain[name], str):
            plain[name] = UUID(plain[name])
    for name in _JSON & plain.keys():
        if isinstance(plain[name], str):
            plain[name] = json.loads(plain[name])
    return plain
