"""Notifications reach a real broker in order a model, whoever sends them, however often a sender fails or dies."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from config.loading import load_settings
from connectors.records import FederatedModel
from tasks.domain.notifications import tell
from tests.contract.conftest import database_url
from tests.hubs import ROOT, environment
from tests.servers import Server, valkey_server
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

MODELS, TOLD_BY_EACH = 3, 60


@contextmanager
def sender(variables: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A sending process, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.outbox_sender"],
        cwd=ROOT,
        env=environment(home, **variables),
        preexec_fn=die_with_parent(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def tell_much(app: HubCelery, models: list[FederatedModel], told: dict[str, list[str]]) -> None:
    """One writer of two: facts of every model, each in a transaction under the model's lock."""
    metadata = app.hub.metadata
    for number in range(TOLD_BY_EACH):
        model = models[number % MODELS]

        def note(_: object, model: FederatedModel = model) -> None:
            key = str(uuid4())
            metadata.lock_model(model)
            told[str(model.uuid)].append(key)  # in the order of the lock, which is the order of the facts
            tell(app.hub, model, "model.status_changed", key, {})

        metadata.transact(note)
        time.sleep(0.005)


def received(server: Server) -> list[dict[str, Any]]:
    """Every message of the receiver's queue, oldest first."""
    with redis.Redis.from_url(server.url) as client:
        raw = [json.loads(each) for each in reversed(client.lrange("theirs", 0, -1))]
    return [json.loads(b64decode(each["body"]))[0][0] for each in raw]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def test_a_model_s_facts_arrive_in_order_from_two_senders_that_fail_and_die(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each for the first time after all before it; a repeat is known by its key, and a late one by its sequence."""
    request.param = kind
    variables = {
        "FEDQUEUE_DATABASE_URL": database_url(request, tmp_path),
        "FEDQUEUE_NOTIFY_TASK": "theirs.hear",
        "FEDQUEUE_NOTIFY_QUEUE": "theirs",
    }
    with valkey_server(tmp_path) as server:
        variables |= {"FEDQUEUE_BROKER_URL": server.url, "FEDQUEUE_RESULT_URL": server.url}
        settings = load_settings(
            None, **{name.removeprefix("FEDQUEUE_").lower(): value for name, value in variables.items()}
        )
        app = HubCelery(settings)
        metadata = app.hub.metadata
        metadata.update_database()
        with metadata.transaction():
            models = [metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4())) for _ in range(MODELS)]
        told: dict[str, list[str]] = defaultdict(list)
        writers = [threading.Thread(target=tell_much, args=(app, models, told)) for _ in range(2)]
        with sender(variables, tmp_path) as first, sender(variables, tmp_path):
            for writer in writers:
                writer.start()
            time.sleep(0.3)
            first.kill()
            with sender(variables, tmp_path):
                for writer in writers:
                    writer.join()
                wait_until_sent(app)
        seen = received(server)
        app.close_hub()
    # Of the senders' 120 or more sends every tenth is repeated: at least nine, whoever of the three sent how many.
    assert len(seen) > len({each["key"] for each in seen}), "nothing was sent twice: this showed nothing"
    for model in models:
        facts = [each for each in seen if each["model_id"] == str(model.uuid)]
        keys = [each["key"] for each in facts]
        assert list(dict.fromkeys(keys)) == told[str(model.uuid)], "first arrivals are in the facts' order"
        newest, taken = 0, []
        for fact in facts:
            if fact["sequence"] > newest:
                newest = fact["sequence"]
                taken.append(fact["key"])
        assert taken == told[str(model.uuid)], "who keeps the newest sequence alone hears each once, in order"


def wait_until_sent(app: HubCelery) -> None:
    """Return once nothing waits in the outbox."""
    deadline = time.monotonic() + 60
    while app.hub.metadata.pull_outbox_messages(1):
        assert time.monotonic() < deadline, "the outbox does not empty"
        time.sleep(0.05)
