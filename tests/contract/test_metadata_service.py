"""The model service on every connector: runs and status, deletion, trusts.

Its length is that of the ways in which a status can come late, twice or under another's name.
"""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from connectors.errors import AlreadyExists, ClaimLost, ModelDeleted, TransactionRequired
from connectors.metadata import BaseMetadataConnector
from connectors.records import (
    AggregateResult,
    AuditAction,
    Kept,
    ModelStatus,
    Trust,
    UpdateStatus,
)
from connectors.run_states import Ignored
from tests.contract.entries import add, log, measure, point, status, text

S = ModelStatus
FIRST, SECOND, NEVER_BEGUN = uuid4(), uuid4(), uuid4()


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
    assert [str(action) for action, _ in connector.pull_audit(model)] == ["RUNNING", str(to)]


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


def test_a_status_is_told_with_its_sender_and_its_round(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        kings = connector.add_trust(Trust(0, uuid4(), "King's"))
    status(connector, model, S.ERROR, trust_id=kings.id, fl_client_name="site-1", global_round=3, details={"a": 1})
    (entry,) = connector.pull_logs(model)
    assert (entry.trust_id, entry.fl_client_name, entry.global_round) == (kings.id, "site-1", 3)
    assert (entry.success, entry.details) == (False, {"a": 1})


@pytest.mark.parametrize(
    ("again", "run_id", "is_heard"),
    [
        (S.RUNNING, None, True),
        (S.RUNNING, SECOND, True),
        (S.INITIATED, SECOND, True),
        (S.RUNNING, FIRST, False),
        (S.RUNNING, NEVER_BEGUN, False),
        (None, None, False),
    ],
    ids=["repeated", "by name", "backward", "earlier run", "unknown run", "question"],
)
def test_a_run_that_repeats_itself_is_heard_though_it_writes_nothing(
    connector: BaseMetadataConnector, world: Any, again: ModelStatus | None, run_id: UUID | None, is_heard: bool
) -> None:
    model = world.model(silence_timeout=0.2)
    status(connector, model, S.INITIATED, run_id=FIRST)
    status(connector, model, S.INITIATED, run_id=SECOND)
    status(connector, model, S.RUNNING, run_id=SECOND)
    time.sleep(0.3)
    before = datetime.now(UTC)
    stood = world.now(model)
    assert not status(connector, model, again, run_id=run_id).changed
    assert world.now(model) == stood
    silent = [found.id for found, _ in connector.pull_silent_models(before + timedelta(seconds=0.1))]
    assert silent == ([] if is_heard else [model.id])
    ((_, heard),) = connector.pull_silent_models(datetime.now(UTC) + timedelta(seconds=10))
    assert (heard >= before) is is_heard


def test_an_event_of_another_run_is_no_repeat_whatever_its_id(connector: BaseMetadataConnector, world: Any) -> None:
    model, event_id = world.model(), uuid4()
    status(connector, model, S.INITIATED, run_id=FIRST, event_id=event_id)
    assert status(connector, model, S.INITIATED, run_id=SECOND, event_id=event_id).reason == Ignored.REUSED
    for run_id in (FIRST, None):
        assert status(connector, model, S.INITIATED, run_id=run_id, event_id=event_id).reason == Ignored.REPEATED
    assert world.now(model).run_id == FIRST


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


def test_a_change_has_its_entry_though_another_has_taken_the_id_that_follows_from_it(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """Anybody can work that id out, and could silence the feed."""
    model = world.model()
    forged = text(model, "not the hub's", event_id=uuid5(model.uuid, "status 0 STOPPED"))
    add(connector, forged)
    assert status(connector, model, S.STOPPED).changed
    assert [(entry.event_type, entry.log) for entry in connector.pull_logs(model)] == [
        (None, "not the hub's"),
        ("STOPPED", None),
    ]


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
