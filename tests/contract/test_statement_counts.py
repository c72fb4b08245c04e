"""How many statements an update takes on its way: nearly all of its time is theirs (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from connectors.records import ModelStatus, NewLog
from connectors.sql import model_service
from connectors.sql.connector import SqlAlchemyMetadataConnector
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.combining import recipe_of
from tasks.domain.rounds import finish_round, run_round
from tests.chaos.domain_hub import add_model, domain_hub, submit
from tests.contract.conftest import migrated_url

# Submission (three for its limits), claim, post. SQLite and MariaDB look for entries before they insert them.
_MOST = {"postgresql": (14, 17, 16), "sqlite": (17, 20, 19), "mariadb": (17, 20, 19)}


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    metadata = SqlAlchemyMetadataConnector(migrated_url(request, tmp_path))
    yield metadata
    metadata.close()


@contextmanager
def statements() -> Iterator[list[str]]:
    """Those that are sent within the block."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith("BEGIN"):  # SQLite's, which are spelt out
            sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_an_update_takes_no_more_statements_than_it_did(metadata: SqlAlchemyMetadataConnector, tmp_path: Path) -> None:
    """From the submission to the aggregate, its feed's entries and the savepoints included."""
    hub = domain_hub(metadata, tmp_path)
    model, (client,) = add_model(hub, 1)
    counts: list[tuple[int, int, int]] = []
    for value in (1.0, 2.0):
        with statements() as submitted:
            submit(hub, model, client, value, num_examples=3)
        with statements() as claimed:
            begun = metadata.transact(lambda transaction: begin_round(hub, model.id, transaction))
        assert isinstance(begun, Begun)
        with statements() as posted:
            assert finish_round(hub, begun).outcome == "posted"
        counts.append((len(submitted), len(claimed), len(posted)))
    # The first round has more to do: the model's tensors, its first client's status.
    most = _MOST[metadata.engine.dialect.name]
    assert all(count <= limit for count, limit in zip(counts[1], most, strict=True)), (counts[1], most)


@pytest.mark.parametrize("base", ["an older aggregate", "the initial model"])
def test_what_many_updates_were_trained_from_is_looked_up_once(
    metadata: SqlAlchemyMetadataConnector, tmp_path: Path, base: str
) -> None:
    hub = domain_hub(metadata, tmp_path)
    model, clients = add_model(hub, 8, requirement=None)
    for value in (1.0, 2.0):
        submit(hub, model, clients[0], value)
        assert run_round(hub, model.id).outcome == "posted"
    first = metadata.pull_model_aggregates(model)[0].id
    counts = []
    for senders in (clients[:1], clients):
        for client in senders:
            submit(hub, model, client, 3.0, base_aggregate=first if base == "an older aggregate" else None)
        begun = metadata.transact(lambda transaction: begin_round(hub, model.id, transaction))
        assert isinstance(begun, Begun)
        with statements() as sent:
            recipe = recipe_of(hub, begun)
        assert len(recipe.ingredients) == len(senders)
        counts.append(len(sent))
        assert finish_round(hub, begun).outcome == "posted"
    assert 0 < counts[0] == counts[1]


def test_what_is_read_under_the_lock_is_not_asked_again(metadata: SqlAlchemyMetadataConnector, tmp_path: Path) -> None:
    model, _ = add_model(domain_hub(metadata, tmp_path), 1)
    with metadata.transaction(), statements() as sent:
        metadata.lock_model(model)
        metadata.add_logs([NewLog(model_id=model.id, event_id=model.uuid, log="one")])
    assert sum("federated_model" in statement for statement in sent) == 1


def test_what_was_held_is_forgotten_when_the_model_changes(
    metadata: SqlAlchemyMetadataConnector, tmp_path: Path
) -> None:
    """An entry belongs to the run that the model is in when it is written, within one transaction too."""
    model, _ = add_model(domain_hub(metadata, tmp_path), 1)
    first, second = type(model.uuid)(int=1), type(model.uuid)(int=2)
    with metadata.transaction():
        metadata.update_model_status(metadata.lock_model(model), ModelStatus.INITIATED, run_id=first)
        locked = metadata.lock_model(model)
        metadata.add_logs([NewLog(model_id=model.id, event_id=model.uuid, log="of the first run")])
        metadata.update_model_status(locked, ModelStatus.INITIATED, run_id=second)
        metadata.add_logs([NewLog(model_id=model.id, event_id=first, log="of the second run")])
        metadata.lock_model(model)
        metadata.delete_federated_models([locked])
        metadata.add_logs([NewLog(model_id=model.id, event_id=second, log="of a deleted model")])
    texts = [(entry.run_id, entry.log) for entry in metadata.pull_logs(model) if entry.log]
    assert texts == [(first, "of the first run"), (second, "of the second run")]


def test_a_run_that_repeats_itself_is_noted_now_and_then_alone(
    metadata: SqlAlchemyMetadataConnector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_service, "_HEARD_EVERY", timedelta(minutes=1))
    model, _ = add_model(domain_hub(metadata, tmp_path), 1)
    writes = []
    for _ in range(3):
        with metadata.transaction(), statements() as sent:
            assert not metadata.update_model_status(metadata.lock_model(model), ModelStatus.INITIATED).changed
        writes.append(sum(statement.startswith("UPDATE federated_model") for statement in sent))
    assert writes == [1, 0, 0]
