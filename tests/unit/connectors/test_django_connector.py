"""What a deployment's connector asks of its database, and how it has the deployment's own tables migrated."""

from __future__ import annotations

import shlex
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from connectors.django.connector import DjangoMetadataConnector
from connectors.django.errors import MigrationFailed, NoDeployment
from connectors.errors import DatabaseUnsuitable
from tests.deployments import new_deployment


def test_a_database_without_fmas_tables_is_refused(tmp_path: Path) -> None:
    metadata = DjangoMetadataConnector(f"sqlite:///{tmp_path}/x.db", media=tmp_path)
    with pytest.raises(NoDeployment, match="lacks auth_user, django_q_schedule"):
        metadata.update_database()
    metadata.close()


@pytest.mark.parametrize(("command", "said"), [("sh -c 'echo no; exit 3'", "code 3: no"), ("/nowhere/python", "-1")])
def test_a_migrate_command_that_fails_is_told_with_what_it_said(tmp_path: Path, command: str, said: str) -> None:
    metadata = DjangoMetadataConnector(f"sqlite:///{tmp_path}/x.db", media=tmp_path, migrate_command=command)
    with pytest.raises(MigrationFailed, match=said):
        metadata.update_database()
    metadata.close()


def test_a_migrate_command_sees_none_of_the_hubs_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may hold passwords."""
    monkeypatch.setenv("FEDQUEUE_DATABASE_URL", "postgresql://u:secret@h/d")
    command = f"sh -c 'env > {tmp_path}/seen'"
    metadata = DjangoMetadataConnector(f"sqlite:///{tmp_path}/x.db", media=tmp_path, migrate_command=command)
    with pytest.raises(NoDeployment):
        metadata.update_database()
    assert "FEDQUEUE" not in (tmp_path / "seen").read_text()
    metadata.close()


def test_the_database_is_in_wal_mode_before_the_deployments_migrations(tmp_path: Path) -> None:
    """A worker that starts meanwhile would make that switch amid them, and they would find the database locked."""
    look = (
        f"import sqlite3; print(sqlite3.connect('{tmp_path}/x.db').execute('PRAGMA journal_mode').fetchone()); exit(9)"
    )
    command = shlex.join([sys.executable, "-c", look])
    metadata = DjangoMetadataConnector(f"sqlite:///{tmp_path}/x.db", media=tmp_path, migrate_command=command)
    with pytest.raises(MigrationFailed, match=r"code 9: \('wal',\)"):
        metadata.update_database()
    metadata.close()


def test_who_looks_whether_it_may_begin_takes_no_lock(tmp_path: Path) -> None:
    """Django's migrations read before they write: a lock that somebody has at that moment fails them at once."""
    metadata = new_deployment(f"sqlite:///{tmp_path}/x.db", tmp_path)
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as migrating:
        migrating.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        metadata.check()
        assert metadata.schema_revision() is not None
        assert metadata.contracting_steps() == []
        assert time.monotonic() - began < 10
    metadata.close()


def test_mariadb_is_no_place_for_fma(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnsuitable, match="not on mariadb"):
        DjangoMetadataConnector("mariadb+pymysql://u@h/d", media=tmp_path)
