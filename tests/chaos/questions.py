"""Small plain SQL questions to a running hub's database, whichever it is: nothing of the hub's own reading code."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pymysql

from tests.chaos.facts import connect_mariadb


class Questions:
    """Asks over one connection, each question seeing what is committed by then."""

    def __init__(self, connection: sqlite3.Connection | psycopg.Connection | pymysql.Connection[Any]) -> None:
        self._connection = connection

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """The rows that answer it."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(question)
            return list(cursor.fetchall())

    def count(self, question: str) -> int:
        """The answer to a question for one number; 0 for none."""
        return int(self.ask(question)[0][0] or 0)


@contextmanager
def questions_to(database_url: str) -> Iterator[Questions]:
    """Ask from one thread, until the block ends."""
    connection: sqlite3.Connection | psycopg.Connection | pymysql.Connection[Any]
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)
    elif database_url.startswith("mariadb"):
        connection = connect_mariadb(database_url)
    else:
        connection = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
    with closing(connection):
        yield Questions(connection)
