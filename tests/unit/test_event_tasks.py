"""The task that takes events in: what it sends, what it keeps, and that it comes back while the broker is away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.exceptions import Retry
from kombu.exceptions import OperationalError

from connectors.records import ModelStatus
from fedqueue.messages import names
from tasks import events, feed, models
from tests.unit.domain.conftest import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A hub behind a Celery application that runs tasks where they are called."""
    made = Bench(tmp_path)
    app = Celery("test", set_as_current=True)
    app.conf.task_always_eager = True
    app.hub = made.hub
    app.finalize()
    yield made
    app.close()


def _call(task: Any, payload: Any) -> dict[str, Any]:
    answer: dict[str, Any] = task.apply(args=[payload]).get()
    return answer


def test_events_are_sent_on_and_what_is_wrong_is_kept_alone(bench: Bench) -> None:
    model, _ = bench.model(clients=0)
    good = {"event_id": str(uuid4()), "model_id": str(model.uuid), "log": "hello"}
    bad = good | {"event_id": str(uuid4()), "global_round": 0}
    answer = _call(events.ingest, {"events": [good, bad]})["value"]
    assert answer["accepted"] == 1
    ((task, message, queue),) = bench.sent
    assert (task, queue) == (names.LOGS_ADD, None)
    (letter,) = bench.metadata.pull_dead_letters()
    assert (letter.task, letter.field, letter.payload) == (names.EVENTS_INGEST, "events.1.global_round", bad)
    assert _call(feed.add_logs, message)["value"] == {"added": 1, "repeated": 0, "refused": []}
    assert [entry.log for entry in bench.metadata.pull_logs(model)] == ["hello"]


@pytest.mark.parametrize(
    "payload", ["nonsense", None, {}, {"events": []}, {"events": {}}, {"events": [1] * 1_001}, {"events": [1], "x": 1}]
)
def test_what_is_no_message_of_events_is_refused_whole(bench: Bench, payload: Any) -> None:
    answer = _call(events.ingest, payload)
    assert answer["rejection"]["kind"] == "InvalidMessage"
    (letter,) = bench.metadata.pull_dead_letters()
    assert letter.payload == payload


def test_a_broker_that_is_away_loses_no_event(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have taken a part: all of it is sent again, and counts once. Dead letters are kept when all is sent."""
    model, _ = bench.model(clients=0)
    ids = {"model_id": str(model.uuid)}
    batch = {
        "events": [
            ids | {"event_id": str(uuid4()), "log": "hello"},
            ids | {"event_id": str(uuid4()), "metric": {"label": "loss", "result": 1}, "global_round": 1},
            None,
        ]
    }

    def takes_one(task: str, message: Mapping[str, Any], queue: str | None) -> None:
        if bench.sent:
            raise OperationalError("the broker is gone")
        bench.sent.append((task, message, queue))

    app = events.ingest.app
    app.hub = replace(bench.hub, send=takes_one)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.batching.time.sleep", lambda _: None)
        patched.setattr(events.ingest, "retry", lambda exc, countdown, throw: Retry(exc=exc, when=countdown))
        with pytest.raises(Retry):
            events.ingest.apply(args=[batch], throw=True)
    assert bench.metadata.pull_dead_letters() == []
    app.hub = bench.hub
    assert _call(events.ingest, batch)["value"]["accepted"] == 2
    assert [task for task, _, _ in bench.sent] == [names.LOGS_ADD, names.LOGS_ADD, names.METRICS_ADD]
    for task, message, _ in bench.sent:
        _call(feed.add_logs if task == names.LOGS_ADD else feed.add_metrics, message)
    assert len(bench.metadata.pull_logs(model)) == len(bench.metadata.pull_metrics(model)) == 1
    assert len(bench.metadata.pull_dead_letters()) == 1


def test_a_status_waits_a_few_times_for_its_run_to_begin_and_no_longer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = bench.model(clients=0)
    first = uuid4()
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, ModelStatus.INITIATED, run_id=first)
        bench.metadata.update_model_status(model, ModelStatus.INITIATED, run_id=uuid4())
    monkeypatch.setattr(models.update_status, "retry", lambda exc, countdown, throw: Retry(exc=exc, when=countdown))

    def tried(run_id: UUID, retries: int) -> Any:
        message = {"model_id": str(model.uuid), "status": "RUNNING", "run_id": str(run_id)}
        return models.update_status.apply(args=[message], retries=retries, ignore_result=True, throw=True).get()

    for retries in range(6):
        with pytest.raises(Retry, match="has not begun"):
            tried(uuid4(), retries)
    assert tried(uuid4(), 6)["value"]["reason"] == "stale run"
    assert tried(first, 0)["value"]["reason"] == "stale run", "it is over, and will not begin"


def test_statuses_are_carried_out_in_order_and_one_that_is_wrong_spoils_no_other(bench: Bench) -> None:
    model, _ = bench.model(clients=0)
    ids = {"model_id": str(model.uuid)}
    walk = [ids | {"event_id": str(uuid4()), "status": status} for status in ("INITIATED", "PREPARED", "RUNNING")]
    reused = walk[0] | {"status": "ERROR"}
    unknown = ids | {"status": "DONE"}
    answer = _call(models.update_statuses, {"statuses": [*walk[:2], reused, unknown, None, walk[2]]})["value"]
    assert [each and (each["status"], each["changed"]) for each in answer["statuses"]] == [
        ("INITIATED", True),
        ("PREPARED", True),
        None,
        None,
        None,
        ("RUNNING", True),
    ]
    refused = [
        ("EventReused", "statuses.2.event_id"),
        ("InvalidStatus", "statuses.3.status"),
        ("InvalidMessage", "statuses.4"),
    ]
    assert [(each["kind"], each["field"]) for each in answer["refused"]] == refused
    letters = bench.metadata.pull_dead_letters()
    assert {(letter.task, letter.kind, letter.field) for letter in letters} == {
        (names.MODELS_UPDATE_STATUSES, *each) for each in refused
    }
    assert reused in [letter.payload for letter in letters]
    assert [entry.event_type for entry in bench.metadata.pull_logs(model)] == ["INITIATED", "PREPARED", "RUNNING"]
    again = _call(models.update_statuses, {"statuses": walk})["value"]
    assert [each["reason"] for each in again["statuses"]] == ["repeated"] * 3


def test_statuses_wait_for_their_run_and_are_told_in_their_order_and_refused_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = bench.model(clients=0)
    first, second = uuid4(), uuid4()
    ids = {"model_id": str(model.uuid)}
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, ModelStatus.INITIATED, run_id=first)
    monkeypatch.setattr(models.update_statuses, "retry", lambda exc, countdown, throw: Retry(exc=exc, when=countdown))
    of_second = [ids | {"status": status, "run_id": str(second)} for status in ("PREPARED", "RUNNING", "ERROR")]
    batch = {"statuses": [ids | {"status": "STOPPED", "run_id": str(first)}, *of_second, ids | {"status": "DONE"}]}

    def tried(retries: int) -> Any:
        return models.update_statuses.apply(args=[batch], retries=retries, ignore_result=True, throw=True).get()

    with pytest.raises(Retry, match=r"PREPARED of run .* has not begun"):
        tried(0)
    assert bench.now(model).status is ModelStatus.STOPPED
    assert bench.metadata.pull_dead_letters() == []
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, ModelStatus.INITIATED, run_id=second)
    assert [each and each["changed"] for each in tried(1)["value"]["statuses"]] == [False, True, True, True, None]
    assert [entry.event_type for entry in bench.metadata.pull_logs(model)] == [
        "INITIATED",
        "STOPPED",
        "INITIATED",
        "PREPARED",
        "RUNNING",
        "ERROR",
    ]
    assert [letter.kind for letter in bench.metadata.pull_dead_letters()] == ["InvalidStatus"]


def test_statuses_wait_no_longer_than_one_does(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = bench.model(clients=0)
    with bench.metadata.transaction():
        bench.metadata.update_model_status(model, ModelStatus.INITIATED, run_id=uuid4())
    monkeypatch.setattr(models.update_statuses, "retry", lambda exc, countdown, throw: Retry(exc=exc, when=countdown))
    batch = {"statuses": [{"model_id": str(model.uuid), "status": "RUNNING", "run_id": str(uuid4())}]}
    with pytest.raises(Retry, match="has not begun"):
        models.update_statuses.apply(args=[batch], retries=5, ignore_result=True, throw=True)
    given_up = models.update_statuses.apply(args=[batch], retries=6, ignore_result=True, throw=True).get()
    assert [each["reason"] for each in given_up["value"]["statuses"]] == ["stale run"]
