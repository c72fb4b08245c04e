"""Migrations: the schema they make is the declared one, on every database, up and down."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

import connectors.sql.migrate as migrations
from connectors.errors import DatabaseUnavailable, SchemaOutdated
from connectors.records import AuditAction, NewLog, NewMetric, UpdateStatus
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.migrate import newest_revision
from connectors.sql.rows import Base
from tests.contract.conftest import World, database_url

_SCRIPTS = str(Path(migrations.__file__).parent / "migrations")


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAlchemyMetadataConnector]:
    """An empty database of each kind."""
    connector = SqlAlchemyMetadataConnector(database_url(request, tmp_path))
    yield connector
    connector.close()


def _differences(database: SqlAlchemyMetadataConnector) -> list[Any]:
    with database.engine.connect() as connection:
        kind = connection.dialect.name

        def is_of_this_kind(item: Any, *_: Any) -> bool:
            return kind in item.info.get("dialects", (kind,))

        opts = {"compare_type": True, "include_object": is_of_this_kind}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, Base.metadata))


def _constraints(database: SqlAlchemyMetadataConnector) -> dict[str, set[str | None]]:
    """Every table's CHECK constraints by name: Alembic does not compare them."""
    found = inspect(database.engine)
    return {
        table: {check["name"] for check in found.get_check_constraints(table)}
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_the_migrated_schema_is_the_declared_one(database: SqlAlchemyMetadataConnector) -> None:
    database.update_database()
    assert _differences(database) == []
    migrated = _constraints(database)
    database.downgrade_database("base")
    Base.metadata.create_all(database.engine)
    assert migrated == _constraints(database)
    assert sum(len(names) for names in migrated.values()) > 12


def test_a_column_too_many_would_be_seen(database: SqlAlchemyMetadataConnector) -> None:
    """The comparison above can fail."""
    database.update_database()
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE trust ADD COLUMN stray INTEGER"))
    assert [difference[0] for difference in _differences(database)] == ["remove_column"]


def test_down_leaves_nothing_and_up_comes_back(database: SqlAlchemyMetadataConnector) -> None:
    database.update_database()
    database.downgrade_database("base")
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    assert database.schema_revision() is None
    database.update_database()
    assert database.schema_revision() == newest_revision()


def test_what_was_kept_survives_every_step_down_and_up(database: SqlAlchemyMetadataConnector) -> None:
    """Rows that point at one another make a step that copies tables fail: the steps must not."""
    database.update_database()
    world = World(database)
    model = world.model(name="kept")
    world.update(model)
    world.post(model)
    world.update(model)
    revisions = ScriptDirectory(_SCRIPTS).walk_revisions()
    for revision in [r.revision for r in revisions][1:]:
        database.downgrade_database(revision)
        assert database.schema_revision() == revision
    database.update_database()
    assert world.now(model).name == "kept"
    counts = database.count_model_updates(model)
    assert (counts[UpdateStatus.COMPLETE], counts[UpdateStatus.PENDING]) == (1, 1)


def test_an_audit_of_a_failed_upload_is_kept_and_only_known_actions_are(database: SqlAlchemyMetadataConnector) -> None:
    database.update_database()
    model = World(database).model()
    for _ in range(2):
        with database.transaction():
            database.add_audit(model, AuditAction.RUNNING, "u1")
            database.add_audit(model, AuditAction.RESULTS_UPLOAD_FAILED)
        with database.engine.connect() as connection, pytest.raises(IntegrityError, match="ck_model_audit_action"):
            connection.execute(text("UPDATE model_audit SET action = 'FORGOTTEN'"))
        database.downgrade_database("0002")
        with database.engine.connect() as connection, pytest.raises(IntegrityError, match="ck_model_audit_action"):
            connection.execute(text("UPDATE model_audit SET action = 'RESULTS_UPLOAD_FAILED'"))
        database.update_database()
    assert database.pull_audit(model) == [(AuditAction.RUNNING, "u1")] * 2


def test_a_worker_of_the_version_before_goes_on_writing_on_the_newer_schema(
    database: SqlAlchemyMetadataConnector,
) -> None:
    """Migrations come first, workers follow one by one: a column that they do not know must not be missed."""
    newest, before = [r.revision for r in ScriptDirectory(_SCRIPTS).walk_revisions()][:2]
    database.update_database()
    world = World(database)
    model = world.model()
    with database.transaction():
        database.add_logs([NewLog(model.id, uuid4(), log="said")])
        database.add_metrics(
            [NewMetric(model_id=model.id, event_id=uuid4(), label="loss", x_label="x", x_value=1.0, result=2.0)]
        )
    tables = ["federated_model", "model_log", "model_metric"]
    database.downgrade_database(before)
    # What that version names in its INSERTs is what its schema has.
    known = {table: [each["name"] for each in inspect(database.engine).get_columns(table)] for table in tables}
    database.update_database()
    assert database.schema_revision() == newest
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE model_log SET event_id = NULL"))
        connection.execute(text("UPDATE model_metric SET event_id = NULL"))
        for table in tables:
            names = [name for name in known[table] if name not in ("id", "uuid")]
            values = ", ".join(names)
            key, value = (", uuid", f", '{uuid4().hex}'") if table == "federated_model" else ("", "")
            connection.execute(text(f"INSERT INTO {table} ({values}{key}) SELECT {values}{value} FROM {table}"))
    assert len(database.pull_federated_models()) == 2
    assert (len(database.pull_logs(model)), len(database.pull_metrics(model))) == (2, 2)


def test_an_empty_database_is_not_ready_and_says_what_to_do(database: SqlAlchemyMetadataConnector) -> None:
    with pytest.raises(SchemaOutdated, match="python -m worker migrate"):
        database.check()


def test_two_migrations_at_once_wait_for_one_another(database: SqlAlchemyMetadataConnector) -> None:
    """Two replicas start together; both ask for the newest schema."""
    errors: list[BaseException] = []
    url = database.engine.url.render_as_string(hide_password=False)

    def migrate() -> None:
        other = SqlAlchemyMetadataConnector(url)
        try:
            other.update_database()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test must show it
            errors.append(error)
        finally:
            other.close()

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    database.check()


@pytest.mark.parametrize(
    ("status", "columns"),
    [
        ("COMPLETE", {}),
        ("PENDING", {"applied_aggregate_id": 1}),
        ("RUNNING", {}),
        ("PENDING", {"claim": 1}),
        ("INVALID", {}),
        ("PENDING", {"reason_code": "NORM"}),
        ("PENDING", {"num_examples": 0.0}),
        ("LOST", {}),
    ],
)
def test_the_schema_itself_refuses_an_impossible_state(
    database: SqlAlchemyMetadataConnector, status: str, columns: dict[str, Any]
) -> None:
    """The second net: whatever our code does wrong, such a row never stands."""
    database.update_database()
    values = {
        "model_id": 1,
        "client_uuid": "0" * 32,
        "submission_id": "1" * 32,
        "payload_digest": "",
        "data_digest": "d",
        "client_id": 1,
        "num_examples": 1.0,
        "metrics": "{}",
        "status": status,
        "attempts": 0,
        "not_before": 0,
        "created_at": "2026-01-01 00:00:00",
        "updated_at": "2026-01-01 00:00:00",
    } | columns
    statement = f"INSERT INTO model_update ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})"
    with database.engine.connect() as connection, pytest.raises(IntegrityError) as refused:
        connection.execute(text(statement), values)
    assert "ck_model_update" in str(refused.value)


def test_a_database_that_is_not_there_is_unavailable_not_a_crash() -> None:
    connector = SqlAlchemyMetadataConnector("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable, match="can't be used now"):
        connector.check()
    connector.close()
