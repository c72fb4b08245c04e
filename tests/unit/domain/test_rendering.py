"""A feed reads as people write, and whatever comes in its details, it reads at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.records import LogEntry, ModelStatus
from tasks.domain.rendering import readable_size, render

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
READ = (
    "total_rounds",
    "size_bytes",
    "returned",
    "expected",
    "counted",
    "reason",
    "reason_code",
    "update_id",
    "num_updates",
    "position",
    "total",
    "since",
    "silence_timeout",
)
TYPES = (
    "ROUND_STARTED",
    "CLIENT_RESULT_RECEIVED",
    "ROUND_AGGREGATED",
    "ROUND_FAILED",
    "ROUND_RESCUED",
    "UPDATE_QUARANTINED",
    "CLIENT_DROPPED",
    "JOB_WAITING_FOR_RESOURCES",
    "QUEUE_POSITION",
    "RUN_SILENT",
    "EARLY_STOP",
    "CLIENT_JOINED",
    *ModelStatus,
)


def entry(event_type: str | None, round_: int | None = 3, details: Any = None, log: str | None = None) -> LogEntry:
    return LogEntry(
        id=1,
        model_id=1,
        event_type=event_type,
        log=log,
        success=True,
        global_round=round_,
        details={} if details is None else details,
    )


@pytest.mark.parametrize(
    ("event_type", "details", "text"),
    [
        ("ROUND_STARTED", {"total_rounds": 20}, "Round 3 of 20 started"),
        ("CLIENT_RESULT_RECEIVED", {"size_bytes": 2_345_678}, "Round 3 weights uploaded · 2.3 MB"),
        ("ROUND_AGGREGATED", {"returned": 4, "expected": 5}, "Round 3 aggregated · 4 of 5 trusts returned"),
        ("ROUND_AGGREGATED", {"returned": 1, "expected": 1}, "Round 3 aggregated · 1 of 1 trust returned"),
        ("ROUND_AGGREGATED", {"returned": 2}, "Round 3 aggregated · 2 trusts returned"),
        (
            "ROUND_AGGREGATED",
            {"returned": 4, "expected": 5, "counted": "participants"},
            "Round 3 aggregated · 4 of 5 participants returned",
        ),
        ("ROUND_FAILED", {"reason": "disk full"}, "Round 3 failed: disk full"),
        (
            "ROUND_RESCUED",
            {"num_updates": 2},
            "Round 3 rescued from a worker that fell silent · 2 updates taken back",
        ),
        (
            "UPDATE_QUARANTINED",
            {"update_id": 7, "reason_code": "SHAPE", "reason": "tensor 'w' has shape [3], the model's [4]"},
            "Round 3 update 7 set aside · SHAPE: tensor 'w' has shape [3], the model's [4]",
        ),
        ("CLIENT_DROPPED", {"reason": "out of memory"}, "Round 3 dropped out: out of memory"),
        ("EARLY_STOP", {"reason": "no better"}, "Stopped early after round 3: no better"),
        ("CLIENT_JOINED", {}, "Client joined · round 3"),
    ],
)
def test_an_event_of_a_round_is_a_sentence(event_type: str, details: Mapping[str, Any], text: str) -> None:
    assert render(entry(event_type, 3, details)) == text


@pytest.mark.parametrize(
    ("event_type", "details", "text"),
    [
        ("JOB_WAITING_FOR_RESOURCES", {}, "Waiting for resources"),
        ("JOB_WAITING_FOR_RESOURCES", {"reason": "2 of 3 sites"}, "Waiting for resources: 2 of 3 sites"),
        ("QUEUE_POSITION", {"position": 2, "total": 7}, "Position 2 in the queue of 7"),
        ("TRAINING_STARTED", {}, "Training started"),
        ("RESULTS_UPLOAD_FAILED", {"reason": "no route"}, "Upload of the results failed: no route"),
        (
            "RUN_SILENT",
            {"since": "2026-11-22T12:00:00.5+00:00", "silence_timeout": 60.0},
            "Given up: nothing was heard of the run since 2026-11-22 12:00:00 UTC (it may be silent for 60 s)",
        ),
        ("RUN_SILENT", {"since": "noon"}, "Given up: nothing was heard of the run since noon"),
        (
            "RUN_SILENT",
            {"since": "9999-12-31T23:59:59-23:00"},
            "Given up: nothing was heard of the run since 9999-12-31T23:59:59-23:00",
        ),
        ("SOMETHING_NEW", {}, "Something new"),
    ],
)
def test_an_event_of_a_run_is_a_sentence(event_type: str, details: Mapping[str, Any], text: str) -> None:
    assert render(entry(event_type, None, details)) == text


@pytest.mark.parametrize("status", ModelStatus)
def test_every_status_is_told_with_its_reason(status: ModelStatus) -> None:
    assert render(entry(status, None, {"reason": "because"})) == f"{render(entry(status, None))}: because"


@settings(deadline=None)
@given(st.text(), JSON)
def test_free_text_comes_back_as_it_was_sent(text: str, details: Any) -> None:
    assert render(entry(None, None, details, log=text)) == text


@pytest.mark.parametrize(
    ("event_type", "details", "text"),
    [
        ("ROUND_STARTED", {"total_rounds": "many"}, "Round 3 started"),
        ("ROUND_STARTED", {"total_rounds": 2}, "Round 3 started"),
        ("CLIENT_RESULT_RECEIVED", {"size_bytes": -1}, "Round 3 weights uploaded"),
        ("CLIENT_RESULT_RECEIVED", {"size_bytes": True}, "Round 3 weights uploaded"),
        ("CLIENT_RESULT_RECEIVED", {"size_bytes": 10**400}, "Round 3 weights uploaded"),
        ("CLIENT_RESULT_RECEIVED", {"size_bytes": 2.5e6}, "Round 3 weights uploaded · 2.5 MB"),
        ("ROUND_AGGREGATED", {"returned": 6, "expected": 5}, "Round 3 aggregated · 6 trusts returned"),
        ("ROUND_AGGREGATED", {"returned": None, "expected": 5}, "Round 3 aggregated"),
        ("ROUND_AGGREGATED", ["returned"], "Round 3 aggregated"),
        ("ROUND_FAILED", {"reason": {"code": 7}}, "Round 3 failed"),
        ("ROUND_FAILED", {"reason": " two\n lines "}, "Round 3 failed: two lines"),
    ],
)
def test_a_detail_that_makes_no_sense_is_left_out(event_type: str, details: Any, text: str) -> None:
    assert render(entry(event_type, 3, details)) == text


@settings(deadline=None)
@given(
    st.sampled_from(TYPES) | st.text(min_size=1),
    st.none() | st.integers(min_value=0, max_value=2**31 - 1),
    JSON | st.dictionaries(st.sampled_from(READ), JSON | st.integers(min_value=-2, max_value=2**70)),
)
def test_whatever_the_details_hold_one_line_of_text_comes_of_it(
    event_type: str, round_: int | None, details: Any
) -> None:
    text = render(entry(event_type, round_, details))
    assert text.strip()
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (41_000_000_000, "41 GB"),
        (2**63 - 1, "9.2 EB"),
    ],
)
def test_a_size_is_told_in_powers_of_a_thousand(size_bytes: int, text: str) -> None:
    assert readable_size(size_bytes) == text
