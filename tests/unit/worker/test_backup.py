"""Backup and restore of a small hub at rest; tests/chaos/test_restore.py has them under load."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from config.loading import load_settings
from config.settings import Settings
from connectors.records import FederatedModel
from connectors.storage import FileModelDataConnector
from fedqueue.blobs import path_of
from tests.contract.conftest import World
from worker.backup import back_up, restore
from worker.bootstrap import build_metadata, build_model_data
from worker.cli.main import app
from worker.errors import AlreadyRunning, BackupRefused
from worker.supervisor import home_held


@pytest.fixture
def hub(home: Path) -> Settings:
    """A migrated hub with a model and two blobs."""
    settings = load_settings(env_file=None, home=home)
    metadata = build_metadata(settings)
    metadata.update_database()
    build_model_data(settings, metadata).check()
    model = World(metadata).model(name="kept")
    metadata.close()
    put(settings, model, b"one", b"two")
    return settings


def put(settings: Settings, model: FederatedModel, *contents: bytes) -> list[Path]:
    store = FileModelDataConnector(settings.store_url)
    return [path_of(store.push_model_data_to_storage(model, each).uri) for each in contents]


def contents(settings: Settings) -> list[bytes]:
    return sorted(blob.read_bytes() for blob in path_of(settings.store_url).glob("sha256/*/*"))


def names(settings: Settings) -> list[str]:
    metadata = build_metadata(settings)
    try:
        metadata.check()
        return [model.name for model in metadata.pull_federated_models()]
    finally:
        metadata.close()


def wipe(settings: Settings) -> None:
    shutil.rmtree(settings.home)


def test_what_was_backed_up_is_brought_back_whole(hub: Settings, tmp_path: Path) -> None:
    copied = back_up(hub, tmp_path / "backup")
    assert (copied.blobs, copied.database) == (2, tmp_path / "backup" / "fedqueue.db")
    wipe(hub)
    assert restore(hub, tmp_path / "backup").blobs == 2
    assert (names(hub), contents(hub)) == (["kept"], [b"one", b"two"])
    metadata = build_metadata(hub)
    build_model_data(hub, metadata).check()
    metadata.close()


def test_a_second_backup_takes_only_what_is_new(hub: Settings, tmp_path: Path) -> None:
    back_up(hub, tmp_path / "backup")
    (blob,) = put(hub, FederatedModel(id=1, uuid=uuid4()), b"three")
    assert back_up(hub, tmp_path / "backup", store_only=True).blobs == 1
    assert back_up(hub, tmp_path / "backup", store_only=True).blobs == 0
    blob.unlink()
    assert restore(hub, tmp_path / "backup", store_only=True).blobs == 1
    assert blob.read_bytes() == b"three"


def test_on_another_file_system_blobs_are_copied_and_a_damaged_one_is_told(
    hub: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def apart(source: Path, target: Path) -> None:
        # Staged files of one store are still linked into it.
        if source.parent.name != "staging":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", apart)
    back_up(hub, tmp_path / "backup")
    wipe(hub)
    restore(hub, tmp_path / "backup")
    assert contents(hub) == [b"one", b"two"]
    damaged = next(path_of(hub.store_url).glob("sha256/*/*"))
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    with pytest.raises(BackupRefused, match="is damaged"):
        back_up(hub, tmp_path / "another")


def test_nothing_is_restored_over_what_is_there_or_under_a_running_hub(hub: Settings, tmp_path: Path) -> None:
    back_up(hub, tmp_path / "backup")
    with pytest.raises(BackupRefused, match="move it away first"):
        restore(hub, tmp_path / "backup")
    with home_held(hub), pytest.raises(AlreadyRunning):
        restore(hub, tmp_path / "backup")
    with pytest.raises(BackupRefused, match="holds no backup"):
        restore(hub, tmp_path / "elsewhere")


def test_the_commands_say_what_was_done_or_why_not(
    hub: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDQUEUE_HOME", str(hub.home))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    assert run("backup", "backup").stdout.startswith("2 blobs that were not there yet, and the database in ")
    assert run("backup", "backup", "--store-only").stdout == "0 blobs that were not there yet\n"
    refused = run("restore", "backup")
    assert (refused.exit_code, "move it away first" in refused.stderr) == (2, True)
    wipe(hub)
    assert run("restore", "backup").exit_code == 0
    monkeypatch.setenv("FEDQUEUE_DATABASE_URL", "postgresql://hub:hushhush@127.0.0.1:1/hub")
    monkeypatch.setenv("PATH", "/nowhere")
    without = run("backup", "another")
    assert (without.exit_code, "pg_dump is not on the PATH" in without.stderr) == (2, True)
    assert "hushhush" not in without.output
