"""What every task does around its work: parse, answer, keep refusals, come back while the database is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, current_app
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from connectors.errors import BrokerUnavailable, DatabaseUnavailable
from tasks import feed_reading, models, rounds, updates
from tasks.base import emit
from tasks.refusals import Refusals
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


def test_a_task_answers_with_a_value(bench: Bench) -> None:
    answer = _call(models.create, {"model_id": str(uuid4()), "name": "digits"})
    assert answer["rejection"] is None
    assert answer["value"]["name"] == "digits"


@pytest.mark.parametrize(
    ("payload", "field", "words"),
    [
        ({"model_id": "not a uuid"}, "model_id", "valid UUID"),
        ({}, "model_id", "Field required"),
        ({"model_id": str(uuid4()), "nmae": "x"}, "nmae", "Extra inputs are not permitted"),
        ({"model_id": str(uuid4()), "v": 2}, "v", "Input should be 1"),
        ({"model_id": str(uuid4()), "name": "a\0b"}, "name", "NUL"),
        ({"model_id": str(uuid4()), "max_norm": float("nan")}, "max_norm", "finite"),
        ("nonsense", None, "valid dictionary"),
        (None, None, "valid dictionary"),
    ],
)
def test_a_message_that_is_none_is_refused_and_kept(bench: Bench, payload: Any, field: str | None, words: str) -> None:
    """Nothing is dropped silently: the message lies in the dead letters, whole, with the field and the rule."""
    answer = _call(models.create, payload)
    assert answer["value"] is None
    assert (answer["rejection"]["kind"], answer["rejection"]["field"]) == ("InvalidMessage", field)
    assert words in answer["rejection"]["reason"]
    (letter,) = bench.metadata.pull_dead_letters()
    assert (letter.task, letter.kind, letter.field) == ("fedqueue.models.create", "InvalidMessage", field)


@pytest.mark.parametrize("over", [0, 1])
def test_inline_data_is_at_most_256_kib_of_json(bench: Bench, over: int) -> None:
    """Written without spaces: 131,072 digits, 131,070 commas, two brackets; and the same with one digit more."""
    data = [1] * (128 * 1024 - 2) + [10 ** (over + 2) - 1]
    assert len(json.dumps(data, separators=(",", ":"))) == 256 * 1024 + over
    created = _call(models.create, {"model_id": str(uuid4()), "data_format": "json", "initial_data": data})
    model, (client,) = bench.model(clients=1)
    message = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(client), "data": data}
    submitted = _call(updates.submit, message)
    if over:
        rejections = [answer["rejection"] for answer in (created, submitted)]
        assert [(each["kind"], each["field"]) for each in rejections] == [
            ("InvalidMessage", "initial_data"),
            ("InvalidMessage", "data"),
        ]
        assert all("more than 256 KiB of JSON: put it in the store" in each["reason"] for each in rejections)
    else:
        assert (created["rejection"], submitted["value"]["status"]) == (None, "PENDING")


def test_a_refusal_of_the_rules_is_answered_and_kept(bench: Bench) -> None:
    missing = str(uuid4())
    answer = _call(models.pause, {"model_id": missing})
    assert answer["rejection"] == {
        "kind": "UnknownModel",
        "field": "model_id",
        "reason": f"there is no model {missing}",
        "limit": None,
    }
    (letter,) = bench.metadata.pull_dead_letters()
    assert letter.payload == {"model_id": missing}


@pytest.mark.parametrize("asks", [models.get, models.latest, feed_reading.list_logs, feed_reading.get_metrics])
def test_a_question_for_what_is_not_there_is_answered_and_not_kept(bench: Bench, asks: Any) -> None:
    """Nothing can be done about it later, and whoever asks is answered; a question that is none is a mistake, kept."""
    answer = _call(asks, {"model_id": str(uuid4())})
    assert (answer["rejection"]["kind"], answer["value"]) == ("UnknownModel", None)
    assert bench.metadata.pull_dead_letters() == []
    assert _call(asks, {"model_id": 7})["rejection"]["kind"] == "InvalidMessage"
    assert len(bench.metadata.pull_dead_letters()) == 1


def test_a_task_comes_back_while_the_database_is_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("no route")

    rests: list[float] = []
    monkeypatch.setattr("tasks.base.time.sleep", rests.append)
    monkeypatch.setattr(bench.metadata, "pull_federated_model_w_id", away)
    monkeypatch.setattr(models.get, "retry", lambda exc, countdown, throw: Retry(exc=exc, when=countdown))
    with pytest.raises(Retry) as retried:
        models.get.apply(args=[{"model_id": str(uuid4())}], throw=True)
    # The process rests, and the message then waits at the broker: with an ETA it would wait in a worker's memory.
    assert 0 < rests[0] <= 2
    assert retried.value.when == 0
    assert bench.metadata.pull_dead_letters() == []


def test_a_retry_that_the_broker_does_not_take_gives_the_message_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery would reject it for good: with both database and broker away for a moment it would be lost."""

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("no route")

    def no_broker(exc: BaseException, countdown: float, throw: bool) -> Retry:
        raise Reject(OperationalError("no broker"), requeue=False)

    monkeypatch.setattr(bench.metadata, "pull_federated_model_w_id", away)
    monkeypatch.setattr(models.get, "retry", no_broker)
    with pytest.raises(Reject) as given_back:
        models.get.run({"model_id": str(uuid4())})
    assert given_back.value.requeue


def test_what_must_not_be_lost_brings_its_task_back_while_the_broker_is_away(bench: Bench) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("the broker is gone")

    with pytest.raises(BrokerUnavailable, match=r"others\.told could not be sent: the broker is gone"):
        emit(replace(bench.hub, send=away), "others.told", {})


def test_a_field_of_a_senders_own_making_is_kept_as_far_as_there_is_room(bench: Bench) -> None:
    """A database refuses more than its column holds, and the message would be kept nowhere."""
    answer = _call(models.get, {"model_id": str(uuid4()), "\ud800" + "x" * 1_000: 1})
    assert answer["rejection"]["kind"] == "InvalidMessage"
    assert len(answer["rejection"]["field"]) <= 200
    (letter,) = bench.metadata.pull_dead_letters()
    assert letter.field == answer["rejection"]["field"]
    nested = _call(models.create, {"model_id": str(uuid4()), "x" * 1_000: "\0"})
    assert len(nested["rejection"]["field"]) == 200


def test_a_submission_sends_for_its_round_and_a_round_for_the_next(bench: Bench) -> None:
    model, (one, two) = bench.model()
    for client in (one, two):
        message = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(client), "data": [1]}
        assert _call(updates.submit, message)["value"]["status"] == "PENDING"
    assert bench.sent == [("fedqueue.rounds.aggregate", {"model_id": model.id}, None)] * 2
    answer = _call(rounds.aggregate, {"model_id": model.id})
    assert (answer["value"]["outcome"], answer["value"]["aggregate_id"]) == ("posted", 1)


def test_a_poll_sends_for_every_model_with_something_to_do(bench: Bench) -> None:
    bench.model()
    busy, (one, _) = bench.model()
    bench.submit(busy, one, [1.0])
    bench.sent.clear()
    _call(rounds.poll, {})
    assert bench.sent == [("fedqueue.rounds.aggregate", {"model_id": busy.id}, None)]


def test_a_round_that_a_poll_sent_for_says_how_many_updates_it_waits_for(bench: Bench) -> None:
    """A poll's hint is carried out, and its answer names what the model's aggregator takes at least."""
    model, (one, _) = bench.model(aggregator="krum", aggregator_params={"num_byzantine": 1})
    bench.submit(model, one, [1.0])
    bench.sent.clear()
    assert _call(rounds.poll, {})["value"]["outcome"] == "polled"
    ((task, message, _queue),) = bench.sent
    assert task == rounds.aggregate.name
    answer = _call(rounds.aggregate, message)["value"]
    assert answer["outcome"] == "waiting"
    assert answer["reason"] == "krum: 1 of 5 updates, the fewest it takes with its parameters"


@pytest.mark.parametrize(
    ("policy", "hints"),
    [
        ({"requirement": None}, [1, 1, 1]),
        ({"requirement": "require_x_clients", "requirement_args": [3]}, [0, 0, 1]),
        ({"requirement": "released", "requirement_args": [0]}, [0, 0, 0]),
        ({"requirement": "released", "requirement_args": [1]}, [1, 1, 1]),
        ({"requirement": None, "aggregator": "fedbuff", "aggregator_params": {"buffer_size": 2}}, [0, 1, 1]),
        ({"requirement": None, "aggregator": "krum", "aggregator_params": {"num_byzantine": 0}}, [0, 0, 1]),
    ],
)
def test_a_submission_sends_for_a_round_that_may_be_due(bench: Bench, policy: dict[str, Any], hints: list[int]) -> None:
    """Where it can't be for certain, the look that is spared is a third of what the submission costs."""
    model, clients = bench.model(clients=3, initial_data=[0.0], **policy)
    sent = []
    for client in clients:
        bench.sent.clear()
        message = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(client), "data": [1.0]}
        assert _call(updates.submit, message)["value"]["status"] == "PENDING"
        sent.append([task for task, _, _ in bench.sent].count(rounds.aggregate.name))
    assert sent == hints


def test_a_hub_that_counts_no_open_updates_sends_for_every_round(bench: Bench) -> None:
    """Without limits nobody asks how many there are, and it is not asked for this."""
    rules = ("submissions_per_minute", "open_updates", "open_bytes")
    unlimited = {f"{whose}_{rule}": None for whose in ("client", "model") for rule in rules}
    bench.hub = replace(bench.hub, settings=bench.hub.settings.model_copy(update=unlimited))
    current_app.hub = bench.hub
    model, (client,) = bench.model(clients=1, requirement="require_x_clients", requirement_args=[3])
    message = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(client), "data": [1.0]}
    bench.sent.clear()
    _call(updates.submit, message)
    assert [task for task, _, _ in bench.sent] == [rounds.aggregate.name]


def test_a_hint_that_the_broker_does_not_take_is_no_failure(bench: Bench, tmp_path: Path) -> None:
    """The update is committed: the sender must hear so, and the sweep finds the round."""
    model, (one, _) = bench.model()

    def away(*_: Any) -> None:
        raise OperationalError("the broker is gone")

    app = updates.submit.app
    app.hub = replace(bench.hub, send=away)
    message = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(one), "data": [1]}
    assert _call(updates.submit, message)["value"]["status"] == "PENDING"
    assert bench.metadata.pull_models_to_aggregate() == [model.id]


def test_a_hint_about_a_deleted_model_is_answered_and_a_request_refused(bench: Bench) -> None:
    """The sweep may have found what a dead worker left of it; to everybody else the model is not there."""
    model, _ = bench.model()
    with bench.metadata.transaction():
        bench.metadata.delete_federated_models([model])
    assert _call(rounds.aggregate, {"model_id": model.id})["value"]["outcome"] == "deleted"
    assert bench.metadata.pull_dead_letters() == []
    assert _call(rounds.aggregate, {"model_id": str(model.uuid)})["rejection"]["kind"] == "UnknownModel"


def test_of_a_flood_that_a_limit_refuses_one_letter_a_minute_is_kept(bench: Bench) -> None:
    """Each is answered with the rule and when to come again; the letter says how many there were before it."""
    model, (one, two) = bench.model()
    now = [0.0]
    settings = bench.hub.settings.model_copy(update={"client_submissions_per_minute": 1})
    updates.submit.app.hub = replace(bench.hub, settings=settings, refusals=Refusals(lambda: now[0]))

    def submit(client: Any) -> dict[str, Any]:
        named = {"submission_id": str(uuid4()), "model_id": str(model.uuid), "client_id": str(client)}
        return _call(updates.submit, named | {"data": [1]})

    assert submit(one)["value"]["status"] == "PENDING"
    for _ in range(4):
        rejection = submit(one)["rejection"]
        assert (rejection["kind"], rejection["field"]) == ("LimitExceeded", "client_id")
        assert rejection["limit"] == {
            "rule": "client_submissions_per_minute",
            "limit": 1,
            "found": 2,
            "retry_after": 60.0,
        }
    (letter,) = bench.metadata.pull_dead_letters()
    assert (letter.task, letter.kind, letter.payload["client_id"]) == (updates.submit.name, "LimitExceeded", str(one))
    submit(two)
    submit(two)
    assert [letter.payload["client_id"] for letter in bench.metadata.pull_dead_letters()] == [str(one), str(two)]
    now[0] = 60.0
    submit(one)
    assert bench.metadata.pull_dead_letters()[-1].reason.endswith("(4 such refusals since the last that was kept)")
