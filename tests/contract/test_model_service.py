"""The model service's functions (DESIGN 1.2) on real sessions of SQLite and PostgreSQL, as a caller of them would.

"What FLIP got wrong" is DESIGN 11's list, a test a row. Its length is the service's: ten functions and their rules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from connectors.plots import Plot
from connectors.records import AuditAction, FederatedModel, Kept, ModelStatus, NewMetric
from connectors.run_states import Ignored
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.model_service import (
    add_log,
    change_status,
    delete_model,
    delete_models,
    edit_model,
    get_metrics,
    get_model_status,
    resolve_trust_from_fl_client_name,
    update_model_status,
    validate_trust_ids,
)
from connectors.sql.rows import AuditRow, FederatedModelRow, LogRow
from fedqueue.messages import Policy
from tests.contract.conftest import World, migrated_url

S = ModelStatus


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def connector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    """Every database in turn, empty and migrated."""
    made = SqlAlchemyMetadataConnector(migrated_url(request, tmp_path))
    yield made
    made.close()


@pytest.fixture
def engine(connector: SqlAlchemyMetadataConnector) -> Engine:
    return connector.engine


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """The caller's: what is written in it is seen by others only once the caller commits."""
    with Session(engine) as opened:
        yield opened


@pytest.fixture
def model(world: World) -> FederatedModel:
    return world.model(clients=0, name="before", description="as it was", project_id="p1")


def audit_of(world: World, model: FederatedModel) -> list[tuple[AuditAction, str | None]]:
    return world.connector.pull_audit(model)


def feed_of(world: World, model: FederatedModel) -> list[str | None]:
    return [entry.event_type or entry.log for entry in world.connector.pull_logs(model)]


# --- what FLIP got wrong --------------------------------------------------------------------------


def test_status_audit_and_feed_are_one_commit(
    world: World, engine: Engine, session: Session, model: FederatedModel
) -> None:
    """Three commits once left two of them behind. Rolled back by the caller, none is there; committed, all are."""
    update_model_status(model.uuid, S.RUNNING, session, "u1")
    session.rollback()
    assert (world.now(model).status, audit_of(world, model), feed_of(world, model)) == (S.PENDING, [], [])
    update_model_status(model.uuid, S.RUNNING, session, "u1")
    session.commit()
    assert world.now(model).status is S.RUNNING
    assert (audit_of(world, model), feed_of(world, model)) == ([(AuditAction.RUNNING, "u1")], ["RUNNING"])


@pytest.mark.parametrize("autoflush", [True, False])
def test_an_audit_is_never_flushed_and_lost(
    world: World, engine: Engine, model: FederatedModel, autoflush: bool
) -> None:
    """Nobody but the caller commits, and what the caller commits holds the audit, without another flush of its own."""
    with Session(engine, autoflush=autoflush) as session:
        update_model_status(model.uuid, S.PREPARED, session)
        edit_model(model.uuid, {"name": "after"}, "u1", session)
        session.commit()
    with Session(engine, autoflush=autoflush) as session:
        delete_model(model.uuid, "u2", session)
        session.commit()
    assert audit_of(world, model) == [
        (AuditAction.PREPARED, None),
        (AuditAction.EDIT, "u1"),
        (AuditAction.DELETE, "u2"),
    ]


def test_deleted_models_are_really_left_out(world: World, session: Session, model: FederatedModel) -> None:
    """`not Model.deleted` compiles to WHERE false, and nothing was ever found; the one that is there must be."""
    gone = world.model(clients=0, project_id="p1")
    world.delete(gone)
    compiled = str(select(FederatedModelRow.id).where(FederatedModelRow.deleted.is_(False)).compile(session.bind))
    assert "deleted IS" in compiled
    assert delete_models("p1", "u1", session) == 1
    session.commit()
    assert audit_of(world, gone) == [(AuditAction.DELETE, "u1")], "once, when it was"
    assert world.now(model).deleted


def test_a_late_initiated_does_not_un_stop_a_model(world: World, session: Session, model: FederatedModel) -> None:
    update_model_status(model.uuid, S.INITIATED, session, "u1")
    update_model_status(model.uuid, S.STOPPED, session, "u1")
    assert update_model_status(model.uuid, S.INITIATED, session) is S.STOPPED
    assert update_model_status(model.uuid, S.RUNNING, session) is S.STOPPED
    session.commit()
    assert world.now(model).status is S.STOPPED
    assert feed_of(world, model) == ["INITIATED", "STOPPED"]
    # The user's own way out is there.
    assert update_model_status(model.uuid, S.INITIATED, session, "u1") is S.INITIATED


def test_an_old_runs_callback_does_not_hit_the_retry(world: World, session: Session, model: FederatedModel) -> None:
    first, retry = uuid4(), uuid4()
    update_model_status(model.uuid, S.RUNNING, session, run_id=first)
    update_model_status(model.uuid, S.STOPPED, session, "u1")
    update_model_status(model.uuid, S.INITIATED, session, "u1", run_id=retry)
    for late in (S.ERROR, S.RESULTS_UPLOADED, S.RUNNING, S.INITIATED):
        assert update_model_status(model.uuid, late, session, run_id=first) is S.INITIATED
    assert update_model_status(model.uuid, S.RUNNING, session, run_id=retry) is S.RUNNING
    session.commit()
    assert world.now(model).run_id == retry


def test_what_is_released_on_the_end_of_a_run_is_in_its_transaction(
    engine: Engine, session: Session, model: FederatedModel
) -> None:
    """FLIP released the scheduler's slot in a commit of its own: here nothing that ends a run commits at all."""
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)
    update_model_status(model.uuid, S.RUNNING, session)
    update_model_status(model.uuid, S.ERROR, session)
    assert commits == []
    session.commit()
    assert len(commits) == 1


# --- the caller's transaction ---------------------------------------------------------------------


def test_nothing_here_commits_or_undoes_the_callers_work(
    world: World, engine: Engine, session: Session, model: FederatedModel
) -> None:
    """Whatever is called, and whatever it raises: what the caller wrote before is still to be committed, or not."""
    other = world.model(clients=0, project_id="p2")
    row = session.get_one(FederatedModelRow, other.id)
    row.description = "the caller's"
    ended: list[str] = []
    event.listen(engine, "commit", lambda _: ended.append("commit"))
    event.listen(engine, "rollback", lambda _: ended.append("rollback"))
    event_id = uuid4()
    add_log(model.uuid, "said", session, event_id=event_id)
    assert add_log(model.uuid, "said", session, event_id=event_id) is Kept.REPEATED
    edit_model(model.uuid, {"name": "after"}, None, session)
    update_model_status(model.uuid, S.ERROR, session, event_id=event_id)
    get_metrics(model.uuid, session)
    get_model_status(model.uuid, session)
    validate_trust_ids(model.uuid, [uuid4()], session)
    resolve_trust_from_fl_client_name("site-1", session)
    for refused in (
        lambda: edit_model(uuid4(), {"name": "x"}, None, session),
        lambda: edit_model(model.uuid, {"name": "x" * 201}, None, session),
        lambda: delete_model(uuid4(), None, session),
        lambda: delete_models("p3", None, session),
        lambda: add_log(uuid4(), "said", session),
        lambda: add_log(model.uuid, None, session),
        lambda: update_model_status(model.uuid, "CANCELLED", session),
    ):
        with pytest.raises(ValueError):
            refused()
    delete_model(model.uuid, None, session)
    assert ended == []
    assert world.now(other).description == ""
    session.commit()
    assert world.now(other).description == "the caller's"
    assert world.now(model).deleted


def test_the_callers_own_changes_of_the_row_are_kept(world: World, engine: Engine, model: FederatedModel) -> None:
    """Without autoflush they are still only in the session when the row is read again under its lock."""
    with Session(engine, autoflush=False) as session:
        session.get_one(FederatedModelRow, model.id).description = "the caller's"
        update_model_status(model.uuid, S.INITIATED, session)
        session.commit()
    assert (world.now(model).description, world.now(model).status) == ("the caller's", S.INITIATED)


def test_objects_that_the_caller_holds_show_the_change(session: Session, model: FederatedModel) -> None:
    row = session.get_one(FederatedModelRow, model.id)
    update_model_status(model.uuid, S.PREPARED, session)
    edit_model(model.uuid, {"name": "after"}, None, session)
    assert (row.status, row.name) == (S.PREPARED, "after")


# --- edit_model -----------------------------------------------------------------------------------


@dataclass
class Details:
    """What a web API may hand over."""

    name: str
    description: str


@pytest.mark.parametrize(
    "details",
    [
        {"name": "after", "description": "as it is"},
        Policy(name="after", description="as it is"),
        Details("after", "as it is"),
        SimpleNamespace(name="after", description="as it is"),
    ],
    ids=["mapping", "message", "dataclass", "object"],
)
def test_an_edit_sets_what_is_named_and_is_audited(
    world: World, session: Session, model: FederatedModel, details: Any
) -> None:
    edit_model(model.uuid, details, uuid4(), session)
    session.commit()
    changed = world.now(model)
    assert changed == replace(model, name="after", description="as it is", updated_at=changed.updated_at)
    assert [action for action, _ in audit_of(world, model)] == [AuditAction.EDIT]


def test_an_edit_that_changes_nothing_is_not_audited(world: World, session: Session, model: FederatedModel) -> None:
    edit_model(model.uuid, {"name": "before"}, "u1", session)
    session.commit()
    assert audit_of(world, model) == []


@pytest.mark.parametrize(
    ("details", "what"),
    [
        ({"status": "RUNNING"}, "can't set status"),
        ({"deleted": True}, "can't set deleted"),
        ({"fence": 7}, "can't set fence"),
        ({"requirement": "none_such"}, "can't set requirement"),
        ({"name": "after", "nonsense": 1}, "can't set nonsense"),
        ({"name": None}, "name"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"silence_timeout": -1.0}, "silence_timeout"),
    ],
)
def test_an_edit_that_is_not_allowed_changes_nothing(
    world: World, session: Session, model: FederatedModel, details: dict[str, Any], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        edit_model(model.uuid, details, "u1", session)
    session.commit()
    assert world.now(model) == model
    assert audit_of(world, model) == []


# --- missing models -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["unknown", "row id", "text", "beyond any row", "deleted"])
def test_a_missing_model_is_a_value_error_to_edits_and_none_to_status(
    world: World, session: Session, model: FederatedModel, which: str
) -> None:
    world.delete(model)
    missing: dict[str, UUID | int | str] = {
        "unknown": uuid4(),
        "row id": 4711,
        "text": "no id at all",
        "beyond any row": "9" * 30,
        "deleted": model.uuid,
    }
    model_id = missing[which]
    assert update_model_status(model_id, S.RUNNING, session) is None
    assert update_model_status(model_id, None, session) is None
    assert get_model_status(model_id, session) is None
    assert get_metrics(model_id, session) == []
    assert validate_trust_ids(model_id, [], session) is False
    writes: tuple[Callable[[], object], ...] = (
        lambda: edit_model(model_id, {"name": "x"}, None, session),
        lambda: delete_model(model_id, None, session),
        lambda: add_log(model_id, "said", session),
    )
    for write in writes:
        with pytest.raises(ValueError, match="there is no model"):
            write()
    session.commit()
    assert feed_of(world, model) == []


def test_a_model_is_meant_by_uuid_text_or_row_id(session: Session, model: FederatedModel) -> None:
    update_model_status(model.id, S.INITIATED, session)
    for model_id in (model.id, model.uuid, str(model.uuid), str(model.id)):
        assert get_model_status(model_id, session) is S.INITIATED


# --- update_model_status --------------------------------------------------------------------------


def test_no_status_keeps_the_status(world: World, session: Session, model: FederatedModel) -> None:
    update_model_status(model.uuid, S.PREPARED, session)
    assert update_model_status(model.uuid, None, session) is S.PREPARED
    session.commit()
    assert feed_of(world, model) == ["PREPARED"]


def test_a_status_may_be_text_as_fl_servers_send_it(session: Session, model: FederatedModel) -> None:
    assert update_model_status(model.uuid, "TRAINING_STARTED", session) is S.RUNNING
    assert update_model_status(model.uuid, "RESULTS_UPLOADED", session) is S.RESULTS_UPLOADED


def test_why_nothing_changed_is_told_to_who_asks(session: Session, model: FederatedModel) -> None:
    update_model_status(model.uuid, S.RUNNING, session)
    change = change_status(model.uuid, S.PREPARED, session)
    assert change is not None
    assert (change.changed, change.reason) == (False, Ignored.BACKWARD)
    assert change_status(uuid4(), S.PREPARED, session) is None


def test_every_status_is_audited_but_pending_and_a_failed_upload(world: World, session: Session) -> None:
    for to in (S.INITIATED, S.PREPARED, S.RUNNING, S.RESULTS_UPLOADED, S.RESULTS_UPLOAD_FAILED, S.ERROR, S.STOPPED):
        model = world.model(clients=0)
        update_model_status(model.uuid, to, session, uuid4())
        session.commit()
        expected = [str(to)]
        assert [str(action) for action, _ in audit_of(world, model)] == expected


def test_audit_rows_equal_changes(session: Session, world: World, model: FederatedModel) -> None:
    """I9, over a run with every kind of callback that changes nothing."""
    within = (S.INITIATED, S.INITIATED, S.RUNNING, S.PREPARED, None, S.RUNNING)
    for to in (*within, S.STOPPED, S.RESULTS_UPLOADED, S.ERROR):
        update_model_status(model.uuid, to, session)
    session.commit()
    assert [str(action) for action, _ in audit_of(world, model)] == ["INITIATED", "RUNNING", "STOPPED"]
    assert feed_of(world, model) == ["INITIATED", "RUNNING", "STOPPED"]


# --- add_log, trusts ------------------------------------------------------------------------------


def test_the_slot_of_an_entry_is_resolved_unless_its_trust_is_given(
    world: World, session: Session, model: FederatedModel
) -> None:
    assigned, other = world.trust("King's", "KCH"), world.trust("Guy's")
    with world.connector.transaction():
        world.connector.set_fl_kit_slot("site-1", assigned)
        world.connector.set_fl_kit_slot("site-2", None)
    for name, trust in (("site-1", None), ("site-2", None), ("site-9", None), (None, None), ("site-1", other)):
        add_log(model.uuid, "said", session, trust=trust, fl_client_name=name)
    add_log(model.uuid, "said", session, trust=other.uuid)
    session.commit()
    found = [(entry.trust_id, entry.fl_client_name) for entry in world.connector.pull_logs(model)]
    assert found == [
        (assigned.id, "site-1"),
        (None, "site-2"),
        (None, "site-9"),
        (None, None),
        (other.id, "site-1"),
        (other.id, None),
    ]
    assert resolve_trust_from_fl_client_name("site-1", session) == assigned
    assert resolve_trust_from_fl_client_name("site-2", session) is None
    assert resolve_trust_from_fl_client_name("SITE-1", session) is None, "a slot is spelt as it is"
    with pytest.raises(ValueError, match="no trust"):
        add_log(model.uuid, "said", session, trust=uuid4())


def test_an_entry_is_typed_or_text_and_keeps_all_that_is_said(
    world: World, session: Session, model: FederatedModel
) -> None:
    run = uuid4()
    add_log(
        model.uuid, None, session, False, event_type="CLIENT_FAILED", global_round=3, details={"code": 137}, run_id=run
    )
    add_log(model.uuid, "free text", session)
    session.commit()
    typed, said = world.connector.pull_logs(model)
    assert (typed.event_type, typed.log, typed.success, typed.global_round) == ("CLIENT_FAILED", None, False, 3)
    assert (typed.details, typed.run_id) == ({"code": 137}, run)
    assert (said.log, said.success, said.event_type, said.run_id) == ("free text", True, None, None)
    for log, event_type in ((None, None), ("text", "ROUND_STARTED")):
        with pytest.raises(ValueError, match="either free text"):
            add_log(model.uuid, log, session, event_type=event_type)


AGAINST_THE_WIRE: dict[str, tuple[dict[str, Any], str]] = {
    "details not finite": ({"details": {"loss": float("nan")}}, "details"),
    "details too large": ({"details": {"text": "x" * 9_900}}, "details"),
    "details no JSON": ({"details": {"set": {1}}}, "details"),
    "details with a NUL": ({"details": {"a": [{"b": "\0"}]}}, "details"),
    "details with half a pair": ({"details": {"a": "\ud800"}}, "details"),
    "round 0": ({"global_round": 0}, "global_round"),
    "round below 0": ({"global_round": -1}, "global_round"),
    "round beyond its column": ({"global_round": 2**31}, "global_round"),
    "no text": ({"log": ""}, "log"),
    "too much text": ({"log": "x" * 70_000}, "log"),
    "text with a NUL": ({"log": "a\0b"}, "log"),
    "nameless client": ({"fl_client_name": ""}, "fl_client_name"),
    "client's name too long": ({"fl_client_name": "x" * 201}, "fl_client_name"),
    "start of no round": ({"log": None, "event_type": "ROUND_STARTED"}, "global_round"),
    "result of no round": ({"log": None, "event_type": "CLIENT_RESULT_RECEIVED"}, "global_round"),
    "status": ({"log": None, "event_type": "RUNNING"}, "event_type"),
    "hub's own": ({"log": None, "event_type": "QUEUE_POSITION"}, "event_type"),
    "type in small letters": ({"log": None, "event_type": "round started"}, "event_type"),
    "type too long": ({"log": None, "event_type": "X" * 101}, "event_type"),
}


@pytest.mark.parametrize("what", AGAINST_THE_WIRE)
def test_an_entry_against_the_rules_of_the_wire_is_refused_before_anything_is_written(
    world: World, session: Session, model: FederatedModel, what: str
) -> None:
    fields, field = AGAINST_THE_WIRE[what]
    add_log(model.uuid, "before", session)
    with pytest.raises(ValueError, match=field):
        add_log(model.uuid, session=session, **({"log": "words"} | fields))
    # The caller's transaction goes on, with what it had written.
    add_log(model.uuid, "after", session, global_round=2**31 - 1)
    session.commit()
    assert feed_of(world, model) == ["before", "after"]


def test_an_entry_without_an_event_id_is_new_every_time(world: World, session: Session, model: FederatedModel) -> None:
    event_id = uuid4()
    assert [add_log(model.uuid, "same words", session) for _ in range(2)] == [Kept.NEW, Kept.NEW]
    assert add_log(model.uuid, "once", session, event_id=event_id) is Kept.NEW
    assert add_log(model.uuid, "once", session, event_id=event_id) is Kept.REPEATED
    assert add_log(model.uuid, "twice", session, event_id=event_id) is Kept.CONFLICT
    session.commit()
    assert feed_of(world, model) == ["same words", "same words", "once"]


def test_trust_ids_are_valid_if_every_one_is_approved_for_the_model(
    world: World, session: Session, model: FederatedModel
) -> None:
    one, two, three = world.trust("A"), world.trust("B"), world.trust("C")
    with world.connector.transaction():
        world.connector.set_model_trusts(model, [one, two])
    assert validate_trust_ids(model.uuid, [one.uuid], session)
    assert validate_trust_ids(model.uuid, [two.uuid, str(one.uuid)], session)
    assert validate_trust_ids(model.uuid, [], session)
    assert not validate_trust_ids(model.uuid, [one.uuid, three.uuid], session)
    assert not validate_trust_ids(model.uuid, [uuid4()], session)
    written = [str(one.uuid).upper(), one.uuid.hex, one.uuid.hex.upper(), one.uuid.urn, f"{{{one.uuid}}}"]
    for trust_id in written:
        assert validate_trust_ids(model.uuid, [trust_id], session), trust_id
    junk: list[Any] = ["", "A", f"{one.uuid}0", None, 7, b"A"]
    for nonsense in junk:
        assert not validate_trust_ids(model.uuid, [one.uuid, nonsense], session), nonsense


# --- deletion -------------------------------------------------------------------------------------


def test_a_projects_models_are_deleted_together_each_with_its_audit(world: World, session: Session) -> None:
    project = uuid4()
    models = [world.model(clients=0, project_id=str(project)) for _ in range(3)]
    elsewhere = world.model(clients=0, project_id="p2")
    world.delete(models[1], user_id="u0")
    assert delete_models(project, "u1", session) == 2
    session.rollback()
    assert [world.now(model).deleted for model in models] == [False, True, False], "all or none"
    assert delete_models(project, "u1", session) == 2
    session.commit()
    assert [world.now(model).deleted for model in (*models, elsewhere)] == [True, True, True, False]
    assert [audit_of(world, model) for model in models] == [
        [(AuditAction.DELETE, "u1")],
        [(AuditAction.DELETE, "u0")],
        [(AuditAction.DELETE, "u1")],
    ]


def test_a_project_with_nothing_to_delete_is_an_error_unless_it_may_be_empty(
    world: World, session: Session, model: FederatedModel
) -> None:
    assert delete_models("p1", None, session) == 1
    for project in ("p1", "none such"):
        with pytest.raises(ValueError, match="no model that could be deleted"):
            delete_models(project, None, session)
        assert delete_models(project, None, session, ensure_deletion=False) == 0


def test_a_model_is_deleted_once(world: World, session: Session, model: FederatedModel) -> None:
    delete_model(model.uuid, "u1", session)
    with pytest.raises(ValueError, match="was deleted"):
        delete_model(model.uuid, "u1", session)
    session.commit()
    assert audit_of(world, model) == [(AuditAction.DELETE, "u1")]


# --- metrics --------------------------------------------------------------------------------------


def measure(world: World, model: FederatedModel, *points: dict[str, Any]) -> None:
    metrics = []
    for given in points:
        values: dict[str, Any] = {"label": "accuracy", "x_label": "Global Rounds", "x_value": 1.0, "result": 0.0}
        metrics.append(NewMetric(model_id=model.id, event_id=uuid4(), **(values | given)))
    with world.connector.transaction():
        world.connector.add_metrics(metrics)


def drawn(plots: list[Plot]) -> list[tuple[str, str, dict[str | None, list[tuple[float, float]]]]]:
    return [
        (
            plot.label,
            plot.x_label,
            {series.name: [(point.x_value, point.result) for point in series.points] for series in plot.series},
        )
        for plot in plots
    ]


def test_a_plot_is_a_label_over_an_x_and_a_series_is_a_trust(
    world: World, session: Session, model: FederatedModel
) -> None:
    coded, plain = world.trust("King's", "KCH"), world.trust("Guy's")
    measure(
        world,
        model,
        {"trust_id": coded.id, "x_value": 2.0, "result": 0.2},
        {"trust_id": plain.id, "x_value": 1.0, "result": 0.7},
        {"trust_id": coded.id, "x_value": 1.0, "result": 0.1},
        {"trust_id": coded.id, "x_label": "Epochs", "x_value": 9.0, "result": 0.9},
        {"trust_id": coded.id, "label": "loss", "x_value": 1.0, "result": 3.0},
    )
    assert drawn(get_metrics(model.uuid, session)) == [
        ("accuracy", "Epochs", {"KCH": [(9.0, 0.9)]}),
        ("accuracy", "Global Rounds", {"Guy's": [(1.0, 0.7)], "KCH": [(1.0, 0.1), (2.0, 0.2)]}),
        ("loss", "Global Rounds", {"KCH": [(1.0, 3.0)]}),
    ]


def test_points_of_equal_x_stay_in_the_order_of_their_arrival(
    world: World, session: Session, model: FederatedModel
) -> None:
    measure(world, model, *({"x_value": x, "result": float(n)} for n, x in enumerate([2.0, 1.0, 2.0, 1.0, 2.0])))
    ((_, _, series),) = drawn(get_metrics(model.uuid, session))
    assert series == {None: [(1.0, 1.0), (1.0, 3.0), (2.0, 0.0), (2.0, 2.0), (2.0, 4.0)]}


def test_two_trusts_never_merge_though_one_is_called_like_the_others_code(
    world: World, session: Session, model: FederatedModel
) -> None:
    named, coded = world.trust("KCH"), world.trust("King's", "KCH")
    measure(world, model, {"trust_id": named.id, "result": 0.1}, {"trust_id": coded.id, "result": 0.2})
    ((first, second),) = [plot.series for plot in get_metrics(model.uuid, session)]
    assert (first.name, second.name) == ("KCH", "KCH")
    assert {series.trust.id: [p.result for p in series.points] for series in (first, second) if series.trust} == {
        named.id: [0.1],
        coded.id: [0.2],
    }


def test_runs_are_told_apart_when_asked(world: World, session: Session, model: FederatedModel) -> None:
    trust, first, second = world.trust("King's"), uuid4(), uuid4()
    measure(
        world,
        model,
        {"trust_id": trust.id, "run_id": first, "x_value": 1.0, "result": 0.1},
        {"trust_id": trust.id, "run_id": second, "x_value": 1.0, "result": 0.5},
        {"trust_id": trust.id, "run_id": first, "x_value": 2.0, "result": 0.2},
    )
    ((_, _, together),) = drawn(get_metrics(model.uuid, session))
    assert together == {"King's": [(1.0, 0.1), (1.0, 0.5), (2.0, 0.2)]}
    (apart,) = get_metrics(model.uuid, session, per_run=True)
    assert [(series.run_id, [p.result for p in series.points]) for series in apart.series] == [
        (first, [0.1, 0.2]),
        (second, [0.5]),
    ]
    ((_, _, of_second),) = drawn(get_metrics(model.uuid, session, run_id=second))
    assert of_second == {"King's": [(1.0, 0.5)]}


def test_clients_without_a_trust_have_series_of_their_own(
    world: World, session: Session, model: FederatedModel
) -> None:
    measure(world, model, {"fl_client_name": "ward 3"}, {"fl_client_name": "ward 7"}, {})
    ((_, _, series),) = drawn(get_metrics(model.uuid, session))
    assert list(series) == [None, "ward 3", "ward 7"]


# --- two at once ----------------------------------------------------------------------------------


def _in_threads(*works: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


def _set(engine: Engine, model: FederatedModel, to: ModelStatus, barrier: threading.Barrier | None = None) -> None:
    with Session(engine) as session:
        if barrier is not None:
            barrier.wait()
        update_model_status(model.uuid, to, session)
        session.commit()


def test_who_asks_while_another_has_not_committed_waits_and_decides_by_the_outcome(
    world: World, engine: Engine, model: FederatedModel
) -> None:
    """One row lock for read, decide and write: without it both would have decided by PENDING."""
    asks = threading.Event()
    with Session(engine) as session:
        update_model_status(model.uuid, S.STOPPED, session)
        event.listen(engine, "before_cursor_execute", lambda *_: asks.set())
        (late,) = _in_threads(lambda: _set(engine, model, S.RUNNING))
        # From there on: a thread that is slow to start has not waited for anybody yet.
        assert asks.wait(30)
        late.join(1.0)
        assert late.is_alive(), "it did not wait: this shows nothing"
        session.commit()
    late.join(30)
    assert world.now(model).status is S.STOPPED
    assert feed_of(world, model) == ["STOPPED"]


@pytest.mark.parametrize("_attempt", range(10))
def test_two_at_once_come_to_what_one_after_the_other_would(
    world: World, engine: Engine, model: FederatedModel, _attempt: int
) -> None:
    barrier = threading.Barrier(2)
    for thread in _in_threads(
        lambda: _set(engine, model, S.RUNNING, barrier), lambda: _set(engine, model, S.STOPPED, barrier)
    ):
        thread.join(30)
    assert world.now(model).status is S.STOPPED
    audit = [str(action) for action, _ in audit_of(world, model)]
    assert audit in (["RUNNING", "STOPPED"], ["STOPPED"])
    assert feed_of(world, model) == audit


def test_a_status_many_ask_for_at_once_is_changed_and_audited_once(
    world: World, engine: Engine, model: FederatedModel
) -> None:
    barrier = threading.Barrier(4)
    for thread in _in_threads(*[lambda: _set(engine, model, S.RUNNING, barrier)] * 4):
        thread.join(30)
    assert (feed_of(world, model), len(audit_of(world, model))) == (["RUNNING"], 1)


def test_two_who_delete_a_project_at_once_delete_each_model_once(
    world: World, engine: Engine, connector: SqlAlchemyMetadataConnector
) -> None:
    for _ in range(5):
        world.model(clients=0, project_id="p9")
    barrier, counts = threading.Barrier(2), []

    def delete() -> None:
        with Session(engine) as session:
            barrier.wait()
            counts.append(delete_models("p9", "u1", session, ensure_deletion=False))
            session.commit()

    for thread in _in_threads(delete, delete):
        thread.join(30)
    assert sorted(counts) == [0, 5]
    with Session(engine) as session:
        assert len(session.scalars(select(AuditRow.id)).all()) == 5


def test_a_user_and_a_callback_of_one_event_id_leave_one_entry(
    world: World, engine: Engine, model: FederatedModel
) -> None:
    event_id, barrier = uuid4(), threading.Barrier(3)

    def ask() -> None:
        with Session(engine) as session:
            barrier.wait()
            update_model_status(model.uuid, S.RUNNING, session, event_id=event_id)
            session.commit()

    for thread in _in_threads(ask, ask, ask):
        thread.join(30)
    with Session(engine) as session:
        assert session.scalars(select(LogRow.event_id)).all() == [event_id]
