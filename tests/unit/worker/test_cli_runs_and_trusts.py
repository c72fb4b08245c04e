"""The commands that change models and trusts, on a real database; what they say, and what they did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
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
def metadata(home: Path) -> Iterator[BaseMetadataConnector]:
    """The home's database, migrated."""
    metadata = build_metadata(load_settings(env_file=None, home=home))
    metadata.update_database()
    yield metadata
    metadata.close()


@pytest.fixture
def model(metadata: BaseMetadataConnector) -> FederatedModel:
    with metadata.transaction():
        return metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4(), name="digits"))


def run(*arguments: str) -> Result:
    return runner.invoke(app, list(arguments))


def said(*arguments: str) -> str:
    found = run(*arguments)
    assert found.exit_code == 0, found.output
    return found.stdout.strip()


def shown(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def test_a_run_is_stopped_and_a_new_one_begun_in_a_user_s_name(
    model: FederatedModel, metadata: BaseMetadataConnector
) -> None:
    named = str(model.id)
    assert said("stop-model", named, "--user", "ada") == "model 1 is STOPPED"
    assert said("stop-model", named) == "model 1 is STOPPED; nothing was changed: repeated"
    assert said("new-run", str(model.uuid)).startswith(f"model {model.uuid} is INITIATED, run ")
    assert said("new-run", named).endswith("; nothing was changed: repeated")
    assert [(str(a), u) for a, u in metadata.pull_audit(model)] == [("STOPPED", "ada"), ("INITIATED", "command line")]


def test_deleted_models_are_listed_only_on_demand(model: FederatedModel, metadata: BaseMetadataConnector) -> None:
    with metadata.transaction():
        kept = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4()))
    assert said("delete-model", str(model.id), "--user", "ada") == "1 of 1 deleted"
    assert said("delete-model", str(model.id), str(kept.id)) == "1 of 2 deleted: the others had been before"
    assert shown("models") == []
    assert [(each["id"], each["deleted"]) for each in shown("models", "--deleted")] == [(1, True), (2, True)]
    assert "deleted" in said("models", "--deleted")
    refused = run("stop-model", str(model.id))
    assert (refused.exit_code, refused.stderr) == (2, f"error: there is no model {model.uuid}\n")


def test_trusts_are_added_given_slots_and_approved(model: FederatedModel, metadata: BaseMetadataConnector) -> None:
    with metadata.transaction():
        client, _ = metadata.register_client(model, uuid4())
    (added,) = shown("trusts", "add", "King's College", "--code", "KCH")
    said("trusts", "add", "Guy's")
    assert said("trusts", "slot", "site-1", "KCH") == "site-1 is King's College's"
    assert said("trusts", "slot", "site-2", added["trust_id"]) == "site-2 is King's College's"
    assert said("trusts", "approve", "1", "KCH", "Guy's", "--user", "ada") == "approved for model 1: Guy's, KCH"
    assert said("trusts", "client", str(client.uuid), "Guy's") == f"{client.uuid} is Guy's's"
    listed = {each["name"]: each["fl_client_names"] for each in shown("trusts", "list")}
    assert listed == {"Guy's": [], "King's College": ["site-1", "site-2"]}
    assert said("trusts", "approve", "1", "Guy's") == "approved for model 1: Guy's"
    assert [each["name"] for each in shown("trusts", "list", "--model", "1")] == ["Guy's"]
    assert said("trusts", "slot", "site-1", "--nobody") == "site-1 is nobody's"
    assert said("trusts", "client", str(client.uuid), "--nobody") == f"{client.uuid} is nobody's"
    assert said("trusts", "approve", "1", "--nobody") == "approved for model 1: nobody"
    assert "site-2" in said("trusts", "list")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "King's"), '"King\'s" is taken by the trust "King\'s"'),
        (("add", ""), "name: String should have at least 1 character"),
        (("slot", "site-1", "GST"), "there is no trust 'GST': `python -m worker trusts list` shows them"),
        (("slot", "site-1"), "name one trust, or give --nobody"),
        (("slot", "site-1", "King's", "--nobody"), "name one trust, or give --nobody"),
        (("approve", "1"), "name the model's trusts, all of them, or give --nobody"),
        (("approve", "7", "King's"), "there is no model 7"),
        (("client", "nonsense", "King's"), "client_id: Input should be a valid UUID"),
        (("client", str(uuid4()), "King's"), "there is no client"),
    ],
)
def test_a_mistake_is_one_readable_line_and_code_2(arguments: tuple[str, ...], words: str) -> None:
    said("trusts", "add", "King's")
    found = run("trusts", *arguments)
    assert found.exit_code == 2
    assert found.stderr.startswith("error: ")
    assert len(found.stderr.splitlines()) == 1
    assert words in found.stderr
