"""The tables that the peers keep their updates and aggregates in, and the judge of what became of every update."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg

VALUES = 2_000  # numbers an update has
GATE = 4  # updates that a round waits for

_SCHEMA = """
CREATE TABLE policy (gate int NOT NULL);
INSERT INTO policy VALUES (%s);
CREATE TABLE model_update (
    id text PRIMARY KEY, num_examples int NOT NULL, data text NOT NULL,
    status text NOT NULL DEFAULT 'PENDING', aggregate int
);
CREATE TABLE aggregate (id serial PRIMARY KEY, parent int, included text NOT NULL, data text NOT NULL);
"""


def make_tables(url: str) -> None:
    """Empty tables in an empty database."""
    with psycopg.connect(url, autocommit=True) as database:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                database.execute(statement, (GATE,) if "%s" in statement else None)


def open_the_gate(url: str) -> None:
    """Let what is left be aggregated, however little it is."""
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("UPDATE policy SET gate = 1")


def insert_update(database: psycopg.Connection[Any], name: str, num_examples: int, values: Sequence[float]) -> None:
    """One update as it came in."""
    database.execute(
        "INSERT INTO model_update (id, num_examples, data) VALUES (%s, %s, %s)",
        (name, num_examples, json.dumps(values)),
    )


@dataclass(frozen=True)
class Aggregate:
    """One of them as the judge sees it: what it follows, and whose updates are in it."""

    id: int
    parent: int | None
    included: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of the updates whose senders were told that they are there."""

    lost: int  # in no aggregate
    counted_twice: int
    stranded: int  # of the lost: left RUNNING by somebody dead
    broken_chains: int  # aggregates that do not follow the one before them


def judge(accepted: Collection[str], aggregates: Sequence[Aggregate], states: Mapping[str, str]) -> Verdict:
    """The verdict over all that was accepted, from the aggregates in order and each update's last state."""
    times = Counter(name for aggregate in aggregates for name in aggregate.included)
    lost = [name for name in accepted if not times[name]]
    breaks = sum(later.parent != earlier.id for earlier, later in pairwise(aggregates))
    return Verdict(
        lost=len(lost),
        counted_twice=sum(count > 1 for count in times.values()),
        stranded=sum(states.get(name) == "RUNNING" for name in lost),
        broken_chains=breaks,
    )


def read_aggregates(url: str) -> list[Aggregate]:
    """A peer's aggregates, oldest first."""
    with psycopg.connect(url) as database:
        rows = database.execute("SELECT id, parent, included FROM aggregate ORDER BY id").fetchall()
    return [Aggregate(number, parent, tuple(json.loads(included))) for number, parent, included in rows]


def read_states(url: str) -> dict[str, str]:
    """Each update's state, by name."""
    with psycopg.connect(url) as database:
        return dict(database.execute("SELECT id, status FROM model_update").fetchall())
