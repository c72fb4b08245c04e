"""The command line: answers for people and for programs, and mistakes in one readable line."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from config.loading import load_settings
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel
from worker.bootstrap import build_metadata
from worker.cli.main import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def _in_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(home.parent)


@pytest.fixture
def metadata(home: Path) -> BaseMetadataConnector:
    """The home's database, migrated."""
    metadata = build_metadata(load_settings(env_file=None, home=home))
    metadata.update_database()
    metadata.close()
    return metadata


def run(*arguments: str) -> Result:
    return runner.invoke(app, list(arguments))


def test_migrate_says_from_where_to_where_and_twice_is_harmless() -> None:
    first, second = run("migrate"), run("migrate")
    assert first.exit_code == second.exit_code == 0
    assert first.stdout.endswith("migrated from nothing\n")
    assert second.stdout.endswith("nothing to do\n")


def test_config_shows_what_is_in_force_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUEUE_BROKER_URL", "redis://:hushhush@broker/0")
    shown = run("config", "--json")
    assert json.loads(shown.stdout)["broker_url"] == "redis://:***@broker/0"
    table = run("config")
    assert "FEDQUEUE_LEASE_SECONDS" in table.stdout
    assert "hushhush" not in shown.stdout + table.stdout


def test_a_misspelt_variable_is_one_readable_error_and_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUEUE_LEASE_SECOND", "3")
    found = run("config")
    assert found.exit_code == 2
    assert found.stderr.splitlines()[0] == "error: the configuration can't be used:"
    assert "did you mean FEDQUEUE_LEASE_SECONDS?" in found.stderr
    assert found.stdout == ""


def test_a_database_that_was_never_migrated_is_said_with_what_to_do() -> None:
    found = run("models")
    assert found.exit_code == 2
    assert "run `python -m worker migrate`" in found.stderr


def test_a_database_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUEUE_DATABASE_URL", "postgresql://hub:hushhush@127.0.0.1:1/hub")
    found = run("models")
    assert found.exit_code == 2
    assert found.stderr.startswith("error: the database")
    assert "hushhush" not in found.stderr


@pytest.mark.usefixtures("metadata")
@pytest.mark.parametrize("command", ["updates", "aggregates", "rounds"])
def test_an_unknown_model_is_said_with_where_to_look(command: str) -> None:
    assert run(command, "12").stderr == "error: there is no model 12: `python -m worker models` lists them\n"
    assert "neither a model's id nor a UUID" in run(command, "mine").stderr


def test_models_are_listed_for_people_and_for_programs(metadata: BaseMetadataConnector) -> None:
    with metadata.transaction():
        model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="digits [bold]"))
    metadata.close()
    listed = json.loads(run("models", "--json").stdout)
    assert [(each["uuid"], each["name"], each["pending"]) for each in listed] == [(str(model.uuid), "digits [bold]", 0)]
    assert "digits [bold]" in run("models").stdout


def test_dead_letters_are_shown_whole_and_by_model(metadata: BaseMetadataConnector) -> None:
    model = str(uuid4())
    with metadata.transaction():
        for payload in ({"model_id": model}, {"model_id": str(uuid4())}, "no message at all"):
            metadata.add_dead_letter("fedqueue.updates.submit", payload, kind="UnknownModel", field=None, reason="none")
    metadata.close()
    assert len(json.loads(run("dead-letters", "--json").stdout)) == 3
    mine = json.loads(run("dead-letters", "--json", "--model", model.upper()).stdout)
    assert [letter["payload"] for letter in mine] == [{"model_id": model}]


@pytest.mark.usefixtures("metadata")
def test_status_without_a_broker_shows_the_database_and_says_what_is_wrong() -> None:
    found = run("status", "--json")
    assert found.exit_code == 0
    seen = json.loads(found.stdout)
    assert seen["models"] == 0
    assert "does not answer" in seen["broker"]
    assert seen["workers"] == []
