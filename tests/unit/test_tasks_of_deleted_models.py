"""To everybody outside, a deleted model is one that never was. Every task is asked; a new one must be added here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from fedqueue.messages import names
from tasks import events, feed, feed_reading, models, rounds, scores, trusts, updates
from tests.unit.domain.conftest import Bench

# Each with what it is sent beside the model's id.
ASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    names.MODELS_EDIT: (models.edit, {"changes": {"name": "new"}}),
    names.MODELS_PAUSE: (models.pause, {}),
    names.MODELS_RESUME: (models.resume, {}),
    names.MODELS_REGISTER_CLIENT: (models.register_client, {}),
    names.MODELS_PUBLISH: (models.publish, {"version": "1"}),
    names.MODELS_GET: (models.get, {}),
    names.MODELS_LATEST: (models.latest, {}),
    names.MODELS_UPDATE_STATUS: (models.update_status, {"status": "INITIATED", "run_id": str(uuid4())}),
    names.MODELS_PROGRESS: (feed_reading.progress, {}),
    names.UPDATES_SUBMIT: (updates.submit, {"submission_id": str(uuid4()), "data": [1.0]}),
    names.ROUNDS_AGGREGATE: (rounds.aggregate, {}),
    names.SCORES_ADD: (scores.add, {"aggregate_id": 1, "validation_results": {}}),
    names.TRUSTS_LIST: (trusts.list_all, {}),
    names.TRUSTS_SET_MODEL: (trusts.set_model, {"trust_ids": []}),
    names.LOGS_LIST: (feed_reading.list_logs, {}),
    names.METRICS_GET: (feed_reading.get_metrics, {}),
}
# Lists of entries, each judged by itself.
ENTRIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    names.EVENTS_INGEST: (events.ingest, "events", {"event_type": "PREPARED"}),
    names.MODELS_UPDATE_STATUSES: (models.update_statuses, "statuses", {"status": "INITIATED"}),
    names.LOGS_ADD: (feed.add_logs, "entries", {"log": "hello"}),
    names.METRICS_ADD: (feed.add_metrics, "points", {"label": "loss", "result": 1.0, "global_round": 1}),
}
# About no model that is there already, or, as deletion itself, harmless to repeat.
OTHERS = {
    names.MODELS_CREATE,
    names.MODELS_DELETE,
    names.MODELS_DELETE_FOR_PROJECT,
    names.MODELS_UPLOAD_URL,
    names.ROUNDS_POLL,
    names.TRUSTS_ADD,
    names.TRUSTS_SET_SLOT,
    names.TRUSTS_SET_CLIENT,
    names.MAINTENANCE_OUTBOX,
    names.MAINTENANCE_GARBAGE,
    names.MAINTENANCE_CANARY,
}


# With a question nothing is lost that somebody could want to look into.
QUESTIONS = {
    names.MODELS_GET,
    names.MODELS_LATEST,
    names.MODELS_PROGRESS,
    names.TRUSTS_LIST,
    names.LOGS_LIST,
    names.METRICS_GET,
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A hub behind a Celery application that runs tasks where they are called."""
    made = Bench(tmp_path)
    app = Celery("test", set_as_current=True)
    app.conf.task_always_eager = True
    app.hub = made.hub
    app.finalize()
    yield made
    app.close()


@pytest.fixture
def ids(bench: Bench) -> dict[str, str]:
    """The ids of a model that has an aggregate and was deleted, and of its client."""
    model, (client,) = bench.model(clients=1)
    bench.submit(model, client, [1.0])
    bench.post(model)
    deleted = models.delete.apply(args=[{"model_id": str(model.uuid), "user_id": "ada"}]).get()
    assert deleted["value"] == {"deleted": 1}
    return {"model_id": str(model.uuid), "client_id": str(client)}


def test_every_task_is_asked_or_excused() -> None:
    on_the_wire = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert ASKS.keys() | ENTRIES.keys() | OTHERS == on_the_wire - set(names.QUEUES)


@pytest.mark.parametrize("name", ASKS)
def test_a_task_about_a_deleted_model_answers_that_there_is_none(name: str, bench: Bench, ids: dict[str, str]) -> None:
    task, fields = ASKS[name]
    wanted = {"client_id"} if name in (names.UPDATES_SUBMIT, names.SCORES_ADD) else set()
    answer = task.apply(args=[{key: ids[key] for key in {"model_id"} | wanted} | fields]).get()
    assert (answer["rejection"]["kind"], answer["rejection"]["field"]) == ("UnknownModel", "model_id")
    kept = [] if name in QUESTIONS else [(name, "UnknownModel")]
    assert [(letter.task, letter.kind) for letter in bench.metadata.pull_dead_letters()] == kept


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_about_a_deleted_model_is_refused_and_kept(name: str, bench: Bench, ids: dict[str, str]) -> None:
    task, listed, fields = ENTRIES[name]
    entry = {"event_id": str(uuid4()), "model_id": ids["model_id"]} | fields
    answer = task.apply(args=[{listed: [entry]}]).get()
    assert [each["kind"] for each in answer["value"]["refused"]] == ["UnknownModel"]
    (letter,) = bench.metadata.pull_dead_letters()
    assert (letter.task, letter.kind, letter.field) == (name, "UnknownModel", f"{listed}.0.model_id")
    assert names.MODELS_UPDATE_STATUS not in [sent for sent, _, _ in bench.sent]
