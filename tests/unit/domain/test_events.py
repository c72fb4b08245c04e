"""What ingest makes of events: each judged by itself, turned into statuses, entries and points."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.records import Trust
from fedqueue.messages import AddLogs, AddMetrics, UpdateStatus, UpdateStatuses, names
from fedqueue.messages.events import IngestEvents
from fedqueue.messages.feed import LogMessage, MetricMessage
from tasks.domain.events import Ingested, ingest_events
from tasks.domain.feed import write_logs, write_metrics
from tasks.domain.runs import update_status, update_statuses
from tests.unit.domain.conftest import Bench


class World:
    """A model that knows one trust, King's, by one slot, site-1."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model, _ = bench.model(clients=0)
        with bench.metadata.transaction():
            self.kings = bench.metadata.add_trust(Trust(0, uuid4(), "King's"))
            bench.metadata.set_fl_kit_slot("site-1", self.kings)
            bench.metadata.set_model_trusts(self.model, [self.kings])

    def event(self, **fields: Any) -> dict[str, Any]:
        return {"event_id": str(uuid4()), "model_id": str(self.model.uuid)} | fields

    def ingest(self, *events: Any) -> Ingested:
        return ingest_events(self.bench.hub, [IngestEvents(events=list(events))])

    def ingest_alone(self, event: dict[str, Any]) -> Ingested:
        return ingest_events(self.bench.hub, [IngestEvents.model_validate(event)])


@pytest.fixture
def world(bench: Bench) -> World:
    return World(bench)


def told(ingested: Ingested) -> list[tuple[str, str | None]]:
    """(kind, field) of what was refused, in the order of the batch."""
    return [(each.kind, each.field) for each in ingested.views[0].refused]


def test_one_event_of_each_kind_goes_to_its_task(world: World) -> None:
    run = str(uuid4())
    status = world.event(event_type="TRAINING_STARTED", run_id=run, details={"reason": "all are there"})
    typed = world.event(
        event_type="CLIENT_RESULT_RECEIVED",
        fl_client_name="site-1",
        global_round=2,
        details={"size_bytes": 5},
        run_id=run,
    )
    free = world.event(log="hello", success=False, run_id=run)
    point = world.event(metric={"label": "loss", "result": 0.5}, global_round=0, fl_client_name="site-1", run_id=run)
    ingested = world.ingest(typed, free, point, status)
    ids = {"model_id": str(world.model.uuid), "run_id": run}
    kings = {"trust_id": str(world.kings.uuid), "fl_client_name": "site-1"}
    assert list(ingested.emissions()) == [
        (
            names.MODELS_UPDATE_STATUS,
            ids
            | {
                "event_id": status["event_id"],
                "status": "TRAINING_STARTED",
                "details": {"reason": "all are there"},
            },
        ),
        (
            names.LOGS_ADD,
            {
                "entries": [
                    ids
                    | kings
                    | {
                        "event_id": typed["event_id"],
                        "event_type": "CLIENT_RESULT_RECEIVED",
                        "global_round": 2,
                        "details": {"size_bytes": 5},
                    },
                    ids | {"event_id": free["event_id"], "log": "hello", "success": False},
                ]
            },
        ),
        (
            names.METRICS_ADD,
            {
                "points": [
                    ids
                    | kings
                    | {
                        "event_id": point["event_id"],
                        "label": "loss",
                        "result": 0.5,
                        "x_label": "Global Rounds",
                        "global_round": 0,
                    }
                ]
            },
        ),
    ]
    assert (ingested.views[0].accepted, ingested.views[0].refused) == (4, [])


def test_a_model_s_statuses_travel_in_one_message_in_their_order(world: World) -> None:
    """Whether they came in one message or in several that were taken together; another model's by themselves."""
    other, _ = world.bench.model(clients=0)
    walk = [world.event(event_type=status) for status in ("INITIATED", "PREPARED", "RUNNING", "ERROR")]
    alone = world.event(event_type="INITIATED") | {"model_id": str(other.uuid)}
    messages = [IngestEvents(events=[*walk[:2], alone]), *map(IngestEvents.model_validate, walk[2:])]
    emitted = list(ingest_events(world.bench.hub, messages).emissions())
    (task, message), (task_of_one, of_one) = emitted
    assert (task, task_of_one) == (names.MODELS_UPDATE_STATUSES, names.MODELS_UPDATE_STATUS)
    assert [each["event_id"] for each in message["statuses"]] == [event["event_id"] for event in walk]
    assert of_one["event_id"] == alone["event_id"]
    for each in UpdateStatuses.model_validate(message).statuses:
        UpdateStatus.model_validate(each)


def test_a_status_is_told_with_its_sender_and_round_and_kept_if_nobody_knows_its_sender(world: World) -> None:
    ingested = world.ingest(
        world.event(event_type="INITIATED", fl_client_name="site-9"),
        world.event(event_type="ERROR", fl_client_name="site-1", global_round=3, details={"reason": "no memory"}),
    )
    assert told(ingested) == []
    ((_task, message),) = ingested.emissions()
    assert not update_statuses(world.bench.hub, UpdateStatuses.model_validate(message), may_wait=False).refused
    unknown, known = world.bench.metadata.pull_logs(world.model)
    assert (unknown.trust_id, unknown.fl_client_name, unknown.global_round) == (None, "site-9", None)
    assert (known.trust_id, known.fl_client_name, known.global_round) == (world.kings.id, "site-1", 3)
    assert (known.success, known.details) == (False, {"reason": "no memory"})


def test_what_is_emitted_is_what_the_tasks_behind_it_read(world: World) -> None:
    ingested = world.ingest(
        world.event(event_type="STOPPED"),
        world.event(event_type="UNHEARD_OF", details={"a": [1, None, {"b": "ä"}]}),
        world.event(log="x" * 65_536, success=False, fl_client_name="n" * 200),
        world.event(metric={"label": "loss", "result": 1, "x_value": 2.5, "x_label": "epochs"}),
    )
    read = dict(ingested.emissions())
    UpdateStatus.model_validate(read[names.MODELS_UPDATE_STATUS])
    for entry in AddLogs.model_validate(read[names.LOGS_ADD]).entries:
        LogMessage.model_validate(entry)
    for point in AddMetrics.model_validate(read[names.METRICS_ADD]).points:
        MetricMessage.model_validate(point)


def test_bad_events_are_named_by_their_place_and_the_others_go_on(world: World) -> None:
    stranger = world.event(event_type="ROUND_STARTED", global_round=1, fl_client_name="site-9")
    batch: list[Any] = [world.event(log=str(number)) for number in range(12)]
    batch[1] = world.event(event_type="ROUND_STARTED", global_round=0)
    batch[2] = world.event(event_type="QUEUE_POSITION")
    batch[3] = world.event(metric={"label": "loss", "result": float("nan")}, global_round=1)
    batch[4] = world.event(log="x", details={"a": "x" * 9_000})
    batch[5] = world.event(log="a\0b")
    batch[6] = stranger
    batch[7] = world.event(log="x", model_id=str(UUID(int=9)))
    batch[8] = "nonsense"
    batch[9] = world.event(log="x", details={"a": {"b": float("inf")}})
    batch[10] = world.event(**{"x" * 1_000: 1})
    ingested = world.ingest(*batch)
    assert told(ingested) == [
        ("InvalidMessage", "events.1.global_round"),
        ("InvalidMessage", "events.2.event_type"),
        ("InvalidMessage", "events.3.metric.result"),
        ("InvalidMessage", "events.4.details"),
        ("InvalidMessage", "events.5.log"),
        ("AttributionFailed", "events.6.fl_client_name"),
        ("UnknownModel", "events.7.model_id"),
        ("InvalidMessage", "events.8"),
        ("InvalidMessage", "events.9.details"),
        ("InvalidMessage", "events.10." + "x" * 190),
    ]
    assert [each.event_id for each in ingested.views[0].refused][5] == stranger["event_id"]
    ((_task, message),) = ingested.emissions()
    assert [entry["log"] for entry in message["entries"]] == ["0", "11"]
    assert ingested.views[0].accepted == 2
    # What is kept of each is that event, and nothing of the rest.
    assert [each.payload for each in ingested.refused if each.place.index == 6] == [stranger]


def test_an_event_that_is_the_whole_message_has_its_fields_named_as_they_are(world: World) -> None:
    assert told(world.ingest_alone(world.event(event_type="ROUND_STARTED"))) == [("InvalidMessage", "global_round")]
    assert told(world.ingest_alone(world.event())) == [("InvalidMessage", None)]


def test_events_of_a_deleted_model_are_refused(world: World) -> None:
    with world.bench.metadata.transaction():
        world.bench.metadata.delete_federated_models([world.model])
    ingested = world.ingest(world.event(event_type="STOPPED"), world.event(log="x"))
    assert told(ingested) == [("UnknownModel", "events.0.model_id"), ("UnknownModel", "events.1.model_id")]
    assert list(ingested.emissions()) == []


def test_a_failure_is_kept_though_nobody_knows_its_sender(world: World) -> None:
    """At the model's level, with the sender's name in it: what went wrong is worth more than the form."""
    ingested = world.ingest(
        world.event(log="out of memory", success=False, fl_client_name="site-9", global_round=3),
        world.event(log="all is well", fl_client_name="site-9"),
        world.event(event_type="CLIENT_DROPPED", success=False, fl_client_name="site-9"),
        world.event(metric={"label": "loss", "result": 1}, global_round=1, fl_client_name="site-9"),
    )
    ((_task, message),) = ingested.emissions()
    (entry,) = message["entries"]
    assert (entry["log"], entry["success"], entry["global_round"]) == ("[site-9] out of memory", False, 3)
    assert not {"trust_id", "fl_client_name"} & set(entry)
    assert told(ingested) == [("AttributionFailed", f"events.{index}.fl_client_name") for index in (1, 2, 3)]


def test_whoever_waits_is_told_of_ids_that_stand_for_something_else(world: World) -> None:
    """A repeat is no reuse, whatever kind of event it is."""
    run = str(uuid4())
    events = [
        world.event(event_type="TRAINING_STARTED", run_id=run),
        world.event(event_type="CLIENT_RESULT_RECEIVED", fl_client_name="site-1", global_round=2, details={"a": 1.0}),
        world.event(log="out of memory", success=False, fl_client_name="site-9"),
        world.event(metric={"label": "loss", "result": 0.5}, global_round=3, fl_client_name="site-1"),
    ]
    hub = world.bench.hub
    for task, message in world.ingest(*events).emissions():
        if task == names.LOGS_ADD:
            write_logs(hub, [AddLogs.model_validate(message)])
        elif task == names.METRICS_ADD:
            write_metrics(hub, [AddMetrics.model_validate(message)])
        else:
            update_status(hub, UpdateStatus.model_validate(message))
    ids = [event["event_id"] for event in events]
    changed = [
        events[0] | {"event_type": "STOPPED"},
        events[1] | {"details": {"a": 2}},
        events[2] | {"log": "out of time"},
        events[3] | {"metric": {"label": "loss", "result": 0.6}},
    ]
    swapped = [event | {"event_id": event_id} for event, event_id in zip(events, [*ids[1:], ids[0]], strict=True)]

    def refused(batch: list[dict[str, Any]]) -> list[str]:
        ingested = ingest_events(hub, [IngestEvents(events=batch)], is_awaited=True)
        return [each.kind for each in ingested.views[0].refused]

    assert refused(events) == []
    assert refused(changed) == ["EventReused"] * 4
    assert refused(swapped) == ["EventReused"] * 4
    assert told(world.ingest(*changed)) == [], "found out when they are written"


def test_a_report_over_the_limits_goes_on_cut_and_a_typed_event_is_refused(world: World) -> None:
    over = {"success": False, "global_round": 0, "details": {"a": "x" * 9_000}}
    ingested = world.ingest(world.event(log="x" * 70_000, **over), world.event(event_type="CLIENT_DROPPED", **over))
    ((_, message),) = ingested.emissions()
    (entry,) = message["entries"]
    assert "characters left out" in entry["log"]
    assert (entry["success"], entry["details"]) == (False, {"left_out": "details of 9008 bytes"})
    assert "global_round" not in entry
    assert told(ingested) == [("InvalidMessage", "events.1.global_round")]


def test_a_repeat_within_a_batch_counts_once_and_another_payload_is_refused(world: World) -> None:
    event = world.event(log="x")
    ingested = world.ingest(event, dict(event), event | {"log": "y"})
    ((_, message),) = ingested.emissions()
    assert [entry["log"] for entry in message["entries"]] == ["x"]
    assert told(ingested) == [("EventReused", "events.2.event_id")]
    assert ingested.views[0].accepted == 2


def test_several_messages_are_answered_each_for_itself(world: World) -> None:
    """A task that takes waiting messages along judges them together."""
    first = IngestEvents(events=[world.event(log="a"), None])
    second = IngestEvents.model_validate(world.event(event_type="ROUND_STARTED"))
    ingested = ingest_events(world.bench.hub, [first, second])
    assert [(view.accepted, [each.field for each in view.refused]) for view in ingested.views] == [
        (1, ["events.1"]),
        (0, ["global_round"]),
    ]


def test_long_texts_travel_in_several_messages(world: World) -> None:
    ingested = world.ingest(*(world.event(log="x" * 65_536) for _ in range(20)))
    assert [len(message["entries"]) for _, message in ingested.emissions()] == [16, 4]


def test_details_as_deep_as_json_goes_spoil_nothing_else(world: World) -> None:
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    ingested = world.ingest(world.event(log="x", details={"a": nested}), nested, world.event(log="y"))
    assert told(ingested) == [("InvalidMessage", "events.0.details"), ("InvalidMessage", "events.1")]
    assert ingested.views[0].accepted == 1
