"""`python -m worker ready`: each part that a hub needs taken away in turn, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from tests.servers import Server, free_port, postgres_server, valkey_server
from worker.cli.main import app

PARTS = ["database", "schema", "broker", "store"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with valkey_server(folder) as server:
        yield server


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Server]:
    """One that a test may stop."""
    folder = tmp_path / "postgres"
    folder.mkdir()
    with postgres_server(folder, fsync=False) as server:
        yield server


@pytest.fixture(autouse=True)
def _deployed(monkeypatch: pytest.MonkeyPatch, home: Path, broker: Server, database: Server) -> None:
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    monkeypatch.setenv("FEDQUEUE_DATABASE_URL", database.url.replace("postgres@", "postgres:hushhush@"))
    monkeypatch.setenv("FEDQUEUE_BROKER_URL", broker.url)
    monkeypatch.chdir(home.parent)


def ready() -> tuple[int, dict[str, str]]:
    """The exit code, and of each part that is not ready why."""
    found = CliRunner().invoke(app, ["ready", "--json"])
    assert "hushhush" not in found.output
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    parts = json.loads(found.stdout)
    assert [part["part"] for part in parts] in (PARTS, [part for part in PARTS if part != "schema"])
    return found.exit_code, {part["part"]: part["detail"] for part in parts if not part["ready"]}


def migrate() -> None:
    assert CliRunner().invoke(app, ["migrate"]).exit_code == 0


def test_every_part_that_is_missing_is_named_with_why(
    home: Path, broker: Server, database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lacking = ready()
    assert code == 1
    assert "run `python -m worker migrate`" in lacking["schema"]
    assert "broker" not in lacking
    migrate()
    assert ready() == (0, {})

    broker.stop()
    code, lacking = ready()
    assert (code, list(lacking)) == (1, ["broker"])
    assert "does not answer" in lacking["broker"]
    broker.start()

    store = home / "store"
    shutil.rmtree(store)
    store.write_text("a file in its place")
    code, lacking = ready()
    assert (code, list(lacking)) == (1, ["store"])
    store.unlink()
    assert ready() == (0, {})

    engine = create_engine(database.url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
    engine.dispose()
    code, lacking = ready()
    assert (code, list(lacking)) == (1, ["schema"])
    assert "install the newer version" in lacking["schema"]

    database.stop()
    code, lacking = ready()
    assert code == 1
    assert "database" in lacking
    assert "broker" not in lacking

    monkeypatch.setenv("FEDQUEUE_BROKER_URL", f"redis://:hushhush@127.0.0.1:{free_port()}/0")
    code, lacking = ready()
    assert {"database", "broker"} <= set(lacking)
    said = CliRunner().invoke(app, ["ready"])
    assert said.exit_code == 1
    assert "broker: NOT READY: " in said.stdout
