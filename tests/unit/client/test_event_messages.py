"""What an event, a feed's entry and a metric's point may say, and the field that is named when it is wrong."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from pydantic import ValidationError

from fedqueue.messages import Message
from fedqueue.messages.events import MAX_DETAILS_BYTES, STATUS_EVENTS, FLEvent, IngestEvents
from fedqueue.messages.feed import LogMessage, MetricMessage

IDS = {"event_id": str(uuid4()), "model_id": str(uuid4())}
POINT = {"label": "accuracy", "result": 0.5}


def fault_of(kind: type[Message], payload: dict[str, Any]) -> tuple[str, str]:
    """The dotted field and the words of the only thing that is wrong with it."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(IDS | payload)
    (error,) = refused.value.errors(include_url=False)
    return ".".join(map(str, error["loc"])), error["msg"]


@pytest.mark.parametrize(
    ("payload", "field", "words"),
    [
        ({}, "", "exactly one of event_type, log and metric"),
        ({"event_type": "ERROR", "log": "x"}, "", "exactly one of event_type, log and metric"),
        ({"event_type": "QUEUE_POSITION"}, "event_type", "hub's own event"),
        ({"event_type": "PENDING"}, "event_type", "hub's own event"),
        ({"event_type": "lower case"}, "event_type", "match pattern"),
        ({"event_type": "X" * 101}, "event_type", "at most 100 characters"),
        ({"event_type": "ROUND_STARTED"}, "global_round", "say which"),
        ({"event_type": "CLIENT_RESULT_RECEIVED"}, "global_round", "say which"),
        ({"event_type": "ROUND_AGGREGATED"}, "global_round", "say which"),
        ({"event_type": "ROUND_STARTED", "global_round": 0}, "global_round", "count from 1"),
        ({"log": "x", "global_round": 0}, "global_round", "count from 1"),
        ({"log": "x", "global_round": -1}, "global_round", "greater than or equal to 0"),
        ({"log": "x", "global_round": 2**31}, "global_round", "less than or equal to 2147483647"),
        ({"log": "x", "global_round": True}, "global_round", "not true or false"),
        ({"log": "x", "global_round": "2"}, "global_round", "valid integer"),
        ({"log": "x", "global_round": 2.0}, "global_round", "valid integer"),
        ({"metric": POINT, "global_round": False}, "global_round", "not true or false"),
        ({"log": ""}, "log", "at least 1 character"),
        ({"log": "x" * 65_537}, "log", "at most 65536 characters"),
        ({"metric": POINT}, "global_round", "needs its global_round, or an x_value"),
        ({"metric": POINT | {"result": float("nan")}, "global_round": 1}, "metric.result", "finite"),
        ({"metric": POINT | {"result": float("inf")}, "global_round": 1}, "metric.result", "finite"),
        ({"metric": POINT | {"x_value": float("nan")}, "global_round": 1}, "metric.x_value", "finite"),
        ({"metric": POINT | {"x_label": ""}, "global_round": 1}, "metric.x_label", "at least 1 character"),
        ({"metric": POINT | {"x_label": "x" * 65}, "global_round": 1}, "metric.x_label", "at most 64 characters"),
        ({"metric": POINT | {"label": ""}, "global_round": 1}, "metric.label", "at least 1 character"),
        ({"log": "x", "fl_client_name": ""}, "fl_client_name", "at least 1 character"),
        ({"log": "x", "details": {"a": "ä" * 4_095}}, "details", "8198 bytes"),
        ({"log": "x", "details": {"a": float("inf")}}, "details.a.float", "finite"),
        ({"metric": POINT, "global_round": 1, "details": {"a": 1}}, "details", "no room for details"),
        ({"log": "x", "colour": 1}, "colour", "Extra inputs are not permitted"),
        ({"log": "x", "run_id": "tuesday"}, "run_id", "valid UUID"),
        ({"log": "x", "event_id": None}, "event_id", "UUID"),
    ],
)
def test_an_event_that_breaks_a_rule_has_the_field_named(payload: dict[str, Any], field: str, words: str) -> None:
    found, message = fault_of(FLEvent, payload)
    assert found == field
    assert words in message


@pytest.mark.parametrize(
    "payload",
    [
        *({"event_type": status} for status in sorted(STATUS_EVENTS)),
        {"event_type": "SOMETHING_NEW"},
        {"event_type": "JOB_WAITING_FOR_RESOURCES", "details": {"reason": "no GPU"}},
        {"event_type": "ROUND_STARTED", "global_round": 2**31 - 1},
        {"log": "x", "details": {"a": "x" * (MAX_DETAILS_BYTES - len('{"a":""}'))}},
        {"metric": POINT, "global_round": 0},
        {"metric": POINT | {"x_value": -1.5, "x_label": "x" * 64}},
    ],
)
def test_an_event_at_the_edge_of_the_rules_is_taken(payload: dict[str, Any]) -> None:
    FLEvent.model_validate(IDS | payload)


def test_a_round_counted_in_numpy_s_integers_is_a_number_on_the_wire() -> None:
    event = FLEvent.model_validate(IDS | {"log": "x", "global_round": np.int64(3)})
    assert event.model_dump_json(include={"global_round"}) == '{"global_round":3}'


def test_details_nested_without_end_are_refused_not_a_crash() -> None:
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    field, words = fault_of(FLEvent, {"log": "x", "details": {"a": nested}})
    assert field.startswith("details.")
    assert "depth" in words


def test_one_event_may_stand_in_the_place_of_a_batch() -> None:
    event = IDS | {"log": "x"}
    alone, batch = IngestEvents.model_validate(event), IngestEvents.model_validate({"events": [event]})
    assert alone.events == batch.events == [event]
    assert (alone.place, batch.place) == ("", "events")


def test_a_batch_is_not_read_further_than_its_length() -> None:
    """One that is no event must not spoil the others."""
    assert IngestEvents.model_validate({"events": [1, None, "x"]}).events == [1, None, "x"]
    assert fault_of_batch([]) == "events"
    assert fault_of_batch([{}] * 1_001) == "events"


def fault_of_batch(events: list[Any]) -> str:
    with pytest.raises(ValidationError) as refused:
        IngestEvents.model_validate({"events": events})
    return str(refused.value.errors()[0]["loc"][0])


@pytest.mark.parametrize(
    ("kind", "payload", "field", "words"),
    [
        (LogMessage, {"event_type": "STOPPED"}, "event_type", "send it to fedqueue.events.ingest"),
        (LogMessage, {"event_type": "QUEUE_POSITION"}, "event_type", "hub's own event"),
        (LogMessage, {"event_type": "ROUND_STARTED"}, "global_round", "say which"),
        (LogMessage, {"log": "x", "global_round": 0}, "global_round", "count from 1"),
        (LogMessage, {}, "", "exactly one of event_type and log"),
        (LogMessage, {"log": "x", "global_round": True}, "global_round", "not true or false"),
        (MetricMessage, POINT | {"global_round": "2"}, "global_round", "valid integer"),
        (MetricMessage, POINT, "global_round", "needs its global_round, or an x_value"),
    ],
)
def test_an_entry_sent_past_ingest_keeps_the_same_rules(
    kind: type[Message], payload: dict[str, Any], field: str, words: str
) -> None:
    found, message = fault_of(kind, payload)
    assert found == field
    assert words in message
