"""The commands that settle dead letters, on a real database and a real broker's queues."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from typer.testing import CliRunner, Result

from config.loading import load_settings
from connectors.metadata import BaseMetadataConnector
from fedqueue.messages import names
from tests.servers import free_port
from worker.bootstrap import build_metadata
from worker.cli.main import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def _in_home(monkeypatch: pytest.MonkeyPatch, home: Path, valkey_url: str) -> None:
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    monkeypatch.setenv("FEDQUEUE_BROKER_URL", valkey_url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(home.parent)


@pytest.fixture
def metadata(home: Path, _in_home: None) -> Iterator[BaseMetadataConnector]:
    """The home's database, migrated."""
    metadata = build_metadata(load_settings(env_file=None, home=home))
    metadata.update_database()
    yield metadata
    metadata.close()


def refuse(metadata: BaseMetadataConnector, task: str, payload: Any) -> int:
    """A dead letter; its id."""
    with metadata.transaction():
        metadata.add_dead_letter(task, payload, kind="UnknownModel", field=None, reason="none")
    return metadata.pull_dead_letters(limit=1000)[-1].id


def run(*arguments: str) -> Result:
    return runner.invoke(app, ["dead-letters", *arguments])


def sent(url: str, task: str) -> list[Any]:
    """The messages of that task that wait, the oldest first."""
    with redis.Redis.from_url(url, decode_responses=True) as broker:
        waiting = [json.loads(each) for queue in names.QUEUES for each in reversed(broker.lrange(queue, 0, -1))]
    return [json.loads(b64decode(each["body"]))[0][0] for each in waiting if each["headers"]["task"] == task]


def test_a_requeued_letter_is_sent_as_it_was_and_noted(metadata: BaseMetadataConnector, valkey_url: str) -> None:
    payload = {"model_id": str(uuid4()), "submission_id": str(uuid4())}
    letter = refuse(metadata, names.UPDATES_SUBMIT, payload)
    found = run("requeue", str(letter), "--user", "ada")
    assert (found.exit_code, found.stdout) == (0, f"{letter}: sent again\n")
    assert sent(valkey_url, names.UPDATES_SUBMIT) == [payload]
    kept = metadata.pull_dead_letter(letter)
    assert kept is not None
    assert (kept.outcome, kept.settled_by) == ("REQUEUED", "ada")


def test_a_letter_is_sent_again_only_once(metadata: BaseMetadataConnector, valkey_url: str) -> None:
    letter = str(refuse(metadata, names.MODELS_GET, {"model_id": "x"}))
    assert run("requeue", letter).exit_code == 0
    again = run("requeue", letter)
    assert (again.exit_code, again.stdout) == (1, f"{letter}: was settled before\n")
    assert len(sent(valkey_url, names.MODELS_GET)) == 1


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (names.EVENTS_INGEST, "events"),
        (names.LOGS_ADD, "entries"),
        (names.METRICS_ADD, "points"),
        (names.MODELS_UPDATE_STATUSES, "statuses"),
    ],
)
def test_an_entry_of_a_list_is_sent_as_a_list_of_one(
    metadata: BaseMetadataConnector, valkey_url: str, task: str, field: str
) -> None:
    """It was refused alone, so its letter holds it alone; the task takes lists."""
    entry = {"event_id": str(uuid4())}
    refuse(metadata, task, entry)
    refuse(metadata, task, {field: [entry, entry]})
    assert run("requeue", "--all").exit_code == 0
    assert sent(valkey_url, task) == [{field: [entry]}, {field: [entry, entry]}]


def test_all_of_a_task_are_sent_and_no_others(metadata: BaseMetadataConnector, valkey_url: str) -> None:
    mine = [refuse(metadata, names.MODELS_GET, {"model_id": str(number)}) for number in range(3)]
    other = refuse(metadata, names.MODELS_LATEST, {"model_id": "x"})
    assert run("requeue", "--all", "--task", names.MODELS_GET).stdout.splitlines() == [
        f"{letter}: sent again" for letter in mine
    ]
    assert [each["model_id"] for each in sent(valkey_url, names.MODELS_GET)] == ["0", "1", "2"]
    assert [letter.id for letter in metadata.pull_dead_letters(is_open=True)] == [other]
    assert [row["id"] for row in json.loads(run("--json").stdout)] == [other]
    assert len(json.loads(run("--json", "--settled").stdout)) == 4


def test_a_discarded_letter_stays_with_the_reason_and_is_not_sent(
    metadata: BaseMetadataConnector, valkey_url: str
) -> None:
    letter = refuse(metadata, names.MODELS_GET, {"model_id": "x"})
    assert run("discard", str(letter), "--reason", "a test of ours").exit_code == 0
    kept = metadata.pull_dead_letter(letter)
    assert kept is not None
    assert (kept.outcome, kept.settled_by, kept.settled_reason) == ("DISCARDED", "command line", "a test of ours")
    assert sent(valkey_url, names.MODELS_GET) == []
    assert "a test of ours" in run("--settled").stdout


@pytest.mark.parametrize(
    ("task", "payload", "said"),
    [("fedqueue.no.more", {}, "no task is called"), (names.MODELS_GET, "text", "is no message")],
)
def test_a_letter_that_can_not_be_sent_says_why_and_stays_open(
    metadata: BaseMetadataConnector, task: str, payload: Any, said: str
) -> None:
    """The others go all the same."""
    letter = refuse(metadata, task, payload)
    fine = refuse(metadata, names.MODELS_GET, {"model_id": "x"})
    found = run("requeue", str(letter), str(fine))
    assert found.exit_code == 1
    assert said in found.stdout.splitlines()[0]
    assert found.stdout.splitlines()[1] == f"{fine}: sent again"
    assert [each.id for each in metadata.pull_dead_letters(is_open=True)] == [letter]


def test_without_a_broker_nothing_is_settled(metadata: BaseMetadataConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = refuse(metadata, names.MODELS_GET, {"model_id": "x"})
    monkeypatch.setenv("FEDQUEUE_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    found = run("requeue", str(letter))
    assert found.exit_code == 2
    assert "does not answer" in found.stderr
    assert [each.id for each in metadata.pull_dead_letters(is_open=True)] == [letter]


@pytest.mark.usefixtures("metadata")
@pytest.mark.parametrize("arguments", [(), ("1", "--all"), ("1", "--task", "t"), ("12",)])
def test_which_letters_are_meant_must_be_said(arguments: tuple[str, ...]) -> None:
    assert run("requeue", *arguments).exit_code == 2
