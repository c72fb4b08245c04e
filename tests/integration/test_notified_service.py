"""docs/notifications.md is true: its receiver, run as the page has it, hears what a hub tells, each fact once."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from config.loading import load_settings
from connectors.records import FederatedModel
from fedqueue.messages import CreateModel, ModelRef, PublishModel, SubmitModelUpdate
from fedqueue.messages.feed import UpdateStatus
from tasks.domain.deletion import delete_model
from tasks.domain.models import create_model, publish_model
from tasks.domain.notifications import send_waiting
from tasks.domain.rounds import run_round
from tasks.domain.runs import update_status
from tasks.domain.submission import submit_update
from tests.hubs import ROOT, environment
from tests.readme import blocks_of
from tests.servers import valkey_server
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

PAGE = ROOT / "docs" / "notifications.md"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A broker of this test's own: the receiver's queue must hold nothing of another's."""
    with valkey_server(tmp_path) as server:
        yield server.url


@pytest.fixture
def app(broker: str, home: Path) -> Iterator[HubCelery]:
    """A hub that tells the page's receiver."""
    settings = load_settings(
        None,
        home=home,
        broker_url=broker,
        result_url=broker,
        notify_task="receiver.hear",
        notify_queue="receiver",
    )
    app = HubCelery(settings)
    app.hub.metadata.update_database()
    yield app
    app.close_hub()


@pytest.fixture
def heard(broker: str, tmp_path: Path) -> Iterator[Callable[[str], list[tuple[str, ...]]]]:
    """The page's receiver, listening; a look into its database."""
    (block,) = [block for block in blocks_of(PAGE) if block.text.startswith("# receiver.py")]
    (tmp_path / "receiver.py").write_text(block.text)
    database = tmp_path / "receiver.db"
    command = re.search(r"^    celery (-A receiver worker .*?) +#", PAGE.read_text(), re.M)
    assert command, "the page shows how to start it"
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", *command[1].split(), "--loglevel", "WARNING"],
        cwd=tmp_path,
        env=environment(tmp_path, FEDQUEUE_BROKER_URL=broker, RECEIVER_DATABASE=str(database)),
        preexec_fn=die_with_parent(),
        process_group=0,
    )

    def select(statement: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(database, timeout=30)) as file:
            try:
                return file.execute(statement).fetchall()
            except sqlite3.OperationalError:  # it has heard nothing yet
                return []

    try:
        yield select
    finally:
        # Its pool with it, and at once: how a plain Celery worker ends when told to is not this page's affair.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(app: HubCelery, model_id: UUID, status: str, user_id: str | None = None) -> None:
    update_status(app.hub, UpdateStatus(model_id=model_id, status=status, user_id=user_id))


def run_through(app: HubCelery) -> FederatedModel:
    """A model's life, with every event of the page's table in it."""
    client = uuid4()
    message = CreateModel(model_id=uuid4(), data_format="json", requirement=None, clients=[client])
    model = create_model(app.hub, message)
    for data in ([[1.0]], ["no number"]):
        sent = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=client, data=data)
        submit_update(app.hub, sent)
    assert run_round(app.hub, model.id).outcome == "posted"
    publish_model(app.hub, PublishModel(model_id=model.uuid, version="1.0"))
    ask(app, model.uuid, "STOPPED", "ada")
    ask(app, model.uuid, "INITIATED", "ada")
    delete_model(app.hub, ModelRef(model_id=model.uuid, user_id="ada"))
    return model


def test_the_page_s_receiver_hears_a_model_s_life_once_and_in_order(
    app: HubCelery, heard: Callable[[str], list[tuple[str, ...]]]
) -> None:
    model = run_through(app)
    waiting = app.hub.metadata.pull_outbox_messages()
    # As a worker would that was killed before it had noted what it sent.
    for message in waiting:
        app.hub.send(message.task, {**message.payload, "sequence": message.id}, message.queue)
    assert send_waiting(app.hub) == len(waiting)
    expected = [
        "model.status_changed",  # INITIATED, with its first client
        "update.quarantined",
        "model.status_changed",  # RUNNING, by its first claim
        "aggregate.posted",
        "artifact.published",
        "model.status_changed",  # STOPPED
        "model.finished",
        "model.status_changed",  # INITIATED, a user's new run
        "model.deleted",
    ]
    deadline = time.monotonic() + 60
    while len(found := heard("SELECT event, model_id FROM heard ORDER BY rowid")) < len(expected):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found == [(event, str(model.uuid)) for event in expected]
    run = app.hub.metadata.pull_federated_model_w_id(model.id)
    assert run is not None
    assert heard("SELECT model_id, run_id FROM freed ORDER BY rowid") == [
        (str(model.uuid), None),
        (str(model.uuid), str(run.run_id)),
    ]


def test_the_page_names_every_event_with_its_key_and_its_details(app: HubCelery) -> None:
    """The table is compared with what a model's life really puts into the outbox."""
    run_through(app)
    rows = re.findall(r"^\| `([\w.]+)` \| .* \| `([\w.:]+)` \| (.*) \|$", PAGE.read_text(), re.M)
    keys = {event: key for event, key, _ in rows}
    details = {event: set(re.findall(r"`(\w+)`", told)) for event, _, told in rows}
    details["model.finished"] = details["model.status_changed"]
    told = [message.payload for message in app.hub.metadata.pull_outbox_messages()]
    assert {each["event"] for each in told} == keys.keys()
    for each in told:
        event = each["event"]
        assert set(each["details"]) == details[event], event
        shape = re.sub(r"[A-Z]+", r"[^:]+", keys[event].replace(".", r"\."))
        assert re.fullmatch(shape, each["key"]), (each["key"], keys[event])
