"""Follow-ups: written down with their cause, sent until the broker has them, nothing unless configured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.records import ModelStatus, UpdateStatus
from tasks.domain.lifecycle import advance
from tasks.domain.notifications import send_waiting, tell
from tasks.domain.rounds import run_round
from tests.unit.domain.conftest import Bench


@pytest.fixture
def told(tmp_path: Path) -> Bench:
    """A hub that tells another service."""
    return Bench(tmp_path, notify_task="theirs.fact", notify_queue="theirs")


def test_nobody_is_told_unless_somebody_is_configured(bench: Any) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, ["x"])
    assert bench.metadata.pull_outbox_messages() == []
    assert send_waiting(bench.hub) == 0


def test_a_round_tells_that_its_aggregate_was_posted_and_the_run_is_over(told: Bench) -> None:
    model, (one, two) = told.model(max_rounds=1)
    told.submit(model, two, ["x"])
    told.submit(model, one, [1.0])
    aggregate = told.post(model)
    assert send_waiting(told.hub) == 6
    assert {(task, queue) for task, _, queue in told.sent[-6:]} == {("theirs.fact", "theirs")}
    heard = [message for _, message, _ in told.sent[-6:]]
    assert [(each["event"], each["details"].get("status")) for each in heard] == [
        ("model.status_changed", "INITIATED"),
        ("update.quarantined", None),
        ("model.status_changed", "RUNNING"),
        ("aggregate.posted", None),
        ("model.status_changed", "RESULTS_UPLOADED"),
        ("model.finished", "RESULTS_UPLOADED"),
    ]
    assert heard[1]["details"]["reason_code"] == "SCHEMA"
    assert heard[3]["details"]["digest"] == aggregate.data.digest
    assert send_waiting(told.hub) == 0, "what the broker has is not sent again"


def quarantines(told: Bench) -> list[tuple[int, str]]:
    """The updates that others were told were set aside, and why."""
    send_waiting(told.hub)
    heard = [message for _, message, _ in told.sent if message.get("event") == "update.quarantined"]
    return [(each["details"]["update_id"], each["details"]["reason_code"]) for each in heard]


def test_an_update_that_a_newer_one_supersedes_is_told_of(told: Bench) -> None:
    model, (one, _) = told.model()
    older = told.submit(model, one, [2.0])
    told.submit(model, one, [3.0])
    told.post(model)
    assert quarantines(told) == [(older.id, "DUPLICATE")]


def test_an_update_that_grew_stale_is_told_of(told: Bench) -> None:
    """Each was near enough when it came; the round went on without the one that rested."""
    model, (one, two) = told.model(furthest_base_agg=1)
    resting = told.submit(model, two, [5.0])
    with told.metadata.transaction():
        claim = told.metadata.claim_model(model, 1000)
        assert claim is not None
        running = told.metadata.register_model_updates_for_aggregation([resting], claim=claim)
        told.metadata.return_model_updates(running, status=UpdateStatus.FAILED, rest_ms={resting.id: 60_000})
        told.metadata.release_claim(claim)
    told.submit(model, one, [1.0])
    told.post(model)
    assert run_round(told.hub, model.id).outcome == "idle"
    assert quarantines(told) == [(resting.id, "STALE")]


def test_what_the_broker_does_not_take_waits_and_what_it_took_is_not_sent_again(told: Bench) -> None:
    model, (one, two) = told.model()
    for client in (one, two):
        told.submit(model, client, ["x"])
    taken: list[str] = []

    def breaks_after_one(_task: str, message: Any, _queue: str | None) -> None:
        if taken:
            raise ConnectionError("the broker is gone")
        taken.append(message["key"])

    with pytest.raises(ConnectionError):
        send_waiting(replace(told.hub, send=breaks_after_one))
    assert len(told.metadata.pull_outbox_messages()) == 2
    assert send_waiting(told.hub) == 2
    assert taken[0] not in [message["key"] for _, message, _ in told.sent]


def test_what_was_undone_is_told_to_nobody(told: Bench) -> None:
    """A notification is written with its cause, and goes with it."""
    model, _ = told.model()
    send_waiting(told.hub)
    before = len(told.sent)
    with told.metadata.transaction() as transaction:
        advance(told.hub, told.metadata.lock_model(model), ModelStatus.RUNNING)
        transaction.set_rollback()
    assert send_waiting(told.hub) == 0
    assert len(told.sent) == before


def test_one_fact_is_told_under_one_key_however_often_it_comes_about(told: Bench) -> None:
    """A transaction may be run again, or the same fact found by two: its receiver hears of one."""
    model, _ = told.model()
    send_waiting(told.hub)
    for _ in range(2):
        with told.metadata.transaction():
            tell(told.hub, model, "model.finished", f"model.finished:{model.uuid}:0", {"status": "ERROR"})
    assert [message.key for message in told.metadata.pull_outbox_messages()] == [f"model.finished:{model.uuid}:0"]
