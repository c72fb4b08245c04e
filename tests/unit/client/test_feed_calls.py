"""What the client's calls about events put on the wire, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from fedqueue import EventsNotSent, HubUnavailable, InvalidArgument, Rejected
from fedqueue.asking import Asking
from fedqueue.feed_calls import FeedCalls
from fedqueue.messages import names as wire
from fedqueue.messages.events import FLEvent
from fedqueue.transport import BrokerAway
from tests.unit.client.test_client import Answers, ScriptedHub

MODEL = UUID(int=1)


class Calls(FeedCalls):
    """The room by itself, before a hub that is one function."""

    def __init__(self, answers: Answers) -> None:
        self.hub = ScriptedHub(answers)
        self.timeout = 1.0
        self._asking = Asking(self.hub, 1.0)


def all_accepted(task: str, message: Mapping[str, Any]) -> Any:
    if task == wire.EVENTS_INGEST:
        return {"value": {"accepted": len(message.get("events", [1]))}}
    return {"value": {"added": 1}}


@pytest.fixture
def calls() -> Calls:
    return Calls(all_accepted)


def test_a_typed_event_travels_with_what_was_said_and_no_more(calls: Calls) -> None:
    run = uuid4()
    event_id = calls.send_event(MODEL, "ROUND_STARTED", global_round=1, details={"total_rounds": 5}, run_id=run)
    ((task, message),) = calls.hub.sent
    assert task == wire.EVENTS_INGEST
    assert message == {
        "event_id": str(event_id),
        "model_id": str(MODEL),
        "run_id": str(run),
        "event_type": "ROUND_STARTED",
        "global_round": 1,
        "details": {"total_rounds": 5},
    }


def test_a_repeat_keeps_its_id(calls: Calls) -> None:
    event_id = calls.send_event(MODEL, log="x")
    assert calls.send_event(MODEL, log="x", event_id=event_id) == event_id
    assert calls.hub.sent[0] == calls.hub.sent[1]


@pytest.mark.parametrize("wait", [False, True])
def test_a_line_and_a_point_go_straight_to_their_tasks(calls: Calls, wait: bool) -> None:
    line = calls.add_log(MODEL, "out of memory", success=False, fl_client_name="site-1", wait=wait)
    point = calls.log_metric(MODEL, "loss", 0.5, global_round=3, wait=wait)
    ids = {"model_id": str(MODEL)}
    assert calls.hub.sent == [
        (
            wire.LOGS_ADD,
            {
                "entries": [
                    ids | {"event_id": str(line), "log": "out of memory", "success": False, "fl_client_name": "site-1"}
                ]
            },
        ),
        (
            wire.METRICS_ADD,
            {"points": [ids | {"event_id": str(point), "label": "loss", "result": 0.5, "global_round": 3}]},
        ),
    ]


def test_what_breaks_a_rule_is_named_and_not_sent(calls: Calls) -> None:
    for call, field in (
        (lambda: calls.send_event(MODEL, "ROUND_STARTED"), "global_round"),
        (lambda: calls.send_event(MODEL, "QUEUE_POSITION"), "event_type"),
        (lambda: calls.send_event(MODEL), "FLEvent"),
        (lambda: calls.log_metric(MODEL, "loss", float("inf"), global_round=1), "result"),
        (lambda: calls.log_metric(MODEL, "loss", 1.0), "global_round"),
        (lambda: calls.add_log(MODEL, ""), "log"),
        (lambda: calls.send_events([{"model_id": MODEL, "log": "x"}, {"model_id": MODEL}]), "events.1.FLEvent"),
        (lambda: calls.events(MODEL, size=0), "size"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            call()
        assert refused.value.field == field
    assert calls.hub.sent == []


def test_many_events_travel_in_messages_of_a_thousand(calls: Calls) -> None:
    ids = calls.send_events([{"model_id": MODEL, "log": str(number)} for number in range(2_500)])
    assert [len(message["events"]) for _, message in calls.hub.sent] == [1_000, 1_000, 500]
    sent = [UUID(event["event_id"]) for _, message in calls.hub.sent for event in message["events"]]
    assert sent == ids
    assert len(set(ids)) == 2_500


def test_a_waiting_caller_hears_which_events_were_refused_as_it_numbered_them() -> None:
    def second_of_each(task: str, message: Mapping[str, Any]) -> Any:
        refusal = {"index": 1, "kind": "AttributionFailed", "field": "events.1.fl_client_name", "reason": "nobody"}
        return {"value": {"accepted": len(message["events"]) - 1, "refused": [refusal]}}

    calls = Calls(second_of_each)
    view = calls.send_events([{"model_id": MODEL, "log": "x"}] * 1_500, wait=True)
    assert view.accepted == 1_498
    assert [(each.index, each.field) for each in view.refused] == [
        (1, "events.1.fl_client_name"),
        (1_001, "events.1001.fl_client_name"),
    ]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda calls: calls.send_event(MODEL, log="x", wait=True), "model_id"),
        (lambda calls: calls.add_log(MODEL, "x", wait=True), "entries.0.model_id"),
        (lambda calls: calls.log_metric(MODEL, "loss", 1, global_round=1, wait=True), "points.0.model_id"),
    ],
)
def test_a_single_refusal_is_raised_by_the_argument_s_name(call: Any, field: str) -> None:
    refusal = {"index": 0, "kind": "UnknownModel", "field": field, "reason": "there is no model"}
    calls = Calls(lambda _task, _message: {"value": {"accepted": 0, "added": 0, "refused": [refusal]}})
    with pytest.raises(Rejected) as refused:
        call(calls)
    assert (refused.value.kind, refused.value.field) == ("UnknownModel", "model_id")


def test_events_that_were_not_sent_come_back_with_their_ids() -> None:
    """The first message was taken, the second not: sending the rest again is all there is to do."""
    is_away = False

    def second_fails(task: str, message: Mapping[str, Any]) -> Any:
        nonlocal is_away
        if is_away:
            raise BrokerAway("no broker")
        is_away = True

    calls = Calls(second_fails)
    with pytest.raises(EventsNotSent) as left:
        calls.send_events([{"model_id": MODEL, "log": str(number)} for number in range(1_003)], timeout=0.01)
    assert [event.log for event in left.value.events] == ["1000", "1001", "1002"]
    is_away = False
    assert calls.send_events(left.value.events) == [event.event_id for event in left.value.events]


def test_one_event_that_was_not_sent_is_told_with_its_id() -> None:
    def away(task: str, message: Mapping[str, Any]) -> Any:
        raise BrokerAway("no broker")

    event_id = uuid4()
    with pytest.raises(HubUnavailable) as unsent:
        Calls(away).send_event(MODEL, log="x", event_id=event_id, timeout=0.01)
    assert unsent.value.repeat_with == {"event_id": event_id}


def test_a_buffer_sends_what_the_call_would(calls: Calls) -> None:
    run = uuid4()
    with calls.events(MODEL, run_id=run, size=10) as events:
        events.event("TRAINING_STARTED")
        events.metric("loss", 0.5, global_round=0)
    ((task, message),) = calls.hub.sent
    assert task == wire.EVENTS_INGEST
    read = [FLEvent.model_validate(event) for event in message["events"]]
    assert [(event.run_id, event.event_type) for event in read] == [(run, "TRAINING_STARTED"), (run, None)]
    assert read[1].metric is not None
    assert (read[1].metric.label, read[1].global_round) == ("loss", 0)
