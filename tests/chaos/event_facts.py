"""What became of a burst, read from the database with plain SQL, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tests.chaos.event_sender import STATUSES, Burst

_CHAIN: Final = {"INITIATED": 1, "PREPARED": 2, "RUNNING": 3, "RESULTS_UPLOADED": 4}

_COUNT: Final = """
    SELECT (SELECT count(*) FROM model_log WHERE event_type IS NULL OR NOT event_type = ANY(%s))
         + (SELECT count(*) FROM model_metric)
"""
_ENTRIES: Final = """
    SELECT e.id, m.uuid AS model, m.status, e.event_id, e.run_id, e.event_type, e.log, e.success, e.global_round,
           e.details ->> 'size_bytes' AS size_bytes, s.fl_client_name AS slot, e.fl_client_name
    FROM model_log e JOIN federated_model m ON m.id = e.model_id LEFT JOIN fl_kit_slot s ON s.trust_id = e.trust_id
    ORDER BY e.id
"""
_POINTS: Final = """
    SELECT m.uuid AS model, e.event_id, e.run_id, e.label, e.result, e.x_value, e.global_round,
           s.fl_client_name AS slot, e.fl_client_name
    FROM model_metric e JOIN federated_model m ON m.id = e.model_id LEFT JOIN fl_kit_slot s ON s.trust_id = e.trust_id
    ORDER BY e.id
"""


@dataclass(frozen=True)
class EventFacts:
    """The rows of feeds and metrics, by id, the models' statuses, and how many dead letters there are."""

    entries: list[dict[str, Any]]
    points: list[dict[str, Any]]
    statuses: dict[str, str]
    dead_letters: int


def count_entries(database_url: str) -> int:
    """Rows of the burst's events that are no statuses."""
    with closing(psycopg.connect(database_url.replace("+psycopg", ""))) as server:
        found = server.execute(_COUNT, (list(_CHAIN),)).fetchone()
    assert found is not None
    return int(found[0])


def read_event_facts(database_url: str) -> EventFacts:
    """All of one snapshot."""
    server = psycopg.connect(database_url.replace("+psycopg", ""), row_factory=dict_row)
    server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with closing(server):
        letters = server.execute("SELECT count(*) AS n FROM dead_letter").fetchone()
        assert letters is not None
        models = server.execute("SELECT uuid, status FROM federated_model").fetchall()
        return EventFacts(
            server.execute(_ENTRIES).fetchall(),
            server.execute(_POINTS).fetchall(),
            {str(model["uuid"]): model["status"] for model in models},
            letters["n"],
        )


def faults(burst: Burst, facts: EventFacts) -> list[str]:
    """Everything that is not as it must be: lost, twice, changed, out of order; a few of each."""
    expected = {event["event_id"]: event for event in burst.entries()}
    callbacks = {event["event_id"] for process in range(burst.processes) for event in burst.statuses_of(process)}
    told = [row for row in facts.entries if row["event_type"] in _CHAIN]
    written = [row for row in facts.entries if row["event_type"] not in _CHAIN] + facts.points
    found = Counter(str(row["event_id"]) for row in written)
    strangers = [row["event_id"] for row in told if str(row["event_id"]) not in callbacks]
    changed = [row["event_id"] for row in written if not _is_whole(expected.get(str(row["event_id"])), row)]
    problems = [
        *_some("lost", expected.keys() - found.keys()),
        *_some("twice", [event_id for event_id, times in found.items() if times > 1]),
        *_some("never sent", found.keys() - expected.keys()),
        *_some("status of nobody's", strangers),
        *_some("changed", changed),
    ]
    for model, run in zip(burst.models, burst.runs, strict=True):
        steps = [row for row in told if str(row["model"]) == model]
        names = [row["event_type"] for row in steps]
        if sorted(set(names), key=_CHAIN.__getitem__) != names:
            problems.append(f"model {model}: its status regressed or was told twice: {names}")
        if not names or facts.statuses[model] != names[-1] or names[-1] != STATUSES[-1]:
            problems.append(f"model {model} is {facts.statuses[model]}, its feed says {names}")
        if {row["run_id"] for row in steps} != {None if run is None else UUID(run)}:
            problems.append(f"model {model}: statuses of other runs than {run}")
    if facts.dead_letters:
        problems.append(f"{facts.dead_letters} dead letters, although nothing was wrong with any event")
    return problems


def _is_whole(event: dict[str, Any] | None, row: dict[str, Any]) -> bool:
    """Whether the row says what the event said, of the trust behind its sender's name."""
    if event is None:
        return True  # said elsewhere
    same = (
        str(row["model"]) == event["model_id"]
        and row["global_round"] == event["global_round"]
        and row["slot"] == row["fl_client_name"] == event["fl_client_name"]
        and ("run_id" not in event or str(row["run_id"]) == event["run_id"])
    )
    if "metric" in event:
        point = event["metric"]
        return bool(
            same
            and (row.get("label"), row.get("result")) == (point["label"], point["result"])
            and row["x_value"] == event["global_round"]
        )
    size = None if "details" not in event else str(event["details"]["size_bytes"])
    return bool(
        same
        and (row.get("event_type"), row.get("log")) == (event.get("event_type"), event.get("log"))
        and row["success"] == event.get("success", True)
        and row["size_bytes"] == size
    )


def _some(what: str, which: Any) -> list[str]:
    found = sorted(map(str, which))
    return [f"{len(found)} {what}: {', '.join(found[:5])}"] if found else []
