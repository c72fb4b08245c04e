"""Feeds and metrics written in batches: each entry once, what is refused kept in the same transaction."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.records import ALL, LogEntry, Metric, Trust
from fedqueue.messages import AddedView, AddLogs, AddMetrics
from tasks.domain.feed import write_logs, write_metrics
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

    def entry(self, **fields: Any) -> dict[str, Any]:
        return {"event_id": str(uuid4()), "model_id": str(self.model.uuid)} | fields

    def point(self, **fields: Any) -> dict[str, Any]:
        return self.entry(**{"label": "loss", "result": 0.5, "global_round": 1} | fields)

    def write(self, *entries: Any) -> AddedView:
        return write_logs(self.bench.hub, [AddLogs(entries=list(entries))])[0]

    def write_points(self, *points: Any) -> AddedView:
        return write_metrics(self.bench.hub, [AddMetrics(points=list(points))])[0]

    @property
    def logs(self) -> list[LogEntry]:
        return self.bench.metadata.pull_logs(self.model)

    @property
    def metrics(self) -> list[Metric]:
        return self.bench.metadata.pull_metrics(self.model, run_id=ALL)

    @property
    def letters(self) -> list[tuple[str, str, str | None, Any]]:
        found = self.bench.metadata.pull_dead_letters()
        return [(letter.task, letter.kind, letter.field, letter.payload) for letter in found]


@pytest.fixture
def world(bench: Bench) -> World:
    return World(bench)


def told(view: AddedView) -> list[tuple[str, str | None]]:
    return [(each.kind, each.field) for each in view.refused]


def test_entries_are_written_with_their_sender_and_their_run(world: World) -> None:
    run = uuid4()
    view = world.write(
        world.entry(event_type="CLIENT_RESULT_RECEIVED", global_round=2, fl_client_name="site-1", run_id=str(run)),
        world.entry(log="hello", trust_id=str(world.kings.uuid), details={"a": 1}),
        world.entry(log="of the model", success=False),
    )
    assert view == AddedView(added=3)
    typed, free, own = world.logs
    assert (typed.event_type, typed.global_round, typed.run_id) == ("CLIENT_RESULT_RECEIVED", 2, run)
    assert (typed.trust_id, typed.fl_client_name) == (world.kings.id, "site-1")
    assert (free.log, free.trust_id, free.fl_client_name, free.details) == ("hello", world.kings.id, None, {"a": 1})
    assert (own.success, own.trust_id) == (False, None)


def test_a_points_place_is_its_round_unless_it_says_another(world: World) -> None:
    world.write_points(
        world.point(global_round=0),
        world.point(global_round=3, x_value=1.5, x_label="epochs", fl_client_name="site-1"),
        world.entry(label="loss", result=1, x_value=-2),
    )
    assert [(p.x_value, p.x_label, p.global_round, p.trust_id) for p in world.metrics] == [
        (0.0, "Global Rounds", 0, None),
        (1.5, "epochs", 3, world.kings.id),
        (-2.0, "Global Rounds", 0, None),
    ]


def test_a_repeat_counts_once_whenever_it_comes(world: World) -> None:
    entry, point = world.entry(log="x"), world.point()
    assert world.write(entry, dict(entry)) == AddedView(added=1, repeated=1)
    assert world.write(entry) == AddedView(added=0, repeated=1)
    assert world.write_points(point) == AddedView(added=1)
    assert world.write_points(point, point) == AddedView(added=0, repeated=2)
    assert (len(world.logs), len(world.metrics)) == (1, 1)
    assert world.letters == []


@pytest.mark.parametrize("change", [{"log": "y"}, {"success": False}, {"global_round": 2}, {"details": {"a": 1}}])
def test_another_payload_under_the_same_id_is_refused_and_kept(world: World, change: dict[str, Any]) -> None:
    entry = world.entry(log="x", global_round=1)
    world.write(entry)
    view = world.write(world.entry(log="good"), entry | change)
    assert (view.added, told(view)) == (1, [("EventReused", "entries.1.event_id")])
    assert [each.log for each in world.logs] == ["x", "good"]
    assert world.letters == [("fedqueue.logs.add", "EventReused", "entries.1.event_id", entry | change)]


def test_another_value_under_the_same_id_is_refused_and_kept(world: World) -> None:
    point = world.point()
    world.write_points(point)
    assert told(world.write_points(point | {"result": 0.6})) == [("EventReused", "points.0.event_id")]
    assert [p.result for p in world.metrics] == [0.5]
    ((task, kind, _, payload),) = world.letters
    assert (task, kind, payload["result"]) == ("fedqueue.metrics.add", "EventReused", 0.6)


def test_a_line_and_a_point_cannot_share_an_id(world: World) -> None:
    point, line = world.point(), world.entry(log="x")
    world.write_points(point)
    world.write(line)
    assert told(world.write(world.entry(log="y", event_id=point["event_id"]))) == [
        ("EventReused", "entries.0.event_id")
    ]
    assert told(world.write_points(world.point(event_id=line["event_id"]))) == [("EventReused", "points.0.event_id")]
    assert (len(world.logs), len(world.metrics)) == (1, 1)
    assert [(task, kind) for task, kind, _, _ in world.letters] == [
        ("fedqueue.logs.add", "EventReused"),
        ("fedqueue.metrics.add", "EventReused"),
    ]


def test_bad_entries_are_kept_each_alone_and_the_others_written(world: World) -> None:
    entries: list[Any] = [
        world.entry(log="good"),
        world.entry(event_type="STOPPED"),
        world.entry(log="x", fl_client_name="site-9"),
        world.entry(log="x", trust_id=str(uuid4())),
        world.entry(log="x", model_id=str(UUID(int=9))),
        None,
        world.entry(log="also good"),
    ]
    view = world.write(*entries)
    assert view.added == 2
    assert told(view) == [
        ("InvalidMessage", "entries.1.event_type"),
        ("AttributionFailed", "entries.2.fl_client_name"),
        ("AttributionFailed", "entries.3.trust_id"),
        ("UnknownModel", "entries.4.model_id"),
        ("InvalidMessage", "entries.5"),
    ]
    kept = {field: payload for _, _, field, payload in world.letters}
    assert kept == {
        "entries.1.event_type": entries[1],
        "entries.2.fl_client_name": entries[2],
        "entries.3.trust_id": entries[3],
        "entries.4.model_id": entries[4],
        "entries.5": None,
    }


def test_a_failure_whose_sender_nobody_knows_is_kept_at_the_models_level(world: World) -> None:
    stranger = uuid4()
    view = world.write(
        world.entry(log="out of memory", success=False, fl_client_name="site-9"),
        world.entry(log="no disk", success=False, trust_id=str(stranger)),
    )
    assert view.added == 2
    assert [(each.log, each.trust_id, each.fl_client_name) for each in world.logs] == [
        ("[site-9] out of memory", None, None),
        (f"[trust {stranger}] no disk", None, None),
    ]


def test_a_failure_stays_the_same_message_when_its_sender_becomes_known(world: World) -> None:
    """Sent again after the slot was assigned, it must not count as another payload's misuse of its id."""
    report = world.entry(log="out of memory", success=False, fl_client_name="site-9")
    world.write(report)
    with world.bench.metadata.transaction():
        world.bench.metadata.set_fl_kit_slot("site-9", world.kings)
    assert world.write(report).added == 0
    assert [each.log for each in world.logs] == ["[site-9] out of memory"]


def test_a_model_deleted_meanwhile_takes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood when the batch was judged, and not any more when it was written."""
    metadata = world.bench.metadata
    look_up = metadata.pull_federated_models_w_ids

    def then_deleted(model_ids: Any) -> Any:
        found = look_up(model_ids)
        with metadata.transaction():
            metadata.delete_federated_models([world.model])
        return found

    monkeypatch.setattr(metadata, "pull_federated_models_w_ids", then_deleted)
    view = world.write(world.entry(log="x"))
    assert (view.added, told(view)) == (0, [("UnknownModel", "entries.0.model_id")])
    assert world.logs == []
    assert [kind for _, kind, _, _ in world.letters] == ["UnknownModel"]


def test_entries_and_dead_letters_are_written_together_or_not_at_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr(world.bench.metadata, "add_dead_letter", broken)
    with pytest.raises(RuntimeError, match="went away"):
        world.write(world.entry(log="x"), None)
    assert world.logs == []


def test_a_transaction_that_is_run_again_refuses_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database may ask for that after a deadlock."""
    metadata = world.bench.metadata
    entry = world.entry(log="x")
    world.write(entry)

    class Again(Exception):
        pass

    def twice(work: Any) -> Any:
        try:
            with metadata.transaction() as transaction:
                work(transaction)
                raise Again
        except Again:
            with metadata.transaction() as transaction:
                return work(transaction)

    monkeypatch.setattr(metadata, "transact", twice)
    view = world.write(entry | {"log": "y"}, None, world.entry(log="new"))
    assert (view.added, [each.kind for each in view.refused]) == (1, ["EventReused", "InvalidMessage"])
    assert len(world.letters) == 2


def test_several_messages_are_written_together_and_answered_each_for_itself(world: World) -> None:
    one, other = world.entry(log="one"), world.entry(log="other")
    views = write_logs(world.bench.hub, [AddLogs(entries=[one, None]), AddLogs(entries=[one, other])])
    assert [(view.added, view.repeated, len(view.refused)) for view in views] == [(1, 0, 1), (1, 1, 0)]


OVER: list[dict[str, Any]] = [
    {"log": "x" * 70_000},
    {"log": ""},
    {"log": "NUL \0"},
    {"global_round": 0},
    {"global_round": 2**31},
    {"details": {"a": "x" * 9_000}},
    {"details": {"a": "NUL \0"}},
    {"fl_client_name": "n" * 201},
]


@pytest.mark.parametrize("over", OVER, ids=range(len(OVER)))
def test_a_report_of_failure_over_a_limit_is_cut_and_kept_and_any_other_entry_refused(
    world: World, over: dict[str, Any]
) -> None:
    report = world.entry(log="out of memory", success=False) | over
    assert world.write(report) == AddedView(added=1)
    assert world.write(report) == AddedView(added=0, repeated=1)
    assert world.letters == []
    (kept,) = world.logs
    assert (kept.success, kept.global_round, kept.trust_id) == (False, None, None)
    assert kept.log
    assert len(kept.log) <= 65_536
    assert set(kept.details) <= {"left_out"}
    if "fl_client_name" in over:
        assert kept.log == f"[{'n' * 199}…] out of memory"
    ((kind, _),) = told(world.write(report | {"event_id": str(uuid4()), "success": True}))
    assert kind in ("InvalidMessage", "AttributionFailed")
    assert len(world.logs) == 1


@pytest.mark.parametrize("missing", ["event_id", "model_id"])
def test_a_report_of_no_model_or_without_an_id_is_a_dead_letter(world: World, missing: str) -> None:
    report = world.entry(log="x" * 70_000, success=False, global_round=0)
    del report[missing]
    unknown = report | {"event_id": str(uuid4()), "model_id": str(uuid4())}
    assert told(world.write(report, unknown)) == [
        ("InvalidMessage", f"entries.0.{missing}"),
        ("UnknownModel", "entries.1.model_id"),
    ]
    assert world.logs == []
    assert [payload for _, _, _, payload in world.letters] == [report, unknown], "as they came"
