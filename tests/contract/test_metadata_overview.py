"""All models at once: what is counted, what is left out, and by how many queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

from connectors.metadata import BaseMetadataConnector
from connectors.records import ModelStatus, ReasonCode, RoundState, UpdateStatus


def test_an_empty_hub_is_all_zeros(connector: BaseMetadataConnector) -> None:
    seen = connector.pull_overview()
    assert (seen.models, seen.claims, seen.newest, seen.dead_letters) == (0, (), (), 0)
    assert dict(seen.updates) == dict.fromkeys(UpdateStatus, 0)
    assert connector.count_model_updates_by_model([]) == {}


def test_updates_are_counted_over_all_models_but_deleted_ones(connector: BaseMetadataConnector, world: Any) -> None:
    one, two, deleted = world.model(), world.model(), world.model()
    world.update(one)
    world.post(one)
    for model in (one, two, two, deleted):
        world.update(model)
    world.update(two, status=UpdateStatus.INVALID, reason_code=ReasonCode.NORM, reason="too long")
    with connector.transaction():
        connector.delete_federated_models([deleted])
        connector.add_dead_letter("a.task", {}, kind="Refused", field=None, reason="none")
    seen = connector.pull_overview()
    assert (seen.models, seen.dead_letters) == (2, 1)
    counted = {UpdateStatus.PENDING: 3, UpdateStatus.COMPLETE: 1, UpdateStatus.INVALID: 1}
    assert dict(seen.updates) == dict.fromkeys(UpdateStatus, 0) | counted


def test_updates_of_several_models_are_counted_by_model(connector: BaseMetadataConnector, world: Any) -> None:
    models = [world.model() for _ in range(3)]
    world.update(models[0])
    world.post(models[0])
    for model in (models[0], models[2], models[2]):
        world.update(model)
    counts = connector.count_model_updates_by_model(models)
    assert counts == {model.id: connector.count_model_updates(model) for model in models}
    assert counts[models[0].id][UpdateStatus.COMPLETE] == 1
    assert connector.count_model_updates_by_model(models[2:]) == {models[2].id: counts[models[2].id]}


def test_the_newest_aggregate_of_each_model_comes_the_newest_first(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """One a model: a busy model does not hide the others."""
    one, two, deleted, _empty = (world.model() for _ in range(4))
    posted = []
    for model in (two, one, one, deleted):
        world.update(model)
        posted.append(world.post(model))
    with connector.transaction():
        connector.delete_federated_models([deleted])
    assert connector.pull_overview().newest == ((one.uuid, posted[2]), (two.uuid, posted[0]))
    assert connector.pull_overview(newest=1).newest == ((one.uuid, posted[2]),)


def test_rounds_under_way_are_those_of_the_models_present_fences(connector: BaseMetadataConnector, world: Any) -> None:
    """Not one that is over, nor one whose model somebody else has claimed since, nor a deleted model's."""
    under_way, over, taken_over, deleted = (world.model() for _ in range(4))
    for model in (under_way, over, taken_over, deleted):
        with connector.transaction():
            claim = connector.claim_model(model, 1)
            assert claim is not None
            connector.add_round(claim, 3, "worker1")
            if model is over:
                connector.close_round(claim, RoundState.RELEASED, reason="the store is away")
            else:
                connector.renew_claim(claim, -10_000, updates_done=2)
    with connector.transaction():
        assert connector.claim_model(taken_over, 30_000) is not None
        connector.delete_federated_models([deleted])
        connector.update_model_status(under_way, ModelStatus.RUNNING)
    ((uuid, seen),) = connector.pull_overview().claims
    assert uuid == under_way.uuid
    assert (seen.fence, seen.state, seen.worker) == (1, RoundState.CLAIMED, "worker1")
    assert (seen.updates_done, seen.num_updates) == (2, 3)


def test_it_takes_as_many_queries_for_many_models_as_for_few(connector: BaseMetadataConnector, world: Any) -> None:
    alone = world.model(clients=0)
    with _counted() as few:
        connector.pull_overview()
        connector.count_model_updates_by_model([alone])
    models = [world.model(clients=1) for _ in range(20)]
    for model in models:
        world.update(model)
        world.post(model)
    with connector.transaction():
        for _ in range(20):
            connector.add_dead_letter("a.task", {}, kind="Refused", field=None, reason="none")
    with _counted() as many:
        seen = connector.pull_overview()
        connector.count_model_updates_by_model(models)
    assert (seen.models, len(seen.newest), seen.dead_letters) == (21, 5, 20)
    assert len(many) == len(few)
    assert len(many) <= 6


@contextmanager
def _counted() -> Iterator[list[str]]:
    """The SELECTs of any engine meanwhile; of memory there are none."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)
