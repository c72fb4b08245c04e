"""A report of failure is cut to the limits, never refused for them; everything else is as strict as ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from fedqueue import EventBuffer, InvalidArgument
from fedqueue.messages.events import FLEvent
from fedqueue.messages.failure_reports import NO_TEXT, cut_failure_report
from tests.unit.client.test_feed_calls import Calls, all_accepted

MODEL = UUID(int=1)
LARGE = {"a": "x" * 8_192}

# What is over a limit, and what is kept of it.
OVER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"log": "H" * 40_000 + "T" * 40_000},
        {"log": "H" * 32_743 + "\n[… 14514 characters left out …]\n" + "T" * 32_743},
    ),
    ({"log": ""}, {"log": NO_TEXT}),
    ({"log": "a\0b\ud800"}, {"log": "a\\x00b\\ud800"}),
    ({"log": "x", "fl_client_name": "n" * 201}, {"fl_client_name": "n" * 199 + "…"}),
    ({"log": "x", "fl_client_name": ""}, {"fl_client_name": None}),
    ({"log": "x", "global_round": 0}, {"global_round": None}),
    ({"log": "x", "global_round": -1}, {"global_round": None}),
    ({"log": "x", "global_round": 2**31}, {"global_round": None}),
    ({"log": "x", "global_round": True}, {"global_round": None}),
    ({"log": "x", "global_round": "third"}, {"global_round": None}),
    ({"log": "x", "details": LARGE}, {"details": {"left_out": "details of 8200 bytes"}}),
    ({"log": "x", "details": {"a": float("nan")}}, {"details": {"left_out": "details of 9 bytes"}}),
    ({"log": "x", "details": "none"}, {"details": {"left_out": "details of 6 bytes"}}),
]


@pytest.mark.parametrize(("over", "kept"), OVER, ids=range(len(OVER)))
def test_what_is_over_a_limit_is_cut(over: dict[str, Any], kept: dict[str, Any]) -> None:
    ids = {"event_id": uuid4(), "model_id": MODEL}
    report = cut_failure_report(ids | {"success": False, "details": {"b": 1}} | over)
    event = FLEvent.model_validate(report)
    expected = FLEvent.model_validate(ids | {"log": "x", "success": False, "details": {"b": 1}} | kept)
    assert event == expected
    assert cut_failure_report(report) == report, "cut once"


@pytest.mark.parametrize(
    "fields",
    [
        {"log": "x" * 65_537},
        {"log": "x", "success": True, "global_round": 0},
        {"log": "x", "success": "perhaps"},
        {"event_type": "CLIENT_DROPPED", "success": False, "details": LARGE},
        {"metric": {"label": "loss", "result": 1.0}, "success": False, "log": "x"},
        {"success": False},
        {"success": False, "log": 7},
        None,
        ["log"],
    ],
    ids=range(9),
)
def test_what_is_no_report_is_not_touched(fields: Any) -> None:
    assert cut_failure_report(fields) is None


@pytest.mark.parametrize("way", ["send_event", "send_events", "add_log", "buffer"])
def test_a_report_over_every_limit_does_not_raise_into_the_training(way: str) -> None:
    calls = Calls(all_accepted)
    over: Mapping[str, Any] = {
        "success": False,
        "fl_client_name": "n" * 201,
        "global_round": 0,
        "details": LARGE,
    }
    text = "x" * 65_537
    if way == "send_event":
        calls.send_event(MODEL, log=text, **over)
    elif way == "send_events":
        calls.send_events([{"model_id": MODEL, "log": text, **over}])
    elif way == "add_log":
        calls.add_log(MODEL, text, **over)
    else:
        with calls.events(MODEL) as events:
            events.log(text, **over)
    ((_, message),) = calls.hub.sent
    (sent,) = message.get("events") or message.get("entries") or [message]
    assert len(sent["log"]) < 65_537
    assert sent["log"].startswith("xxx")
    assert sent["fl_client_name"] == "n" * 199 + "…"
    assert "global_round" not in sent
    assert sent["details"] == {"left_out": "details of 8200 bytes"}


def test_what_else_is_wrong_with_a_report_is_told_as_ever() -> None:
    calls = Calls(all_accepted)
    with pytest.raises(InvalidArgument) as refused:
        calls.add_log(MODEL, "x" * 65_537, success=False, run_id="tuesday")
    assert refused.value.field == "run_id"
    with EventBuffer(lambda *_: None, MODEL) as events, pytest.raises(InvalidArgument, match="65536"):
        events.log("x" * 65_537)
    assert calls.hub.sent == []
