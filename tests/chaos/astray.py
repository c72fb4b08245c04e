"""What a hub was told beside updates, and where it is now: each thing once, or refused with a letter that says so."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any
from uuid import UUID

from tests.chaos.questions import Questions, questions_to
from tests.chaos.traffic import Told

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def astray(database_url: str, told: Told) -> list[str]:
    """Events, scores and notifications that are lost or there twice, and garbage that is still there; some of each."""
    with questions_to(database_url) as questions:
        written = _written(questions)
        letters = _in_letters(questions)
        scores = Counter(
            (aggregate, _uuid(client))
            for aggregate, client in questions.ask(
                "SELECT s.aggregate_id, c.uuid FROM client_aggregate_score s JOIN client c ON c.id = s.client_id"
            )
        )
        posted = {
            f"aggregate.posted:{_uuid(model)}:{number}"
            for model, number in questions.ask(
                "SELECT m.uuid, a.number FROM model_aggregate a JOIN federated_model m ON m.id = a.model_id"
            )
        }
        followed = Counter(key for (key,) in questions.ask("SELECT o.key FROM outbox o") if "aggregate.posted" in key)
    lost, twice = [], [event for event, times in written.items() if times > 1]
    for event, model in told.events.items():
        # One that comes after its model's end is refused like any other.
        if not written[event] and not (model in told.deleted and event in letters):
            lost.append(event)
    return [
        *_some("events lost", lost),
        *_some("events written twice", twice),
        *_some("refused events written", [event for event in told.refused if written[event]]),
        *_some("refused events without a letter", [event for event in told.refused if event not in letters]),
        *_some("scores lost", [score for score in told.scored if not scores[score]]),
        *_some("scores kept twice", [score for score, times in scores.items() if times > 1]),
        *_some("aggregates that nobody is told of", posted - followed.keys()),
        *_some("tidings of no aggregate", followed.keys() - posted),
        *_some("blobs not collected", [path for path in told.orphans if path.exists()]),
    ]


def _written(questions: Questions) -> Counter[UUID]:
    return Counter(
        _uuid(event)
        for table in ("model_log", "model_metric")
        for (event,) in questions.ask(f"SELECT event_id FROM {table} WHERE event_id IS NOT NULL")
    )


def _in_letters(questions: Questions) -> set[UUID]:
    payloads = (payload for (payload,) in questions.ask("SELECT payload FROM dead_letter"))
    return {UUID(found) for payload in payloads for found in _UUID.findall(_text(payload))}


def _text(payload: Any) -> str:
    return payload if isinstance(payload, str) else json.dumps(payload)


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _some(what: str, which: Any) -> list[str]:
    found = sorted(map(str, which))
    return [f"{len(found)} {what}: {', '.join(found[:5])}"] if found else []
