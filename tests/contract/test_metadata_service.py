"""The model service on every connector: runs and status, feed and metrics, deletion, trusts, progress, silence."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from connectors.errors import AlreadyExists, ClaimLost, ModelDeleted, TransactionRequired
from connectors.metadata import BaseMetadataConnector
from connectors.records import (
    ALL,
    AggregateResult,
    AuditAction,
    FederatedModel,
    Kept,
    LogEntry,
    ModelStatus,
    NewLog,
    NewMetric,
    StatusChange,
    UpdateStatus,
)
from connectors.run_states import Ignored

S = ModelStatus
FIRST, SECOND = uuid4(), uuid4()


def status(
    connector: BaseMetadataConnector, model: FederatedModel, to: ModelStatus | None, **fields: Any
) -> StatusChange:
    with connector.transaction():
        return connector.update_model_status(model, to, **fields)


def log(model: FederatedModel, event_type: str | None = "JOB_WAITING_FOR_RESOURCES", **fields: Any) -> NewLog:
    return NewLog(model.id, **({"event_id": uuid4(), "event_type": event_type} | fields))


def text(model: FederatedModel, words: str, **fields: Any) -> NewLog:
    return log(model, None, log=words, **fields)


def point(model: FederatedModel, **fields: Any) -> NewMetric:
    values: dict[str, Any] = {
        "event_id": uuid4(),
        "label": "accuracy",
        "x_label": "Global Rounds",
        "x_value": 1.0,
        "result": 0.5,
    }
    return NewMetric(model_id=model.id, **(values | fields))


def add(connector: BaseMetadataConnector, *entries: NewLog) -> list[Kept]:
    with connector.transaction():
        return connector.add_logs(entries)


def measure(connector: BaseMetadataConnector, *metrics: NewMetric) -> list[Kept]:
    with connector.transaction():
        return connector.add_metrics(metrics)


# --- status ---------------------------------------------------------------------------------------


def test_a_status_that_moves_on_is_written_with_its_audit_its_run_and_its_entry(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    change = status(connector, model, S.INITIATED, run_id=FIRST, user_id="u1")
    assert (change.changed, change.reason, change.model.status, change.model.run_id) == (True, "", S.INITIATED, FIRST)
    assert world.now(model) == change.model
    assert connector.pull_audit(model) == [(AuditAction.INITIATED, "u1")]
    (run,) = connector.pull_model_runs(model)
    assert (run.run_id, run.number, run.status, run.finished_at) == (FIRST, 1, S.INITIATED, None)
    (entry,) = connector.pull_logs(model)
    assert (entry.event_type, entry.success, entry.run_id) == ("INITIATED", True, FIRST)
    assert entry.event_id == uuid5(model.uuid, f"status {FIRST} INITIATED")


@pytest.mark.parametrize("to", [S.RESULTS_UPLOADED, S.RESULTS_UPLOAD_FAILED, S.ERROR, S.STOPPED])
def test_an_end_closes_the_run_and_its_entry_tells_of_success_or_not(
    connector: BaseMetadataConnector, world: Any, to: ModelStatus
) -> None:
    model = world.model()
    status(connector, model, S.RUNNING, run_id=FIRST)
    status(connector, model, to)
    (run,) = connector.pull_model_runs(model)
    assert run.status is to
    assert run.started_at is not None
    assert run.finished_at is not None
    assert connector.pull_logs(model)[-1].success is (to is S.RESULTS_UPLOADED)
    audited = ["RUNNING"] if to is S.RESULTS_UPLOAD_FAILED else ["RUNNING", str(to)]
    assert [str(action) for action, _ in connector.pull_audit(model)] == audited


@pytest.mark.parametrize(
    ("to", "fields", "reason"),
    [
        (S.RUNNING, {}, Ignored.REPEATED),
        (S.PREPARED, {}, Ignored.BACKWARD),
        (S.STOPPED, {"run_id": SECOND}, Ignored.STALE_RUN),
        (None, {}, ""),
    ],
)
def test_what_does_not_move_on_writes_nothing_and_answers_what_stands(
    connector: BaseMetadataConnector, world: Any, to: ModelStatus | None, fields: dict[str, Any], reason: str
) -> None:
    model = world.model()
    stood = status(connector, model, S.RUNNING, run_id=FIRST).model
    change = status(connector, model, to, **fields)
    assert (change.model, change.changed, change.reason) == (stood, False, reason)
    assert (len(connector.pull_logs(model)), len(connector.pull_audit(model))) == (1, 1)
    assert [run.status for run in connector.pull_model_runs(model)] == [S.RUNNING]


def test_a_new_run_ends_the_one_before_and_the_old_ones_callbacks_are_stale(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    status(connector, model, S.RUNNING, run_id=FIRST)
    begun = status(connector, model, S.INITIATED, run_id=SECOND)
    assert (begun.model.status, begun.model.run_id) == (S.INITIATED, SECOND)
    late = status(connector, model, S.ERROR, run_id=FIRST)
    assert (late.model, late.reason) == (begun.model, Ignored.STALE_RUN)
    old, new = connector.pull_model_runs(model)
    assert (old.run_id, old.number, old.status) == (FIRST, 1, S.RUNNING)
    assert old.finished_at is not None
    assert (new.run_id, new.number, new.status, new.finished_at) == (SECOND, 2, S.INITIATED, None)


def test_only_a_users_initiated_leaves_a_stop_and_names_a_new_run(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    status(connector, model, S.INITIATED, run_id=FIRST)
    status(connector, model, S.STOPPED, user_id="u1")
    assert status(connector, model, S.INITIATED).reason == Ignored.OVER
    again = status(connector, model, S.INITIATED, user_id="u1")
    assert again.changed
    assert again.model.run_id not in (None, FIRST)
    assert [run.run_id for run in connector.pull_model_runs(model)] == [FIRST, again.model.run_id]


def test_a_run_without_a_name_takes_the_first_callbacks(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    status(connector, model, S.INITIATED, user_id="u1")
    assert connector.pull_model_runs(model) == []
    change = status(connector, model, S.PREPARED, run_id=FIRST)
    assert (change.changed, change.model.run_id) == (True, FIRST)
    assert [entry.run_id for entry in connector.pull_logs(model)] == [None, FIRST]


def test_an_event_changes_a_status_once_however_late_it_comes_again(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """A user's INITIATED that is delivered twice must not start a run that has been stopped in between."""
    model, event_id = world.model(), uuid4()
    assert status(connector, model, S.INITIATED, user_id="u1", event_id=event_id).changed
    status(connector, model, S.STOPPED)
    again = status(connector, model, S.INITIATED, user_id="u1", event_id=event_id)
    assert (again.changed, again.reason, again.model.status) == (False, Ignored.REPEATED, S.STOPPED)
    assert connector.pull_logs(model)[0].event_id == event_id


def test_what_a_callback_says_of_its_status_is_kept_with_it(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    status(connector, model, S.ERROR, details={"reason": "site-1 ran out of memory"})
    (entry,) = connector.pull_logs(model)
    assert (entry.event_type, entry.success, entry.details) == ("ERROR", False, {"reason": "site-1 ran out of memory"})


def test_an_event_id_that_something_else_has_changes_no_status(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(), world.model()
    entry = log(other)
    add(connector, entry)
    change = status(connector, model, S.RUNNING, event_id=entry.event_id)
    assert (change.changed, change.reason, change.model.status) == (False, Ignored.REUSED, S.PENDING)


def test_what_writes_wants_a_transaction(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    trust = world.trust("King's")
    (client, _) = connector.pull_model_clients(model)
    for write in (
        lambda: connector.update_model_status(model, S.RUNNING),
        lambda: connector.delete_federated_models([model], None),
        lambda: connector.add_logs([log(model)]),
        lambda: connector.add_metrics([point(model)]),
        lambda: connector.add_trust(trust),
        lambda: connector.change_trust(trust, {"name": "x"}),
        lambda: connector.set_fl_kit_slot("site-1", trust),
        lambda: connector.set_model_trusts(model, [trust]),
        lambda: connector.set_client_trust(client, trust),
    ):
        with pytest.raises(TransactionRequired):
            write()


# --- feed and metrics -----------------------------------------------------------------------------


def test_an_entry_comes_back_as_it_was_given(connector: BaseMetadataConnector, world: Any) -> None:
    model, trust = world.model(), world.trust("King's")
    typed = log(
        model,
        "CLIENT_RESULT_RECEIVED",
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        global_round=3,
        details={"size_bytes": 2_400_000, "deep": [1, {"x": None}]},
    )
    said = text(model, "out of memory ✓\nat layer 3", success=False)
    assert add(connector, typed, said) == [Kept.NEW, Kept.NEW]
    one, two = connector.pull_logs(model)
    for given, found in ((typed, one), (said, two)):
        for field in dataclasses.fields(NewLog):
            assert getattr(found, field.name) == getattr(given, field.name), field.name
    assert one.created_at is not None
    assert abs((datetime.now(UTC) - one.created_at).total_seconds()) < 60


def test_a_point_comes_back_as_it_was_given(connector: BaseMetadataConnector, world: Any) -> None:
    model, trust = world.model(), world.trust("King's")
    given = point(
        model,
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        label="loss",
        x_label="Epochs",
        x_value=0.1,
        result=1e-300,
        global_round=7,
    )
    assert measure(connector, given) == [Kept.NEW]
    (found,) = connector.pull_metrics(model)
    for field in dataclasses.fields(NewMetric):
        assert getattr(found, field.name) == getattr(given, field.name), field.name
    assert found.created_at is not None


def test_an_entry_that_names_no_run_is_of_the_one_that_the_model_is_in(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    add(connector, text(model, "before"))
    status(connector, model, S.INITIATED, run_id=FIRST)
    add(connector, text(model, "within"))
    measure(connector, point(model))
    assert [entry.run_id for entry in connector.pull_logs(model)] == [None, FIRST, FIRST]
    assert [metric.run_id for metric in connector.pull_metrics(model)] == [FIRST]


def test_runs_are_read_apart_or_together(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    add(connector, text(model, "none"), text(model, "one", run_id=FIRST), text(model, "two", run_id=SECOND))
    measure(connector, point(model, x_value=1.0), point(model, x_value=2.0, run_id=FIRST))
    for run_id, words, xs in (
        (ALL, ["none", "one", "two"], [1.0, 2.0]),
        (None, ["none"], [1.0]),
        (FIRST, ["one"], [2.0]),
        (uuid4(), [], []),
    ):
        assert [entry.log for entry in connector.pull_logs(model, run_id=run_id)] == words
        assert [metric.x_value for metric in connector.pull_metrics(model, run_id=run_id)] == xs


def test_a_feed_is_paged_by_id_or_begun_at_its_newest(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    add(connector, *(text(model, str(number)) for number in range(5)))
    first = connector.pull_logs(model, limit=2)
    then = connector.pull_logs(model, after_id=first[-1].id)
    assert [entry.log for entry in (*first, *then)] == ["0", "1", "2", "3", "4"]
    newest = connector.pull_logs(model, limit=2, newest_first=True)
    assert [entry.log for entry in newest] == ["4", "3"]
    assert connector.pull_logs(model, after_id=newest[0].id, newest_first=True) == []


def test_a_thousand_entries_of_several_models_keep_their_order(connector: BaseMetadataConnector, world: Any) -> None:
    models = [world.model(clients=0) for _ in range(3)]
    entries = [text(models[number % 3], f"{number} ✓") for number in range(1000)]
    assert add(connector, *entries) == [Kept.NEW] * 1000
    for offset, model in enumerate(models):
        found = connector.pull_logs(model, limit=1000)
        assert [entry.log for entry in found] == [f"{number} ✓" for number in range(offset, 1000, 3)]
    assert add(connector, *entries) == [Kept.REPEATED] * 1000
    assert sum(len(connector.pull_logs(model, limit=1000)) for model in models) == 1000


def test_an_empty_batch_is_nothing(connector: BaseMetadataConnector) -> None:
    assert add(connector) == []
    assert measure(connector) == []


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, Kept.REPEATED),
        ({"success": False}, Kept.CONFLICT),
        ({"global_round": 4}, Kept.CONFLICT),
        ({"event_type": "ROUND_STARTED"}, Kept.CONFLICT),
        ({"details": {"size_bytes": 2}}, Kept.CONFLICT),
        ({"details": {"size_bytes": True}}, Kept.CONFLICT),
        ({"details": {}}, Kept.CONFLICT),
        ({"fl_client_name": "site-2"}, Kept.CONFLICT),
        ({"run_id": SECOND}, Kept.CONFLICT),
        # What the hub found out, and may find otherwise the second time.
        ({"run_id": None}, Kept.REPEATED),
        ({"trust_id": None}, Kept.REPEATED),
    ],
    ids=str,
)
def test_an_event_id_is_kept_once_and_another_payload_under_it_is_told_apart(
    connector: BaseMetadataConnector, world: Any, changes: dict[str, Any], kept: Kept, in_one_batch: bool
) -> None:
    model, trust = world.model(), world.trust("King's")
    first = log(
        model,
        "CLIENT_RESULT_RECEIVED",
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        global_round=3,
        details={"size_bytes": 1},
    )
    second = dataclasses.replace(first, **changes)
    other = text(model, "goes on")
    if in_one_batch:
        assert add(connector, first, second, other) == [Kept.NEW, kept, Kept.NEW]
    else:
        assert add(connector, first) == [Kept.NEW]
        assert add(connector, second, other) == [kept, Kept.NEW]
    found, _ = connector.pull_logs(model)
    assert (found.event_id, found.global_round, found.details) == (first.event_id, 3, {"size_bytes": 1})


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, Kept.REPEATED),
        ({"result": 0.25}, Kept.CONFLICT),
        ({"x_value": 2.0}, Kept.CONFLICT),
        ({"label": "loss"}, Kept.CONFLICT),
        ({"x_label": "Epochs"}, Kept.CONFLICT),
        ({"global_round": 1}, Kept.CONFLICT),
    ],
    ids=str,
)
def test_a_points_event_id_is_kept_once_too(
    connector: BaseMetadataConnector, world: Any, changes: dict[str, Any], kept: Kept
) -> None:
    model = world.model()
    first = point(model, result=0.1 + 0.2)
    assert measure(connector, first, dataclasses.replace(first, **changes)) == [Kept.NEW, kept]
    assert measure(connector, dataclasses.replace(first, **changes), first) == [kept, Kept.REPEATED]
    assert [metric.result for metric in connector.pull_metrics(model)] == [0.1 + 0.2]


def test_an_event_id_belongs_to_one_model(connector: BaseMetadataConnector, world: Any) -> None:
    one, two = world.model(), world.model()
    first = text(one, "mine")
    assert add(connector, first, dataclasses.replace(first, model_id=two.id)) == [Kept.NEW, Kept.CONFLICT]
    assert connector.pull_logs(two) == []


def test_numbers_that_a_database_spells_otherwise_are_the_same(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    entry = log(model, details={"large": 1e300, "whole": 2.0, "small": 0.1, "minus": -0.0, "long": 2**70})
    assert add(connector, entry) == [Kept.NEW]
    assert add(connector, entry) == [Kept.REPEATED]


# --- deletion -------------------------------------------------------------------------------------


def test_deleting_is_audited_once_and_counts_what_was_not_deleted(connector: BaseMetadataConnector, world: Any) -> None:
    one, two, three = world.model(), world.model(), world.model()
    assert world.delete(two, user_id="u0") == 1
    assert world.delete(three, two, one, one, user_id="u1") == 2
    assert world.delete(one, two, three) == 0
    assert [connector.pull_audit(model) for model in (one, two, three)] == [
        [(AuditAction.DELETE, "u1")],
        [(AuditAction.DELETE, "u0")],
        [(AuditAction.DELETE, "u1")],
    ]
    assert connector.pull_federated_models() == []
    assert world.delete() == 0


def test_a_project_lists_its_models_without_the_deleted_ones(connector: BaseMetadataConnector, world: Any) -> None:
    one, two = world.model(project_id="p1"), world.model(project_id="p1")
    world.model(project_id="p2")
    world.model()
    assert [model.id for model in connector.pull_project_models("p1")] == [one.id, two.id]
    world.delete(one)
    assert [model.id for model in connector.pull_project_models("p1")] == [two.id]
    assert connector.pull_project_models("p3") == []


def test_a_deleted_model_accepts_no_entry_no_point_no_status_and_no_update(
    connector: BaseMetadataConnector, world: Any
) -> None:
    gone, kept = world.model(), world.model()
    status(connector, gone, S.RUNNING)
    told = connector.pull_logs(gone)
    world.delete(gone)
    assert add(connector, log(gone), log(kept)) == [Kept.DELETED, Kept.NEW]
    assert measure(connector, point(kept), point(gone)) == [Kept.NEW, Kept.DELETED]
    change = status(connector, gone, S.STOPPED, user_id="u1")
    assert (change.changed, change.reason, change.model.status) == (False, Ignored.DELETED, S.RUNNING)
    with pytest.raises(ModelDeleted):
        world.update(gone)
    with connector.transaction():
        connector.add_log(gone, "ROUND_FAILED", event_id=uuid4())
    assert connector.pull_logs(gone) == told
    assert connector.pull_metrics(gone) == []
    assert connector.pull_model_updates(gone) == []


def test_an_event_of_a_deleted_model_does_not_take_its_id_from_another(
    connector: BaseMetadataConnector, world: Any
) -> None:
    gone, kept = world.model(), world.model()
    world.delete(gone)
    entry = text(gone, "too late")
    assert add(connector, entry, dataclasses.replace(entry, model_id=kept.id)) == [Kept.DELETED, Kept.NEW]


def test_a_deleted_model_is_claimed_no_more(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    world.update(model)
    world.delete(model)
    assert connector.pull_models_to_aggregate() == []
    with connector.transaction():
        assert connector.claim_model(model, 30_000) is None


def test_a_round_under_way_posts_nothing_under_a_deleted_model_but_gives_its_updates_back(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        claim = connector.claim_model(model, 60_000)
        assert claim is not None
        (taken,) = connector.register_model_updates_for_aggregation([update], claim=claim)
    world.delete(model)
    with pytest.raises(ClaimLost), connector.transaction():
        connector.post_new_model_aggregate(model, None, AggregateResult(world.blob(), 1, 1.0), claim=claim)
    with connector.transaction():
        connector.release_claim(claim)
        connector.return_model_updates([taken], status=UpdateStatus.PENDING)
    assert connector.pull_model_updates(model)[0].status is UpdateStatus.PENDING
    assert connector.pull_models_to_aggregate() == []


def test_what_a_dead_worker_left_running_is_taken_back_though_the_model_is_deleted(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """Nothing stays RUNNING for ever."""
    model = world.model()
    update = world.update(model)
    with connector.transaction():
        dead = connector.claim_model(model, -1)
        assert dead is not None
        connector.register_model_updates_for_aggregation([update], claim=dead)
    world.delete(model)
    assert connector.pull_models_to_aggregate() == [model.id]
    with connector.transaction():
        rescue = connector.claim_model(model, -1)
        assert rescue is not None
        left = connector.pull_model_updates_of_dead_claims(rescue)
        connector.return_model_updates(left, status=UpdateStatus.FAILED)
    assert connector.pull_models_to_aggregate() == []
    with connector.transaction():
        assert connector.claim_model(model, 60_000) is None


# --- trusts ---------------------------------------------------------------------------------------


def test_a_trust_is_found_by_id_uuid_code_and_name(connector: BaseMetadataConnector, world: Any) -> None:
    trust, other = world.trust("King's College Hospital", "KCH"), world.trust("Guy's")
    for key in (trust.id, trust.uuid, str(trust.uuid), "KCH", "King's College Hospital"):
        assert connector.pull_trust(key) == trust
    assert connector.pull_trust("UCLH") is None
    assert connector.pull_trust(uuid4()) is None
    assert connector.pull_trusts() == [other, trust]
    assert (trust.label, other.label) == ("KCH", "Guy's")


def test_a_code_goes_before_another_trusts_name(connector: BaseMetadataConnector, world: Any) -> None:
    named, coded = world.trust("KCH", "K1"), world.trust("King's", "KCH")
    assert connector.pull_trust("KCH") == coded
    assert connector.pull_trust("K1") == named


def test_a_number_in_a_text_is_no_row_id(connector: BaseMetadataConnector, world: Any) -> None:
    trust = world.trust("King's")
    assert connector.pull_trust(str(trust.id)) is None


def test_a_trusts_uuid_name_and_code_are_its_own(connector: BaseMetadataConnector, world: Any) -> None:
    trust, other = world.trust("King's", "KCH"), world.trust("Guy's")
    taken = (
        dataclasses.replace(trust, name="a", code="a"),
        dataclasses.replace(trust, uuid=uuid4(), code="a"),
        dataclasses.replace(trust, uuid=uuid4(), name="a"),
    )
    with connector.transaction():
        for again, what in zip(taken, ("uuid", "name", "code"), strict=True):
            with pytest.raises(AlreadyExists, match=what):
                connector.add_trust(again)
        for changes in ({"name": "King's"}, {"code": "KCH"}):
            with pytest.raises(AlreadyExists):
                connector.change_trust(other, changes)
        changed = connector.change_trust(other, {"code": "GSTT"})
        connector.change_trust(other, {"name": "Guy's"})
    assert (changed.name, changed.code) == ("Guy's", "GSTT")
    assert connector.pull_trust(other.uuid) == changed
    with pytest.raises(ValueError, match="uuid"), connector.transaction():
        connector.change_trust(other, {"uuid": uuid4()})


def test_a_slot_is_assigned_reassigned_and_freed(connector: BaseMetadataConnector, world: Any) -> None:
    one, two = world.trust("King's"), world.trust("Guy's")
    with connector.transaction():
        first = connector.set_fl_kit_slot("site-2", one)
        connector.set_fl_kit_slot("site-1", two)
        connector.set_fl_kit_slot("site-3", None)
        again = connector.set_fl_kit_slot("site-2", two)
    assert (again.id, again.trust_id) == (first.id, two.id)
    assert [slot.fl_client_name for slot in connector.pull_fl_kit_slots()] == ["site-1", "site-2", "site-3"]
    assert connector.pull_trusts_of_slots(["site-1", "site-2", "site-3", "site-4"]) == {"site-1": two, "site-2": two}
    with connector.transaction():
        connector.set_fl_kit_slot("site-1", None)
    assert connector.pull_trusts_of_slots({"site-1", "SITE-2"}) == {}


def test_the_trusts_approved_for_a_model_are_replaced_whole(connector: BaseMetadataConnector, world: Any) -> None:
    model, other = world.model(), world.model()
    one, two, three = world.trust("C"), world.trust("B"), world.trust("A")
    with connector.transaction():
        connector.set_model_trusts(model, [one, two, one])
        connector.set_model_trusts(other, [one])
    assert connector.pull_model_trusts([model, other]) == {model.id: [two, one], other.id: [one]}
    with connector.transaction():
        connector.set_model_trusts(model, [three])
        connector.set_model_trusts(other, [])
    assert connector.pull_model_trusts([model, other]) == {model.id: [three], other.id: []}


def test_a_client_belongs_to_a_trust_or_to_none(connector: BaseMetadataConnector, world: Any) -> None:
    model, trust = world.model(clients=1), world.trust("King's")
    (client,) = connector.pull_model_clients(model)
    with connector.transaction():
        assert connector.set_client_trust(client, trust).trust_id == trust.id
    assert connector.pull_model_clients(model)[0].trust_id == trust.id
    with connector.transaction():
        assert connector.set_client_trust(client, None).trust_id is None


# --- progress and silence -------------------------------------------------------------------------


def _progress(model: FederatedModel, trust: int, run_id: UUID | None = None) -> list[NewLog]:
    """Three rounds, the third under way; one client falls out in the second and one says no round when it fails."""
    site = {"fl_client_name": "site-1", "trust_id": trust, "run_id": run_id}
    return [
        log(model, "ROUND_STARTED", global_round=1, details={"total_rounds": 5}, run_id=run_id),
        log(model, "CLIENT_RESULT_RECEIVED", global_round=1, **site),
        log(model, "ROUND_AGGREGATED", global_round=1, run_id=run_id),
        log(model, "ROUND_STARTED", global_round=2, details={"total_rounds": "many"}, run_id=run_id),
        log(model, "CLIENT_DROPPED", global_round=2, fl_client_name="ward 7", run_id=run_id),
        log(model, "CLIENT_RESULT_RECEIVED", global_round=2, **site),
        log(model, "ROUND_AGGREGATED", global_round=2, run_id=run_id),
        log(model, "ROUND_STARTED", global_round=3, run_id=run_id),
        text(model, "out of memory", success=False, fl_client_name="ward 8", run_id=run_id),
        # Neither says that anybody has left.
        log(model, "UPDATE_QUARANTINED", success=False, fl_client_name="ward 9", global_round=3, run_id=run_id),
        text(model, "the server is slow", success=False, run_id=run_id),
    ]


@pytest.mark.parametrize("run_id", [None, FIRST])
def test_progress_is_read_from_maxima_whatever_comes_twice_or_out_of_order(
    connector: BaseMetadataConnector, world: Any, run_id: UUID | None
) -> None:
    model, trust = world.model(), world.trust("King's")
    told = _progress(model, trust.id, run_id)
    late = log(model, "ROUND_STARTED", global_round=1, run_id=run_id)
    elsewhere = log(model, "ROUND_STARTED", global_round=9, run_id=SECOND)
    add(connector, *told, late, elsewhere)
    add(connector, *told)
    facts = connector.pull_progress_facts(model, run_id)
    assert (facts.total_rounds, facts.started_round, facts.aggregated_round) == (5, 3, 2)
    assert facts.returned == {trust.id: 2}
    assert facts.dropped == {"ward 7": 2, "ward 8": 3}
    assert [number for number, _, _ in facts.round_times] == [1, 2, 3]
    assert [ended is not None for _, _, ended in facts.round_times] == [True, True, False]
    assert all(begun is not None for _, begun, _ in facts.round_times)
    assert facts.last_event_at is not None


def test_a_run_that_has_told_nothing_has_no_progress(connector: BaseMetadataConnector, world: Any) -> None:
    facts = connector.pull_progress_facts(world.model(), None)
    assert (facts.total_rounds, facts.started_round, facts.aggregated_round, facts.round_times) == (None, 0, 0, ())
    assert (facts.returned, facts.dropped, facts.last_event_at) == ({}, {}, None)


def test_only_the_newest_rounds_are_timed(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    rounds = [
        log(model, kind, global_round=number)
        for number in range(1, 31)
        for kind in ("ROUND_STARTED", "ROUND_AGGREGATED")
    ]
    add(connector, log(model, "ROUND_STARTED", global_round=1, details={"total_rounds": 99}), *rounds)
    facts = connector.pull_progress_facts(model, None)
    assert [number for number, _, _ in facts.round_times] == list(range(11, 31))
    assert facts.total_rounds is None, "named by a round that is long over"
    assert facts.started_round == 30


def test_a_run_under_way_that_says_nothing_for_its_timeout_is_silent(
    connector: BaseMetadataConnector, world: Any
) -> None:
    quiet, patient, without, over, waiting, gone = (
        world.model(silence_timeout=timeout) for timeout in (60.0, 600.0, None, 60.0, 60.0, 60.0)
    )
    for model in (quiet, patient, without, over, gone):
        status(connector, model, S.RUNNING, run_id=uuid4())
    status(connector, over, S.STOPPED)
    world.delete(gone)
    now = datetime.now(UTC)
    assert connector.pull_silent_models(now + timedelta(seconds=30)) == []
    ((found, heard),) = connector.pull_silent_models(now + timedelta(seconds=120))
    assert found == world.now(quiet)
    assert abs((heard - now).total_seconds()) < 30
    assert [m.id for m, _ in connector.pull_silent_models(now + timedelta(seconds=900))] == [quiet.id, patient.id]
    assert waiting.id not in [m.id for m, _ in connector.pull_silent_models(now + timedelta(days=900))]


def test_any_entry_or_point_of_the_current_run_breaks_the_silence_and_an_old_runs_does_not(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model(silence_timeout=0.05)
    status(connector, model, S.RUNNING, run_id=FIRST)
    status(connector, model, S.INITIATED, run_id=SECOND)

    def heard() -> datetime:
        ((_, at),) = connector.pull_silent_models(datetime.now(UTC) + timedelta(seconds=1))
        return at

    times = [heard()]
    add(connector, text(model, "still at it"))
    times.append(heard())
    measure(connector, point(model))
    times.append(heard())
    assert times == sorted(set(times)), "each was heard"
    add(connector, text(model, "late", run_id=FIRST))
    measure(connector, point(model, run_id=FIRST))
    assert heard() == times[-1]


def test_a_model_whose_round_a_worker_holds_is_not_silent(connector: BaseMetadataConnector, world: Any) -> None:
    """A long aggregation tells nothing until it is done; its lease says that somebody is at it."""
    model = world.model(silence_timeout=1.0)
    status(connector, model, S.RUNNING)
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert len(connector.pull_silent_models(later)) == 1
    with connector.transaction():
        connector.claim_model(model, 60_000)
    assert connector.pull_silent_models(later) == []


def test_entries_written_before_runs_were_named_are_read_as_ever(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        connector.add_log(model, "ROUND_AGGREGATED", event_id=uuid4(), global_round=1, details={"returned": 2})
    (entry,) = connector.pull_logs(model)
    assert isinstance(entry, LogEntry)
    assert (entry.run_id, entry.trust_id, entry.fl_client_name) == (None, None, None)
