"""Taking over what FMA's API wrote, its rows put there by SQL; tests/bridges/test_fma.py has a real Django."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from config.settings import Settings
from connectors.django.errors import PathNotServed
from connectors.django.tables import (
    AGGREGATES,
    ARTIFACTS,
    MODELS,
    REGISTRATIONS,
    SCHEDULES,
    SCORES,
    UPDATES,
    DjangoDateTime,
)
from connectors.django.tree import add_node
from connectors.records import BlobRef, ModelArtifact, ReasonCode, UpdateStatus
from connectors.sql.rows import ModelAggregateRow, ModelUpdateRow, RoundRow
from connectors.storage import FileModelDataConnector
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.rounds import finish_round, run_round
from tasks.domain.takeover import TAKEOVER, take_over
from tasks.hub import Hub
from tests.chaos.facts import read_facts
from tests.chaos.invariants import violations
from tests.deployments import WHEN, Deployment, disagreements


@pytest.fixture
def fma(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    assert disagreements(made.metadata.engine) == []
    made.metadata.close()


def test_a_hub_of_its_own_takes_nothing_over(tmp_path: Path) -> None:
    from connectors.memory import InMemoryMetadataConnector

    hub = Hub(
        Settings(home=tmp_path), InMemoryMetadataConnector(), FileModelDataConnector(tmp_path), send=lambda *_: None
    )
    assert not take_over(hub, seconds=60)


def test_everything_is_taken_over_once(fma: Deployment) -> None:
    """A second look finds nothing more, a round takes what the first has found."""
    model_id, (one, two) = fma.model(clients=2, requirement="all_clients")
    fma.insert(ARTIFACTS, federated_model_id=model_id, version="1", created_on=WHEN, values=fma.file([0, 0]))
    fma.send(model_id, one, [1, 2])
    fma.send(model_id, two, [3, 6])
    assert dict(fma.take().counts) == {"models": 1, "registrations": 2, "artifacts": 1, "updates": 2}
    assert not fma.take()
    assert fma.metadata.pull_models_to_aggregate() == [model_id]
    posted = run_round(fma.hub, model_id).aggregate
    assert posted is not None
    assert (fma.media / posted.data.uri.partition("/media/")[2]).read_text() == "[2.0, 4.0]"
    with fma.metadata.engine.connect() as connection:
        statuses = connection.execute(select(UPDATES.c.status, UPDATES.c.applied_aggregate_id)).all()
    assert statuses == [(2, posted.id)] * 2
    assert violations(read_facts(str(fma.metadata.engine.url)), quiet=True) == []


def test_another_worker_at_the_same_moment_takes_nothing_twice(fma: Deployment) -> None:
    """Both have found the same rows before either takes them."""
    model_id, (client,) = fma.model()
    fma.take()
    fma.send(model_id, client, [1.0])
    deployment = fma.metadata.deployment
    assert deployment is not None
    found = deployment.pull_new_updates(10)
    assert fma.take().counts["updates"] == 1
    seen = iter([found])  # what is there when it looks again is nothing
    deployment.pull_new_updates = lambda *_: next(seen, [])  # type: ignore[method-assign]
    try:
        assert not take_over(fma.hub, seconds=60)
    finally:
        del deployment.pull_new_updates
    assert len(fma.metadata.pull_model_updates(fma.known(model_id))) == 1


def test_what_cant_be_taken_over_is_one_dead_letter(fma: Deployment) -> None:
    model_id, (client,) = fma.model(client_agg_results_schema={"required": ["f1"]})
    artifact = fma.insert(
        ARTIFACTS, federated_model_id=model_id, version="1", created_on=WHEN, values="model_artifacts/gone"
    )
    fma.send(model_id, client, [1.0])
    fma.take()
    posted = run_round(fma.hub, model_id).aggregate
    assert posted is not None
    named = {"aggregate_id": posted.id, "client_id": client, "created_on": WHEN}
    score = fma.insert(SCORES, validation_results={"f2": 1}, **named)
    fma.take()
    fma.take()
    deployment = fma.metadata.deployment
    assert deployment is not None
    assert (deployment.pull_new_artifacts(10), deployment.pull_new_scores(10)) == ([], []), "nor is it read again"
    letters = [(letter.task, letter.payload, letter.field) for letter in fma.metadata.pull_dead_letters()]
    assert letters == [
        (TAKEOVER, {"kind": "artifact", "id": artifact}, "file"),
        (TAKEOVER, {"kind": "score", "id": score}, "validation_results"),
    ]
    with fma.metadata.engine.begin() as connection:  # both sides are to be the same at the end
        connection.execute(SCORES.delete())
        connection.execute(ARTIFACTS.delete())


def test_a_version_that_the_hub_has_no_room_for_is_refused(fma: Deployment) -> None:
    """A server would refuse the row itself, at every poll, and nothing behind it would be taken over."""
    model_id, _ = fma.model()
    named = {"version": "v" * 101, "values": fma.file([1.0])}
    fma.insert(ARTIFACTS, federated_model_id=model_id, created_on=WHEN, **named)
    taken = fma.take()
    assert (taken.refused, taken.counts["artifacts"]) == (1, 0)
    (letter,) = fma.metadata.pull_dead_letters()
    assert (letter.field, letter.reason) == ("version", "longer than 100 characters")
    with fma.metadata.engine.begin() as connection:
        connection.execute(ARTIFACTS.delete())


def test_a_client_that_has_registered_since_is_no_stranger(fma: Deployment) -> None:
    """Its update is found only when its registration is: not INVALID for good by a poll that came in between."""
    model_id, (client,) = fma.model()
    fma.send(model_id, client, [1.0])
    deployment = fma.metadata.deployment
    assert deployment is not None
    (found,) = deployment.pull_new_models(10)
    with fma.metadata.transaction():
        deployment.adopt_model(found)
    assert deployment.pull_new_updates(10) == []
    fma.take()
    assert [u.status for u in fma.metadata.pull_model_updates(fma.known(model_id))] == [UpdateStatus.PENDING]


def test_updates_that_have_to_wait_stand_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of them, and another model's behind it."""
    monkeypatch.setattr("tasks.domain.takeover._AT_ONCE", 2)
    fma = Deployment(tmp_path, client_open_updates=1)
    (one, (eager,)), (other, (patient,)) = fma.model(), fma.model()
    for _ in range(4):
        fma.send(one, eager, [1.0])
    fma.send(other, patient, [2.0])
    assert fma.take().counts["updates"] == 2
    assert len(fma.metadata.pull_model_updates(fma.known(other))) == 1
    fma.metadata.close()


def test_an_update_over_a_limit_waits_where_it_is(tmp_path: Path) -> None:
    fma = Deployment(tmp_path, client_open_updates=1)
    model_id, (client,) = fma.model()
    for value in (1.0, 2.0):
        fma.send(model_id, client, [value])
    assert fma.take().counts["updates"] == 1
    assert run_round(fma.hub, model_id).outcome == "posted"
    assert fma.take().counts["updates"] == 1
    assert fma.metadata.pull_dead_letters() == []
    fma.metadata.close()


def test_updates_of_a_deleted_model_are_left_alone(fma: Deployment) -> None:
    """And FMA shows the model as paused: it knows no deleted ones."""
    schedule = fma.insert(SCHEDULES, repeats=-1)
    model_id, (client,) = fma.model(scheduler_id=schedule)
    fma.take()
    with fma.metadata.transaction():
        fma.metadata.delete_federated_models([fma.known(model_id)], "somebody")
    update_id = fma.send(model_id, client, [1.0])
    assert not fma.take()
    with fma.metadata.engine.begin() as connection:
        assert connection.scalar(select(SCHEDULES.c.repeats)) == 0
        connection.execute(UPDATES.delete().where(UPDATES.c.id == update_id))


def test_a_pause_that_fma_ends_is_ended_though_nothing_more_comes_in(fma: Deployment) -> None:
    """The poll looks past paused models: nothing else would lock it."""
    schedule = fma.insert(SCHEDULES, repeats=-1)
    model_id, (client,) = fma.model(scheduler_id=schedule)
    fma.send(model_id, client, [1.0])
    fma.take()
    for repeats, polled in ((0, []), (-1, [model_id])):
        with fma.metadata.engine.begin() as connection:
            connection.execute(update(SCHEDULES).values(repeats=repeats))
        assert dict(fma.take().counts) == {"pauses": 1}
        assert fma.metadata.pull_models_to_aggregate() == polled
    # Paused by the hub, it is so in FMA, and nothing is left to compare.
    with fma.metadata.transaction():
        fma.metadata.change_federated_model(fma.known(model_id), {"allow_aggregation": False})
    assert not fma.take()
    with fma.metadata.engine.connect() as connection:
        assert connection.scalar(select(SCHEDULES.c.repeats)) == 0


def test_an_aggregate_of_fmas_own_fences_the_round_that_is_under_way(fma: Deployment) -> None:
    """FMA's task is still running somewhere: what it has used is not used again, and the chain stays one."""
    model_id, (client,) = fma.model()
    fma.send(model_id, client, [1.0])
    fma.take()
    with fma.metadata.transaction() as transaction:
        begun = begin_round(fma.hub, model_id, transaction)
    assert isinstance(begun, Begun)
    path = fma.file([1.0])
    with fma.metadata.transaction() as writing:
        theirs = add_node(writing.session, model_id, None, path)
        writing.session.execute(update(UPDATES).values(status=2, applied_aggregate_id=theirs))
    assert finish_round(fma.hub, begun).outcome == "overtaken"
    assert fma.known(model_id).head == 0
    assert dict(fma.take().counts) == {"aggregates": 1, "updates used by FMA": 1}
    (found,) = fma.metadata.pull_model_updates(fma.known(model_id))
    (aggregate,) = fma.metadata.pull_model_aggregates(fma.known(model_id))
    assert (found.status, found.applied_aggregate_id, found.claim) == (UpdateStatus.COMPLETE, theirs, None)
    assert (aggregate.id, aggregate.number, aggregate.num_updates) == (theirs, 1, 1)


def test_a_client_that_fma_takes_off_a_model_is_not_waited_for(fma: Deployment) -> None:
    model_id, (one, two) = fma.model(clients=2, requirement="all_clients")
    fma.send(model_id, one, [1.0])
    fma.take()
    assert run_round(fma.hub, model_id).outcome == "waiting"
    with fma.metadata.engine.begin() as connection:
        connection.execute(REGISTRATIONS.delete().where(REGISTRATIONS.c.client_id == two))
    assert dict(fma.take().counts) == {"registrations removed": 1}
    assert run_round(fma.hub, model_id).outcome == "posted"


def test_an_update_that_is_deleted_in_fma_is_not_counted(fma: Deployment) -> None:
    model_id, (client,) = fma.model()
    gone = fma.send(model_id, client, [1.0])
    fma.take()
    with fma.metadata.engine.begin() as connection:
        connection.execute(UPDATES.delete())
    assert dict(fma.take().counts) == {"updates deleted": 1}
    assert run_round(fma.hub, model_id).outcome == "idle"
    (found,) = fma.metadata.pull_model_updates(fma.known(model_id))
    assert (found.id, found.status, found.reason) == (gone, UpdateStatus.INVALID, "deleted in FMA")
    with fma.metadata.transaction() as transaction:  # what only the hub has is no disagreement to look for
        transaction.session.execute(delete(ModelUpdateRow))


def test_the_chain_goes_on_where_its_head_was_deleted_in_fma(fma: Deployment) -> None:
    """In a tree of its own there; in the hub as ever. Failing instead, the updates would be suspected of it."""
    model_id, (client,) = fma.model()
    for value in (1.0, 2.0):
        fma.send(model_id, client, [value])
        fma.take()
        assert run_round(fma.hub, model_id).outcome == "posted"
        if value == 1.0:
            with fma.metadata.engine.begin() as connection:
                connection.execute(UPDATES.delete())
                connection.execute(AGGREGATES.delete())
    with fma.metadata.engine.connect() as connection:
        places = connection.execute(select(AGGREGATES.c.parent_id, AGGREGATES.c.lft, AGGREGATES.c.level)).all()
    assert places == [(None, 1, 0)]
    assert [a.number for a in fma.metadata.pull_model_aggregates(fma.known(model_id))] == [1, 2]
    assert len(disagreements(fma.metadata.engine)) == 4  # the head is gone, its update, and the second's parent
    with fma.metadata.transaction() as transaction:
        for row in (RoundRow, ModelUpdateRow, ModelAggregateRow):
            transaction.session.execute(delete(row))
        transaction.session.execute(UPDATES.delete())
        transaction.session.execute(AGGREGATES.delete())


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"aggregator": ""}, "aggregator: "),
        ({"requirement": "al_clients"}, "did you mean 'all_clients'"),
    ],
)
def test_a_policy_that_nobody_has_checked_stops_the_rounds_and_says_so(
    fma: Deployment, policy: dict[str, Any], reason: str
) -> None:
    """FMA took a misspelt requirement for none."""
    model_id, (client,) = fma.model(**policy)
    fma.send(model_id, client, [1.0])
    fma.take()
    outcome = run_round(fma.hub, model_id)
    assert outcome.outcome == "misconfigured"
    assert reason in outcome.reason
    with fma.metadata.engine.begin() as connection:
        connection.execute(update(MODELS).values(aggregator="median", requirement=""))
    assert run_round(fma.hub, model_id).outcome == "posted"


def test_a_policy_that_nobody_has_checked_keeps_no_update_out(fma: Deployment) -> None:
    """fedbuff needs a size, which FMA has no column for: whether a round of it may be due can't be told."""
    model_id, (client,) = fma.model(aggregator="fedbuff", requirement="")
    fma.send(model_id, client, [1.0])
    fma.take()
    (found,) = fma.metadata.pull_model_updates(fma.known(model_id))
    assert found.status == UpdateStatus.PENDING
    outcome = run_round(fma.hub, model_id)
    assert (outcome.outcome, "buffer_size" in outcome.reason) == ("misconfigured", True)


def test_an_update_of_a_client_registered_elsewhere_is_invalid(fma: Deployment) -> None:
    model_id, _ = fma.model()
    _, (stranger,) = fma.model()
    sent = fma.send(model_id, stranger, [1.0])
    fma.take()
    (found,) = fma.metadata.pull_model_updates(fma.known(model_id))
    assert (found.id, found.status, found.reason_code) == (sent, UpdateStatus.INVALID, ReasonCode.UNREGISTERED_CLIENT)


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "model_updates/link"])
def test_a_file_outside_the_media_folder_is_not_read(fma: Deployment, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("[1.0]")
    (fma.media / "model_updates").mkdir(parents=True)
    (fma.media / "model_updates" / "link").symlink_to(tmp_path / "secret")
    model_id, (client,) = fma.model()
    fma.send(model_id, client, [1.0])
    with fma.metadata.engine.begin() as connection:
        connection.execute(update(UPDATES).values(data=path))
    fma.take()
    (found,) = fma.metadata.pull_model_updates(fma.known(model_id))
    assert (found.status, found.reason_code) == (UpdateStatus.INVALID, ReasonCode.CORRUPT)


def test_times_are_written_as_django_writes_them(fma: Deployment) -> None:
    """FMA's API sorts by the text: an ISO T would come after every space."""
    model_id, (client,) = fma.model()
    fma.send(model_id, client, [1.0])
    fma.take()
    run_round(fma.hub, model_id)
    with fma.metadata.engine.connect() as connection:
        written = connection.exec_driver_sql(f"SELECT created_on FROM {AGGREGATES.name}").scalar_one()
    assert datetime.strptime(written, "%Y-%m-%d %H:%M:%S.%f")
    assert DjangoDateTime().process_bind_param(WHEN, fma.metadata.engine.dialect) == "2026-01-01 00:00:00"


def test_bytes_that_fma_could_not_serve_are_refused_by_name(fma: Deployment) -> None:
    model_id, _ = fma.model()
    fma.take()
    for uri, rule in (("file:///elsewhere/x", "does not lie"), (f"file://{fma.media}/{'x' * 101}", "longer than 100")):
        artifact = ModelArtifact(0, model_id, "1", BlobRef(uri, "0" * 64, 1))
        with pytest.raises(PathNotServed, match=rule), fma.metadata.transaction():
            fma.metadata.add_model_artifact(artifact)
