"""The command line: answers for people and for programs, and mistakes in one readable line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event
from typer.testing import CliRunner, Result

from config.loading import load_settings
from connectors.metadata import BaseMetadataConnector
from connectors.records import BlobRef, FederatedModel, ModelStatus, ModelUpdate, ReasonCode, UpdateStatus
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
    for named in ("mine", "9" * 23, "١"):
        found = run(command, named)
        assert (found.exit_code, "neither a model's id nor a UUID" in found.stderr) == (2, True), named


def test_models_are_listed_for_people_and_for_programs(metadata: BaseMetadataConnector) -> None:
    with metadata.transaction():
        model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="digits [bold]"))
    metadata.close()
    listed = json.loads(run("models", "--json").stdout)
    assert [(each["uuid"], each["name"], each["pending"]) for each in listed] == [(str(model.uuid), "digits [bold]", 0)]
    assert "digits [bold]" in run("models").stdout


NAMES = ("digits", "a name that says in some detail what this model is for", "[bold]")


@pytest.fixture
def models(metadata: BaseMetadataConnector) -> list[FederatedModel]:
    """Three, the first with updates in two states."""
    with metadata.transaction():
        made = [
            metadata.add_federated_model(
                FederatedModel(
                    id=0, uuid=uuid4(), name=name, aggregator="geometric_median", requirement="require_fraction",
                    status=ModelStatus.RESULTS_UPLOAD_FAILED,
                )
            )
            for name in NAMES
        ]  # fmt: skip
        client, _is_new = metadata.register_client(made[0], uuid4())
        for code in (None, None, ReasonCode.NORM):
            update = ModelUpdate(
                id=0, model_id=made[0].id, client_id=client.id, client_uuid=client.uuid, submission_id=uuid4(),
                payload_digest="0" * 64, data=BlobRef("file:///store/blob", "0" * 64, 1), num_examples=1.0,
                status=UpdateStatus.INVALID if code else UpdateStatus.PENDING, reason_code=code,
                reason="its L2 norm is 50, the model allows 10" if code else None,
            )  # fmt: skip
            metadata.add_model_update(update)
    metadata.close()
    return made


def table_of(stdout: str) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of a printed table, the lines of one cell put together."""
    lines = [line for line in stdout.splitlines() if line[:1] in ("┃", "│")]
    cells = [[cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in lines]
    rows: list[list[str]] = []
    for row in cells[1:]:
        if row[0]:
            rows.append(row)
        else:
            rows[-1] = [f"{whole} {more}".strip() for whole, more in zip(rows[-1], row, strict=True)]
    return cells[0], rows


def test_models_can_be_read_in_80_columns(models: list[FederatedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is left out and named; what is shown is shown whole."""
    monkeypatch.setenv("COLUMNS", "80")
    found = run("models")
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert table_of(found.stdout) == (
        ["id", "name", "status", "head", "updates"],
        [
            [str(model.id), name, "RESULTS_UPLOAD_FAILED", "0", updates]
            for model, name, updates in zip(models, NAMES, ("2 pending, 1 invalid", "–", "–"), strict=True)
        ],
    )
    assert found.stdout.splitlines()[-1] == (
        "left out for want of width: requirement, aggregator, uuid; --json has everything"
    )


def test_models_are_shown_with_all_columns_where_there_is_room(models: list[FederatedModel]) -> None:
    found = run("models")
    headings, rows = table_of(found.stdout)
    assert headings == ["id", "uuid", "name", "status", "aggregator", "requirement", "head", "updates"]
    assert [row[1] for row in rows] == [str(model.uuid) for model in models]
    assert "left out" not in found.stdout


def test_programs_get_every_model_whole_however_narrow_the_terminal(
    models: list[FederatedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    listed = json.loads(run("models", "--json").stdout)
    assert [(each["uuid"], each["aggregator"], each["pending"], each["invalid"]) for each in listed] == [
        (str(model.uuid), "geometric_median", *counts)
        for model, counts in zip(models, ((2, 1), (0, 0), (0, 0)), strict=True)
    ]


@pytest.mark.parametrize("width", [80, 50])
@pytest.mark.parametrize("command", ["models", "updates 1", "status"])
def test_no_table_is_wider_than_its_terminal(
    models: list[FederatedModel], monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    found = run(*command.split())
    assert found.exit_code == 0
    assert max(len(line) for line in found.stdout.splitlines() if line[:1] in ("┏", "┃", "│", "└")) <= width
    assert "…" not in found.stdout  # nothing is cut short


def test_status_and_models_ask_as_many_queries_for_many_models_as_for_few(metadata: BaseMetadataConnector) -> None:
    def queries(command: str) -> int:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
            seen.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        try:
            assert run(command, "--json").exit_code == 0
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        return len(seen)

    def add(count: int) -> None:
        with metadata.transaction():
            for _ in range(count):
                metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4()))
        metadata.close()

    add(1)
    few = {command: queries(command) for command in ("status", "models")}
    add(40)
    assert {command: queries(command) for command in ("status", "models")} == few
    assert json.loads(run("status", "--json").stdout)["models"] == 41


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
