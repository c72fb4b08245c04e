"""The hub beside a real FMA deployment: fma-django's API and tables, FMA's own aggregation, django-mptt's rebuild."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.types import BigInteger, Integer

from connectors.django.errors import NoDeveloper
from connectors.django.tables import AGGREGATES, CLIENTS, METADATA, SCHEDULES, USERS
from connectors.records import ReasonCode, UpdateStatus
from examples.fma.peer import PYTHON
from fedqueue.messages import CreateModel, EditModel, Policy, PublishModel, SubmitModelUpdate
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.models import create_model, edit_model, publish_model, set_paused
from tasks.domain.provenance import Verdict, verify
from tasks.domain.rounds import finish_round, run_round
from tasks.domain.submission import submit_update
from tests.buckets import make_bucket, s3_server
from tests.deployments import disagreements
from tests.fma_places import Place, beside
from tests.servers import fresh_database

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=".peers/fma is not there: run `make peers`"),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "sqlite in a bucket"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all tests, each of which makes models of its own: Django takes seconds to start."""
    home = tmp_path_factory.mktemp("fma")
    if request.param == "sqlite":
        with beside(home, f"sqlite:///{home}/fma.db") as made:
            yield made
        return
    if request.param == "sqlite in a bucket":
        with s3_server(home) as server:
            make_bucket(server, "fma")
            with beside(home, f"sqlite:///{home}/fma.db", bucket="s3://fma/media") as made:
                yield made
        return
    with fresh_database(request.getfixturevalue("postgres")) as url:
        parts = make_url(url)
        database = {"NAME": parts.database, "USER": parts.username, "HOST": parts.host, "PORT": parts.port}
        with beside(home, url, {"ENGINE": "django.db.backends.postgresql", **database}) as made:
            yield made


@pytest.fixture
def place(deployment: Place) -> Iterator[Place]:
    """The deployment, whose clients see the same as the hub's when a test is over."""
    yield deployment
    deployment.take()
    assert disagreements(deployment.engine) == []


def test_the_tables_are_those_that_django_makes(place: Place) -> None:
    """What is declared here for a worker without Django, beside what fma-django's migrations have made."""
    found = inspect(place.engine)
    for table in METADATA.sorted_tables:
        made = {column["name"]: column for column in found.get_columns(table.name)}
        for column in table.columns:
            theirs = made[column.name]
            assert bool(theirs["nullable"]) == column.nullable, column
            kind = column.type.dialect_impl(place.engine.dialect)
            if isinstance(kind, (Integer, BigInteger)):
                assert isinstance(theirs["type"], (Integer, BigInteger)), column
        # A column that is left out of an INSERT must do without a value. The hub makes no users and no schedules.
        if table not in (USERS, SCHEDULES):
            needed = {name for name, each in made.items() if not each["nullable"]}
            assert needed <= set(table.columns.keys()), table.name


def test_a_round_of_fmas_own_clients(place: Place) -> None:
    """By hand: (1 + 5) / 2, (2 + 2) / 2, (4 + 3) / 2. FMA's clients see the update used, and the model served."""
    model_id, (one, two) = place.model(requirement="require_x_updates", requirement_args=[2], initial_model=[0, 0, 0])
    assert place.latest(model_id, one) == {"values": [0, 0, 0], "aggregate": None}
    first = place.send(model_id, one, [1, 2, 4])
    assert place.round(model_id) is None, "two updates are required"
    second = place.send(model_id, two, [5, 2, 3])
    posted = place.round(model_id)
    assert posted is not None
    assert place.latest(model_id, one) == {"values": [3.0, 2.0, 3.5], "aggregate": posted.id}
    shown = place.shown(model_id)
    assert {key: (row["status"], row["applied_aggregate"]) for key, row in shown.items()} == {
        first: (2, posted.id),
        second: (2, posted.id),
    }
    assert place.round(model_id) is None, "nothing is counted twice"


def test_what_fma_serves_as_latest_is_the_hubs_newest(place: Place) -> None:
    """FMA finds it by time: an aggregate is never older than its parent, whatever a worker's clock says."""
    model_id, (client,) = place.model(clients=1)
    posted = None
    for value in range(3):
        place.send(model_id, client, [float(value)], None if posted is None else posted.id)
        if posted is not None:
            with place.engine.begin() as connection:  # as if the last one had been posted by a clock that is ahead
                connection.execute(
                    update(AGGREGATES).where(AGGREGATES.c.id == posted.id).values(created_on=_in_an_hour(connection))
                )
        posted = place.round(model_id)
        assert posted is not None
        assert place.latest(model_id, client) == {"values": [float(value)], "aggregate": posted.id}


def _in_an_hour(connection: Any) -> Any:
    newest = connection.scalar(select(func.max(AGGREGATES.c.created_on)))
    return newest + timedelta(hours=1)


def test_a_client_sends_its_validation_and_a_published_aggregate_is_an_artifact(place: Place) -> None:
    model_id, (client, other) = place.model()
    place.send(model_id, client, [1.0])
    posted = place.round(model_id)
    assert posted is not None
    results = {"validation_results": {"f1": 0.5}, "aggregate": posted.id, "client": client}
    place.fma.ask("POST", "client_aggregate_scores/", results, client=client)
    published = place.fma.ask(
        "POST", f"model_aggregates/{posted.id}/publish_aggregate/", {"version": "2.0"}, token=place.token
    )
    assert dict(place.take().counts) == {"artifacts": 1, "scores": 1}
    (score,) = place.metadata.pull_client_aggregate_scores(posted)
    assert dict(score.validation_results) == {"f1": 0.5}
    model = place.known(model_id)
    artifact = place.metadata.pull_model_artifact(model)
    assert artifact is not None
    assert (artifact.id, artifact.version, artifact.aggregate_id) == (published["id"], "2.0", posted.id)
    # The other way round: published by the hub, served by FMA.
    publish_model(place.hub, PublishModel(model_id=model.uuid, version="3.0"))
    served = place.fma.ask("GET", f"models/{model_id}/get_current_artifact/", client=other)
    assert served["version"] == "3.0"


def test_garbage_collection_leaves_what_fma_serves(place: Place) -> None:
    """A published artifact points at the aggregate's own file."""
    model_id, (client,) = place.model(clients=1, initial_model=[0.0])
    place.send(model_id, client, [1.0])
    posted = place.round(model_id)
    assert posted is not None
    place.fma.ask("POST", f"model_aggregates/{posted.id}/publish_aggregate/", {"version": "2.0"}, token=place.token)
    with place.engine.connect() as connection:
        files = connection.scalars(text("SELECT data FROM fma_django_modelupdate")).all()
    place.hub.model_data.collect_garbage(0, place.metadata.pull_named_digests)
    assert place.latest(model_id, client)["values"] == [1.0]
    assert all(place.read(path) for path in files), "FMA's own files are none of the hub's"


def test_the_tree_stands_a_rebuild_with_models_side_by_side(place: Place) -> None:
    """Three trees that grow in turn, one of them begun by FMA itself: the fixture's rebuild finds nothing to change."""
    models = [place.model(clients=1) for _ in range(3)]
    place.send(models[2][0], models[2][1][0], [7.0])
    theirs = int(place.fma.aggregate(models[2][0]))
    place.take()
    for number in range(4):
        for model_id, (client,) in models:
            place.send(model_id, client, [float(number)])
            assert place.round(model_id) is not None
    rebuilt = place.fma.rebuild()
    assert (rebuilt["changed"], rebuilt["deepest"]) == ([], 4)
    with place.engine.connect() as connection:
        parents = connection.scalars(select(AGGREGATES.c.parent_id).where(AGGREGATES.c.parent_id == theirs)).all()
    assert parents == [theirs], "the hub's first is the child of FMA's last"


def test_a_rebuild_would_show_a_tree_that_is_none(place: Place) -> None:
    """The check that every test here ends with can fail, and so can the comparison of both sides."""
    model_id, (client,) = place.model(clients=1)
    for value in (1.0, 2.0):
        place.send(model_id, client, [value])
        place.round(model_id)
    spoilt = update(AGGREGATES).where(AGGREGATES.c.federated_model_id == model_id)
    with place.engine.begin() as connection:
        connection.execute(spoilt.values(rght=AGGREGATES.c.rght + 1, validation_score=0.5))
    assert len(disagreements(place.engine)) == 2 * 2 + 2  # two scores, from both sides, and two places
    assert len(place.fma.rebuild()["changed"]) == 2
    with place.engine.begin() as connection:
        connection.execute(spoilt.values(validation_score=None))


def test_staleness_counts_from_the_latest(place: Place) -> None:
    """FMA's own query leaves the latest aggregate out, so that a fresh update never counts (DESIGN 4.3)."""
    model_id, (client,) = place.model(clients=1, furthest_base_agg=1)
    place.send(model_id, client, [1.0])
    first = place.round(model_id)
    assert first is not None
    fresh = place.send(model_id, client, [2.0], first.id)
    second = place.round(model_id)
    assert second is not None
    stale = place.send(model_id, client, [3.0], first.id)
    assert place.round(model_id) is None
    found = place.updates(model_id)
    assert (found[fresh].status, found[stale].status) == (UpdateStatus.COMPLETE, UpdateStatus.INVALID)
    assert found[stale].reason_code is ReasonCode.STALE


def test_a_bad_update_is_set_aside_on_both_sides(place: Place) -> None:
    """Another shape; a sender that is registered with another model; a file that is gone."""
    model_id, (client,) = place.model(clients=1, initial_model=[0.0, 0.0])
    _, (stranger,) = place.model(clients=1)
    sent = {
        place.send(model_id, client, [1.0]): ReasonCode.SHAPE,
        place.send(model_id, stranger, [1.0, 2.0]): ReasonCode.UNREGISTERED_CLIENT,
        place.send(model_id, client, [1.0, 2.0]): ReasonCode.CORRUPT,
    }
    with place.without(place.file_of(max(sent))):
        assert place.round(model_id) is None
    assert {key: found.reason_code for key, found in place.updates(model_id).items()} == sent
    assert {row["status"] for row in place.shown(model_id).values()} == {4}


def test_the_policy_is_brought_together_whoever_changed_it(place: Place) -> None:
    model_id, (client,) = place.model(clients=1, requirement="require_x_updates", requirement_args=[2])
    place.send(model_id, client, [1.0])
    place.take()
    # FMA's side: paused by its API, then one update is enough.
    asked = {"name": "digits", "developer": 1, "aggregator": "avg_values_if_data", "clients": [client]}
    gate = {"requirement": "require_x_updates", "requirement_args": [1]}
    place.fma.ask("PATCH", f"models/{model_id}/", {"allow_aggregation": False}, token=place.token)
    assert run_round(place.hub, model_id).outcome == "paused"
    place.fma.ask("PUT", f"models/{model_id}/", asked | gate | {"allow_aggregation": True}, token=place.token)
    assert run_round(place.hub, model_id).outcome == "posted"
    # The hub's side.
    model = place.known(model_id)
    changes = Policy(requirement="all_clients", furthest_base_agg=3, name="renamed")
    edit_model(place.hub, EditModel(model_id=model.uuid, changes=changes))
    set_paused(place.hub, model.uuid, True)
    shown = place.fma.ask("GET", f"models/{model_id}/", token=place.token)
    assert (shown["requirement"], shown["requirement_args"]) == ("all_clients", None)
    assert (shown["furthest_base_agg"], shown["name"], shown["allow_aggregation"]) == (3, "renamed", False)
    # And back again, to what stood there before the hub's change.
    place.fma.ask("PATCH", f"models/{model_id}/", {"name": "digits", "allow_aggregation": True}, token=place.token)
    with place.metadata.transaction():
        locked = place.metadata.lock_model(model)
    assert (locked.name, locked.allow_aggregation, locked.requirement) == ("digits", True, "all_clients")


def test_what_fma_did_before_is_history_and_goes_on(place: Place) -> None:
    """Two aggregates of FMA's own, the second left without its hook; an update left RUNNING by a task that died."""
    model_id, (client,) = place.model(clients=1)
    place.send(model_id, client, [1.0])
    first = int(place.fma.aggregate(model_id))
    place.send(model_id, client, [2.0], first)
    place.fma.aggregate(model_id, "--dies-in", "register_model_updates_use_in_aggregation_complete")
    left = place.send(model_id, client, [3.0], first)
    place.fma.aggregate(model_id, "--dies-in", "pull_model_updates_registered_for_aggregation")
    taken = place.take()
    assert taken.counts["aggregates"] == 2
    assert (taken.counts["used updates"], taken.counts["updates"], taken.refused) == (2, 1, 0)
    model = place.known(model_id)
    assert [(a.number, a.num_updates) for a in place.metadata.pull_model_aggregates(model)] == [(1, 1), (2, 1)]
    assert place.updates(model_id)[left].status is UpdateStatus.PENDING
    history = place.metadata.pull_model_aggregate(first)
    assert history is not None
    assert verify(place.hub, history).verdict is Verdict.NOT_REPEATABLE
    posted = run_round(place.hub, model_id).aggregate
    assert posted is not None
    assert (posted.number, place.latest(model_id, client)["values"]) == (3, [3.0])


def test_fmas_own_service_at_the_same_time_counts_nothing_twice(place: Place) -> None:
    """It should be switched off. Where it is not, its aggregate fences the hub's round, whose updates it has used."""
    model_id, (client,) = place.model(clients=1)
    update_id = place.send(model_id, client, [1.0])
    place.take()
    with place.metadata.transaction() as transaction:
        begun = begin_round(place.hub, model_id, transaction)
    assert isinstance(begun, Begun)
    with place.engine.begin() as connection:  # FMA's task had read the update before the hub took it
        connection.execute(text("UPDATE fma_django_modelupdate SET status = 0 WHERE id = :id"), {"id": update_id})
    theirs = int(place.fma.aggregate(model_id))
    assert finish_round(place.hub, begun).outcome == "overtaken"
    assert dict(place.take().counts) == {"aggregates": 1, "updates used by FMA": 1}
    (found,) = place.updates(model_id).values()
    assert (found.id, found.status, found.applied_aggregate_id) == (update_id, UpdateStatus.COMPLETE, theirs)
    model = place.known(model_id)
    assert model.head == 1
    # The round that lost goes on with the next update.
    place.send(model_id, client, [5.0], theirs)
    place.take()
    with place.engine.begin() as connection:
        connection.execute(text("UPDATE federated_model SET lease_until = 0"))
    posted = run_round(place.hub, model_id).aggregate
    assert posted is not None
    assert (posted.number, posted.num_updates, posted.parent_id) == (2, 1, theirs)


def test_a_model_that_fma_deletes_is_deleted(place: Place) -> None:
    model_id, (client,) = place.model(clients=1)
    place.send(model_id, client, [1.0])
    place.take()
    place.fma.ask("DELETE", f"models/{model_id}/", token=place.token)
    assert place.take().counts["models deleted"] == 1
    assert run_round(place.hub, model_id).outcome == "deleted"


def test_a_deployment_without_users_has_nobody_to_own_a_model(place: Place) -> None:
    made = create_model(place.hub, CreateModel(model_id=uuid4(), data_format="json", name="the hub's"))
    shown = place.fma.ask("GET", f"models/{made.id}/", token=place.token)
    assert (shown["name"], shown["developer"]) == ("the hub's", 1)
    with place.engine.begin() as connection:
        connection.execute(update(USERS).values(is_superuser=False))
    with pytest.raises(NoDeveloper, match="createsuperuser"):
        create_model(place.hub, CreateModel(model_id=uuid4(), data_format="json"))
    with place.engine.begin() as connection:
        connection.execute(update(USERS).values(is_superuser=True))


def test_ids_of_rows_that_only_the_hub_has_are_never_fmas(place: Place) -> None:
    """A stranger's update by the hub's own API takes a number, and FMA's next one the number after it."""
    model_id, (client,) = place.model(clients=1)
    place.take()
    model = place.known(model_id)
    stranger = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=uuid4(), data=[1.0])
    refused = submit_update(place.hub, stranger).update
    assert refused.reason_code is ReasonCode.UNREGISTERED_CLIENT
    sent = place.send(model_id, client, [1.0])
    assert sent > refused.id
    with place.engine.connect() as connection:
        known = connection.scalars(select(CLIENTS.c.uuid)).all()
    assert stranger.client_id not in known, "a client's id is a password there"
    assert place.round(model_id) is not None
