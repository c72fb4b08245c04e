"""Events from another service's client through a whole hub: a real server, real workers, SQLite and PostgreSQL."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery

from config.loading import load_settings
from config.places import broker_url_in, database_url_in, store_url_in
from connectors.metadata import BaseMetadataConnector
from connectors.records import DeadLetter, FederatedModel, Trust
from fedqueue import Client, Rejected
from fedqueue.messages import names
from tests.servers import fresh_database
from worker.bootstrap import build_metadata
from worker.supervisor import Supervisor

NOWHERE = UUID(int=9)


class World:
    """A running hub with a client of it, one trust in a slot, and a look at its database."""

    def __init__(self, client: Client, metadata: BaseMetadataConnector, broker_url: str) -> None:
        self.client = client
        self.metadata = metadata
        self.broker_url = broker_url
        with metadata.transaction():
            self.kings = metadata.add_trust(Trust(0, uuid4(), "King's", "KCH"))
            self.guys = metadata.add_trust(Trust(0, uuid4(), "Guy's"))
            metadata.set_fl_kit_slot("site-1", self.kings)
            metadata.set_fl_kit_slot("site-2", self.guys)

    def model(self) -> FederatedModel:
        """A new model that knows King's alone."""
        model_id = self.client.create_model(requirement="require_x_clients", requirement_args={"x": 1}).model_id
        model = self.metadata.pull_federated_model_w_id(model_id)
        assert model is not None
        with self.metadata.transaction():
            self.metadata.set_model_trusts(model, [self.kings])
        return model

    def letters(self, event_id: UUID | str) -> list[DeadLetter]:
        """The dead letters that hold that event."""
        found: list[DeadLetter] = []
        after = 0
        while page := self.metadata.pull_dead_letters(after_id=after, limit=1_000):
            found += page
            after = page[-1].id
        return [
            each for each in found if isinstance(each.payload, dict) and each.payload.get("event_id") == str(event_id)
        ]

    def logs(self, model: FederatedModel) -> list[str | None]:
        return [entry.log for entry in self.metadata.pull_logs(model, limit=10_000) if entry.event_type is None]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("hub")
    with ExitStack() as stack:
        database_url = database_url_in(home)
        if request.param == "postgresql":
            database_url = stack.enter_context(fresh_database(request.getfixturevalue("postgres")))
        broker_url = broker_url_in(home)
        settings = load_settings(
            None,
            home=home,
            database_url=database_url,
            broker_url=broker_url,
            result_url=broker_url,
            store_url=store_url_in(home),
        )
        stack.enter_context(Supervisor(settings))
        metadata = build_metadata(settings)
        stack.callback(metadata.close)
        client = stack.enter_context(Client(broker_url, broker_url, settings.store_url))
        yield World(client, metadata, broker_url)


def wait_for(holds: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


REFUSED: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"event_type": "QUEUE_POSITION"}, "InvalidMessage", "event_type", "hub's own event"),
    ({"event_type": "ROUND_STARTED"}, "InvalidMessage", "global_round", "say which"),
    ({"event_type": "ROUND_STARTED", "global_round": 0}, "InvalidMessage", "global_round", "count from 1"),
    ({"event_type": "ROUND_STARTED", "global_round": 2**31}, "InvalidMessage", "global_round", "2147483647"),
    ({"metric": {"label": "a", "result": 1}, "global_round": -1}, "InvalidMessage", "global_round", "equal to 0"),
    ({"metric": {"label": "a", "result": 1}}, "InvalidMessage", "global_round", "or an x_value"),
    (
        {"metric": {"label": "a", "result": float("nan")}, "global_round": 1},
        "InvalidMessage",
        "metric.result",
        "finite",
    ),
    (
        {"metric": {"label": "a", "result": 1, "x_value": float("-inf")}},
        "InvalidMessage",
        "metric.x_value",
        "finite",
    ),
    (
        {"metric": {"label": "a", "result": 1, "x_label": "x" * 65}, "global_round": 1},
        "InvalidMessage",
        "metric.x_label",
        "64 characters",
    ),
    (
        {"metric": {"label": "a", "result": 1, "x_label": ""}, "global_round": 1},
        "InvalidMessage",
        "metric.x_label",
        "at least 1",
    ),
    ({"log": "x", "details": {"a": "x" * 8_192}}, "InvalidMessage", "details", "the limit is 8192"),
    ({"log": "a\0b"}, "InvalidMessage", "log", "NUL"),
    ({"log": "x", "event_type": "ERROR"}, "InvalidMessage", None, "exactly one"),
    ({"log": "x", "model_id": str(NOWHERE)}, "UnknownModel", "model_id", "there is no model"),
    (
        {"event_type": "CLIENT_RESULT_RECEIVED", "global_round": 1, "fl_client_name": "site-9"},
        "AttributionFailed",
        "fl_client_name",
        "no trust's slot",
    ),
    (
        {"metric": {"label": "a", "result": 1}, "global_round": 1, "fl_client_name": "site-2"},
        "AttributionFailed",
        "fl_client_name",
        "not approved",
    ),
]


@pytest.mark.parametrize(("fields", "kind", "field", "words"), REFUSED)
def test_a_refused_event_is_answered_and_kept_with_the_field_and_the_rule(
    world: World, fields: dict[str, Any], kind: str, field: str | None, words: str
) -> None:
    """As any Celery producer sends it: the client itself would refuse most of them before they leave."""
    event = {"event_id": str(uuid4()), "model_id": str(world.model().uuid)} | fields
    app = Celery(broker=world.broker_url, backend=world.broker_url, set_as_current=False)
    sent = app.send_task(names.EVENTS_INGEST, args=[event], queue=names.EVENTS_QUEUE, ignore_result=False)
    value = sent.get(timeout=20)["value"]
    assert value["accepted"] == 0
    (refusal,) = value["refused"]
    assert (refusal["event_id"], refusal["kind"], refusal["field"]) == (event["event_id"], kind, field)
    assert words in refusal["reason"]
    (letter,) = world.letters(event["event_id"])
    assert (letter.task, letter.kind, letter.field) == (names.EVENTS_INGEST, kind, field)
    assert letter.reason == refusal["reason"]
    app.close()


def test_of_a_thousand_events_ten_bad_ones_are_refused_and_the_others_written(world: World) -> None:
    model = world.model()
    events: list[dict[str, Any]] = [
        {"model_id": model.uuid, "event_id": uuid4(), "log": str(number), "fl_client_name": "site-1"}
        if number % 2
        else {
            "model_id": model.uuid,
            "event_id": uuid4(),
            "metric": {"label": "loss", "result": number},
            "global_round": number // 2,
            "fl_client_name": "site-1",
        }
        for number in range(1_000)
    ]
    bad = sorted(random.Random(4).sample(range(1_000), 10))
    for position in bad:
        events[position]["fl_client_name"] = "site-9"
    view = world.client.send_events(events, wait=True)
    assert view.accepted == 990
    assert [(each.index, each.kind, each.field) for each in view.refused] == [
        (position, "AttributionFailed", f"events.{position}.fl_client_name") for position in bad
    ]
    for position in bad:
        (letter,) = world.letters(events[position]["event_id"])
        assert letter.field == f"events.{position}.fl_client_name"
        assert letter.payload["fl_client_name"] == "site-9"
        assert set(letter.payload) <= {"event_id", "model_id", "log", "metric", "global_round", "fl_client_name"}
    logs = [str(number) for number in range(1, 1_000, 2) if number not in bad]
    points = [float(number) for number in range(0, 1_000, 2) if number not in bad]
    wait_for(lambda: len(world.logs(model)) >= len(logs) and len(world.metadata.pull_metrics(model)) >= len(points))
    assert world.logs(model) == logs
    written = world.metadata.pull_metrics(model)
    assert [point.result for point in written] == points
    assert {(point.trust_id, point.fl_client_name, point.x_label) for point in written} == {
        (world.kings.id, "site-1", "Global Rounds")
    }
    assert all(point.x_value == point.global_round for point in written)


def test_what_is_sent_many_times_and_in_any_order_shows_up_once(world: World) -> None:
    model = world.model()
    events = [{"model_id": model.uuid, "event_id": uuid4(), "log": str(number)} for number in range(60)]
    shuffled = events * 5
    random.Random(4).shuffle(shuffled)
    for start in range(0, len(shuffled), 7):
        world.client.send_events(shuffled[start : start + 7])
    last = world.client.add_log(model.uuid, "last", wait=True)
    assert isinstance(last, UUID)
    wait_for(lambda: len(world.logs(model)) >= 61)
    time.sleep(0.5)  # for a second copy of any of them
    assert Counter(world.logs(model)) == Counter([*map(str, range(60)), "last"])


def test_the_same_id_with_another_payload_is_refused_and_kept(world: World) -> None:
    model = world.model()
    event_id = world.client.add_log(model.uuid, "first", wait=True)
    world.client.add_log(model.uuid, "first", event_id=event_id, wait=True)
    with pytest.raises(Rejected) as refused:
        world.client.add_log(model.uuid, "second", event_id=event_id, wait=True)
    assert (refused.value.kind, refused.value.field) == ("EventReused", "event_id")
    assert world.logs(model) == ["first"]
    (letter,) = world.letters(event_id)
    assert (letter.task, letter.payload["log"]) == (names.LOGS_ADD, "second")
    point = world.client.log_metric(model.uuid, "loss", 1.0, global_round=1, wait=True)
    with pytest.raises(Rejected, match="EventReused"):
        world.client.log_metric(model.uuid, "loss", 2.0, global_round=1, event_id=point, wait=True)
    assert [each.result for each in world.metadata.pull_metrics(model)] == [1.0]


def test_a_reuse_that_nobody_waits_for_lies_in_the_dead_letters(world: World) -> None:
    model = world.model()
    event_id = world.client.send_event(model.uuid, log="first", wait=True)
    wait_for(lambda: world.logs(model) == ["first"])
    world.client.send_event(model.uuid, log="second", event_id=event_id)
    wait_for(lambda: world.letters(event_id))
    (letter,) = world.letters(event_id)
    assert (letter.task, letter.kind) == (names.LOGS_ADD, "EventReused")
    assert world.logs(model) == ["first"]


def test_a_reuse_is_raised_to_whoever_waits_for_the_event(world: World) -> None:
    model = world.model()
    line = world.client.add_log(model.uuid, "first", wait=True)
    point = world.client.log_metric(model.uuid, "loss", 1.0, global_round=1, wait=True)
    world.client.send_event(model.uuid, log="first", event_id=line, wait=True)
    for event_id in (line, point):
        with pytest.raises(Rejected) as refused:
            world.client.send_event(model.uuid, log="second", event_id=event_id, wait=True)
        assert (refused.value.kind, refused.value.field) == ("EventReused", "event_id")
        (letter,) = world.letters(event_id)
        assert (letter.task, letter.payload["log"]) == (names.EVENTS_INGEST, "second")
    view = world.client.send_events(
        [{"model_id": model.uuid, "log": "new"}, {"model_id": model.uuid, "log": "third", "event_id": line}], wait=True
    )
    assert (view.accepted, [(each.kind, each.field) for each in view.refused]) == (
        1,
        [("EventReused", "events.1.event_id")],
    )


def test_a_failure_of_an_unknown_sender_is_kept_at_the_models_level(world: World) -> None:
    model = world.model()
    world.client.send_event(model.uuid, log="out of memory", success=False, fl_client_name="site-9", wait=True)
    wait_for(lambda: world.logs(model))
    (entry,) = world.metadata.pull_logs(model)
    assert (entry.log, entry.success, entry.trust_id) == ("[site-9] out of memory", False, None)


def test_a_report_of_failure_over_the_limits_is_in_the_feed(world: World) -> None:
    """As any Celery producer sends it, and as the client does."""
    model = world.model()
    report: dict[str, Any] = {
        "model_id": str(model.uuid),
        "log": "H" + "x" * 70_000 + "T",
        "success": False,
        "global_round": 0,
        "fl_client_name": "n" * 300,
        "details": {"a": "x" * 9_000},
    }
    app = Celery(broker=world.broker_url, backend=world.broker_url, set_as_current=False)
    first, second = report | {"event_id": str(uuid4())}, report | {"event_id": str(uuid4())}
    for task, message in ((names.EVENTS_INGEST, first), (names.LOGS_ADD, {"entries": [second]})):
        app.send_task(task, args=[message], queue=names.EVENTS_QUEUE)
    app.close()
    world.client.send_events([report], wait=True)
    wait_for(lambda: len(world.logs(model)) == 3)
    for entry in world.metadata.pull_logs(model):
        assert entry.log is not None
        assert entry.log.startswith(f"[{'n' * 199}…] Hxx")
        assert entry.log.endswith("characters left out …]\n" + "x" * 32_742 + "T")
        assert (entry.success, entry.trust_id, entry.global_round) == (False, None, None)
        assert entry.details == {"left_out": "details of 9008 bytes"}
    assert world.letters(first["event_id"]) == world.letters(second["event_id"]) == []


def test_a_deleted_model_takes_no_events(world: World) -> None:
    model = world.model()
    with world.metadata.transaction():
        world.metadata.delete_federated_models([model])
    calls: list[Callable[[], object]] = [
        lambda: world.client.send_event(model.uuid, "STOPPED", wait=True),
        lambda: world.client.add_log(model.uuid, "x", wait=True),
        lambda: world.client.log_metric(model.uuid, "loss", 1, global_round=1, wait=True),
    ]
    for call in calls:
        with pytest.raises(Rejected) as refused:
            call()
        assert (refused.value.kind, refused.value.field) == ("UnknownModel", "model_id")


def test_a_status_callback_moves_the_run_on_and_a_repeat_is_harmless(world: World) -> None:
    model = world.model()
    run = uuid4()
    world.client.send_event(model.uuid, "INITIATED", run_id=run)
    wait_for(lambda: status_of(world, model) == "INITIATED")
    training = world.client.send_event(model.uuid, "TRAINING_STARTED", run_id=run)
    wait_for(lambda: status_of(world, model) == "RUNNING")
    world.client.send_event(model.uuid, "TRAINING_STARTED", run_id=run, event_id=training)
    world.client.send_event(model.uuid, "ERROR", run_id=run, details={"reason": "site-1 ran out of memory"})
    wait_for(lambda: status_of(world, model) == "ERROR")
    feed = world.metadata.pull_logs(model)
    assert [entry.event_type for entry in feed] == ["INITIATED", "RUNNING", "ERROR"]
    assert feed[-1].details == {"reason": "site-1 ran out of memory"}
    assert world.letters(training) == []


def test_a_status_that_overtakes_its_run_s_beginning_is_not_lost(world: World) -> None:
    """Two workers may carry out in any order what was sent in one; an earlier run's status stays without effect."""
    model = world.model()
    first, second = uuid4(), uuid4()
    for status in ("INITIATED", "STOPPED"):
        world.client.update_status(model.uuid, status, run_id=first)
    world.client.send_event(model.uuid, "TRAINING_STARTED", run_id=second, wait=True)
    time.sleep(0.5)
    assert status_of(world, model) == "STOPPED"
    world.client.send_event(model.uuid, "INITIATED", run_id=second)
    wait_for(lambda: status_of(world, model) == "RUNNING")
    world.client.send_event(model.uuid, "ERROR", run_id=first, wait=True)
    world.client.send_event(model.uuid, "RESULTS_UPLOADED", run_id=second)
    wait_for(lambda: status_of(world, model) == "RESULTS_UPLOADED")
    told = [entry.event_type for entry in world.metadata.pull_logs(model)]
    assert told == ["INITIATED", "STOPPED", "INITIATED", "RUNNING", "RESULTS_UPLOADED"]


def test_a_status_of_a_run_that_nobody_began_is_answered_at_once(world: World) -> None:
    model = world.model()
    first = uuid4()
    world.client.update_status(model.uuid, "INITIATED", run_id=first)
    began = time.monotonic()
    answer = world.client.update_status(model.uuid, "RUNNING", run_id=uuid4())
    assert (answer.status, answer.changed, answer.reason) == ("INITIATED", False, "stale run")
    assert time.monotonic() - began < 5


def status_of(world: World, model: FederatedModel) -> str:
    found = world.metadata.pull_federated_model_w_id(model.id)
    assert found is not None
    return str(found.status)


def test_a_buffer_s_events_arrive_whole(world: World) -> None:
    model = world.model()
    with world.client.events(model.uuid, size=50, seconds=0.05) as events:
        for number in range(500):
            events.log(str(number))
            events.metric("loss", number, global_round=number, fl_client_name="site-1")
    wait_for(lambda: len(world.logs(model)) >= 500 and len(world.metadata.pull_metrics(model)) >= 500)
    assert Counter(world.logs(model)) == Counter(map(str, range(500)))
    assert sorted(point.result for point in world.metadata.pull_metrics(model)) == list(range(500))
