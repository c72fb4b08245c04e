"""MariaDB, whose defaults are lax where the hub must not be: what each connection is set to, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pymysql
import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from connectors.errors import DatabaseUnavailable, DatabaseUnsuitable, StatementTooLarge
from connectors.records import AggregateResult, FederatedModel, ModelArtifact, NewLog
from connectors.sql import mariadb
from connectors.sql.clock import now_ms
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.rows import FederatedModelRow, ModelUpdateRow
from tests.chaos.facts import connect_mariadb
from tests.contract.conftest import World
from tests.debian_servers import fresh_mariadb_database, mariadb_server
from tests.servers import Server

pytestmark = pytest.mark.wide

# What a careless installation, or one for older applications, may have been given.
LAX = (
    "--sql-mode=",
    "--default-time-zone=+05:30",
    "--character-set-server=latin1",
    "--collation-server=latin1_swedish_ci",
    "--transaction-isolation=REPEATABLE-READ",
    "--default-storage-engine=MyISAM",
    "--innodb-lock-wait-timeout=1",
)


@pytest.fixture(scope="module")
def lax() -> Iterator[Server]:
    """A server that cuts what is too long, counts in another time zone, and checks nothing."""
    with mariadb_server(*LAX) as server:
        with connect_mariadb(server.url) as connection:
            connection.cursor().execute("SET GLOBAL check_constraint_checks = 0, GLOBAL foreign_key_checks = 0")
        yield server


@pytest.fixture
def hub(lax: Server) -> Iterator[SqlAlchemyMetadataConnector]:
    """A migrated database on the lax server."""
    with fresh_mariadb_database(lax) as url:
        made = SqlAlchemyMetadataConnector(url)
        made.update_database()
        yield made
        made.close()


@pytest.fixture
def world(hub: SqlAlchemyMetadataConnector) -> World:
    return World(hub)


def test_every_table_is_of_innodb_and_every_text_compares_by_code_points(hub: SqlAlchemyMetadataConnector) -> None:
    with hub.engine.connect() as connection:
        tables = connection.execute(
            text("SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE()")
        ).all()
        columns = connection.execute(
            text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND column_type <> 'longtext'"
            )
        ).all()
    assert len(tables) > 15
    assert {engine for _, engine in tables} == {"InnoDB"}
    assert len(columns) > 40
    assert [each for each in columns if each[2] != mariadb.COLLATION] == []


def test_names_that_differ_by_case_accent_or_a_space_are_different_names(
    hub: SqlAlchemyMetadataConnector, world: World
) -> None:
    names = ["Site", "site", "Sité", "Site ", "ſite", "SITE", "Straße", "Strasse", "🏥", "🏨"]
    for name in names:
        world.trust(name, code=name)
    for name in names:
        found = hub.pull_trust(name)
        assert found is not None
        assert (found.name, found.code) == (name, name)
    with hub.transaction():
        slots = [hub.set_fl_kit_slot(name, hub.pull_trust(name)) for name in names]
    assert len({slot.trust_id for slot in slots}) == len(names)
    assert {name: trust.name for name, trust in hub.pull_trusts_of_slots(names).items()} == {n: n for n in names}
    model = world.model(clients=0)
    with hub.transaction():
        for position, name in enumerate(["v1", "V1", "v1 "]):
            hub.add_model_artifact(ModelArtifact(0, model.id, name, world.blob(str(position))))
    with hub.engine.connect() as connection, pytest.raises(IntegrityError, match="ck_federated_model_status"):
        connection.execute(text("UPDATE federated_model SET status = 'pending'"))


def test_what_is_too_long_is_refused_not_cut(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    with hub.transaction() as transaction, pytest.raises(DataError, match="too long"):
        world_model = FederatedModel(id=0, uuid=uuid4(), name="n" * 201)
        try:
            hub.add_federated_model(world_model)
        finally:
            transaction.set_rollback()
    assert hub.pull_federated_models() == []


def test_an_impossible_state_is_refused_where_the_server_checks_nothing_by_itself(
    hub: SqlAlchemyMetadataConnector, world: World
) -> None:
    model = world.model()
    update_ = world.update(model)
    with hub.transaction() as transaction, pytest.raises(IntegrityError, match="ck_model_update_running"):
        try:
            transaction.session.execute(text(f"UPDATE model_update SET status = 'RUNNING' WHERE id = {update_.id}"))
        finally:
            transaction.set_rollback()


@pytest.mark.parametrize("log", ["x" * 65_536, "🏥" * 65_536], ids=["of one byte each", "of four bytes each"])
def test_a_log_of_the_longest_is_kept_whole(hub: SqlAlchemyMetadataConnector, world: World, log: str) -> None:
    model = world.model(clients=0)
    with hub.transaction():
        hub.add_logs([NewLog(model.id, uuid4(), log=log, details={"text": "ü" * 4000})])
    (entry,) = hub.pull_logs(model)
    assert (entry.log, entry.details) == (log, {"text": "ü" * 4000})


def test_a_manifest_of_ten_thousand_updates_is_kept_whole(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    """Several megabytes in one statement, and thousands of ids in another."""
    model = world.model(clients=1)
    inputs = [{"id": n, "client": str(uuid4()), "digest": f"{n:064x}", "num_examples": 1.5} for n in range(10_000)]
    manifest = {"aggregator": "fedavg", "updates": inputs}
    result = AggregateResult(world.blob(), 10_000, 15_000.0, manifest)
    with hub.transaction():
        aggregate = hub.post_new_model_aggregate(model, None, result)
    latest = hub.pull_latest_model_aggregate(model)
    assert latest is not None
    assert latest.id == aggregate.id
    assert latest.manifest == manifest


def test_the_clock_is_that_of_utc_whatever_the_servers_zone(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    with hub.engine.connect() as connection:
        found = connection.scalar(select(now_ms()))
        assert found is not None
        assert abs(found / 1000 - datetime.now(UTC).timestamp()) < 60
        assert connection.exec_driver_sql("SELECT @@session.time_zone").scalar() == "+00:00"
    model = world.model()
    made = world.now(model).created_at
    assert made is not None
    assert abs(made - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_moment_keeps_its_microseconds(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    world.model()
    moment = datetime(2026, 3, 29, 1, 30, 0, 123457, tzinfo=UTC)  # an hour that a zone with summer time skips
    with hub.transaction() as transaction:
        transaction.session.execute(update(FederatedModelRow).values(heard_at=moment))
    with hub.transaction() as transaction:
        assert transaction.session.scalar(select(FederatedModelRow.heard_at)) == moment


def test_a_guarded_update_counts_the_rows_it_met_not_those_it_changed(
    hub: SqlAlchemyMetadataConnector, world: World
) -> None:
    """The server counts changed rows by default: a renewal within the same millisecond would look like a lost claim."""
    model = world.model(name="same")
    with hub.transaction() as transaction:
        statement = update(FederatedModelRow).where(FederatedModelRow.id == model.id).values(name="same")
        met: Any = transaction.session.execute(statement)
        assert met.rowcount == 1


def test_each_statement_sees_what_is_committed(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    """READ COMMITTED, whatever the server's default: who waited for a lock must see what the other one wrote."""
    world.model()
    with hub.transaction() as transaction:
        count = text("SELECT COUNT(*) FROM federated_model")
        assert transaction.session.scalar(count) == 1
        thread = threading.Thread(target=world.model)
        thread.start()
        thread.join()
        assert transaction.session.scalar(count) == 2


def test_a_deadlock_is_begun_anew_even_where_a_savepoint_hides_it(
    hub: SqlAlchemyMetadataConnector, world: World
) -> None:
    """The server undoes the whole transaction with its savepoints: going back to one fails, in another error's name."""
    first, second = world.model(), world.model()
    tries: list[int] = []
    barrier = threading.Barrier(2)

    def cross(mine: FederatedModel, other: FederatedModel) -> None:
        is_first_time = [True]

        def work(transaction: Any) -> None:
            tries.append(mine.id)
            touch = update(FederatedModelRow).values(fence=FederatedModelRow.fence + 1)
            transaction.session.execute(touch.where(FederatedModelRow.id == mine.id))
            if is_first_time and is_first_time.pop():
                barrier.wait(60)
            with transaction.session.begin_nested():
                transaction.session.execute(touch.where(FederatedModelRow.id == other.id))

        hub.transact(work)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((first, second), (second, first))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tries) > 2, "nobody met a deadlock: this shows nothing"
    assert [world.now(each).fence for each in (first, second)] == [2, 2]


def test_a_lock_that_is_held_too_long_is_a_passing_fault(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    """The lax server gives a second: whoever waits longer is told, and may come again."""
    model = world.model()
    with hub.transaction():
        hub.lock_model(model)
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                with hub.transaction():
                    hub.lock_model(model)
            except DatabaseUnavailable as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(60)
    assert "1205" in str(raised[0])


def test_a_statement_that_the_server_never_takes_is_named_and_not_tried_again(mariadb_url: str) -> None:
    hub = SqlAlchemyMetadataConnector(mariadb_url)
    hub.update_database()
    tries = []

    def work(_: object) -> None:
        tries.append(1)
        hub.add_dead_letter("t", {"text": "x" * (17 * 1024 * 1024)}, kind="k", field=None, reason="r")

    with pytest.raises(StatementTooLarge, match="max_allowed_packet"):
        hub.transact(work)
    assert len(tries) == 1
    assert hub.pull_federated_models() == [], "the next one finds a connection that works"
    hub.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--max-allowed-packet=1M"], "max_allowed_packet is 1048576: set it to 16777216"),
        (["--log-bin=binlog", "--binlog-format=STATEMENT"], "binlog_format is STATEMENT"),
    ],
    ids=["packets too small", "statements in the log"],
)
def test_a_server_that_can_not_do_is_refused_by_the_setting_at_fault(options: list[str], named: str) -> None:
    with mariadb_server(*options) as server:
        hub = SqlAlchemyMetadataConnector(server.url)
        for look in (hub.check, hub.update_database):
            with pytest.raises(DatabaseUnsuitable, match=named):
                look()
        hub.close()


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("8.4.3", "a MySQL server is not supported"),
        ("5.7.44-log", "a MySQL server is not supported"),
        ("10.6.18-MariaDB-log", "10.11 is the oldest"),
    ],
)
def test_a_server_of_another_kind_or_age_is_refused(mariadb_url: str, version: str, named: str) -> None:
    """The server is asked what it is, and may be told to answer otherwise."""
    with mariadb_server(f"--version={version}") as server:
        hub = SqlAlchemyMetadataConnector(server.url)
        with pytest.raises(DatabaseUnsuitable, match=named):
            hub.check()
        hub.close()


def test_a_passing_fault_of_the_server_is_told_from_ours(mariadb_url: str) -> None:
    hub = SqlAlchemyMetadataConnector(mariadb_url)
    hub.update_database()
    with pytest.raises(DatabaseUnavailable, match=r"1927|2013|1317"), hub.transaction() as transaction:
        with connect_mariadb(mariadb_url) as other:
            own = transaction.session.scalar(text("SELECT CONNECTION_ID()"))
            other.cursor().execute(f"KILL {own}")
        transaction.session.execute(text("SELECT 1"))
    with pytest.raises(DBAPIError) as ours, hub.transaction() as transaction:
        transaction.session.execute(text("SELECT no_such_column FROM federated_model"))
    assert isinstance(ours.value.orig, pymysql.err.OperationalError)
    hub.close()


def test_what_waits_is_found_without_a_look_at_what_is_done(hub: SqlAlchemyMetadataConnector, world: World) -> None:
    """Every sweep asks. MariaDB has no partial indexes: its size must be the work that is open, not the history."""
    model = world.model()
    for _ in range(3):
        world.update(model)
        world.post(model)
    with hub.transaction() as transaction:
        columns = ", ".join(c.name for c in ModelUpdateRow.__table__.columns if c.name not in ("id", "submission_id"))
        for _ in range(11):
            transaction.session.execute(
                text(f"INSERT INTO model_update (submission_id, {columns}) SELECT UUID(), {columns} FROM model_update")
            )
        transaction.session.execute(
            text(
                "INSERT INTO outbox (`key`, task, payload, attempts, created_at, sent_at) "
                "SELECT UUID(), 't', '{}', 1, created_at, created_at FROM model_update"
            )
        )
    with hub.transaction():
        hub.add_outbox_message("waits", "t", {})
    waiting = world.update(model)
    with hub.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE TABLE model_update, outbox").all()
    for ask, least in ((hub.pull_models_to_aggregate, 6000), (hub.pull_outbox_messages, 6000)):
        with counting_rows_read(hub) as read:
            assert len(ask()) == 1
        assert 0 < read[0] < least / 100
    assert waiting.id > 6000


@contextmanager
def counting_rows_read(hub: SqlAlchemyMetadataConnector) -> Iterator[list[int]]:
    """How many rows, of indexes and tables, the server goes through for what this thread asks in the block."""
    read = [0]
    engine = hub.engine

    def total(connection: Any) -> int:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())

    def taken(connection: Any, *_: Any) -> None:
        read[0] -= total(connection)

    def returned(connection: Any, *_: Any) -> None:
        read[0] += total(connection)

    event.listen(engine, "checkout", taken)
    event.listen(engine, "checkin", returned)
    try:
        yield read
    finally:
        event.remove(engine, "checkout", taken)
        event.remove(engine, "checkin", returned)
