"""FMA's tables as fma-django 0.0.1 and its migrations make them: what the hub reads there and writes.

Columns that the hub has no use for are left out where they need no value. `create_all` makes what is here, for tests
that have no Django; tests/bridges/test_fma.py holds it against what Django makes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from connectors.records import UpdateStatus

# FMA's numbers for an update's status.
STATUS_NUMBERS: Final = {
    UpdateStatus.PENDING: 0,
    UpdateStatus.RUNNING: 1,
    UpdateStatus.COMPLETE: 2,
    UpdateStatus.FAILED: 3,
    UpdateStatus.INVALID: 4,
}
STATUSES: Final = {number: status for status, number in STATUS_NUMBERS.items()}

LONGEST_PATH: Final = 100


class DjangoDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. Django's SQLite text has a space and no offset: FMA's API sorts by that text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, which has no type for it."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """As Django writes it: without a fraction where that is zero."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Aware, whatever the database keeps."""
        if value is None:
            return None
        read = datetime.fromisoformat(value) if isinstance(value, str) else value
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


class DjangoJson(TypeDecorator[Any]):
    """JSON: text that SQLite checks, jsonb on PostgreSQL. NaN, which is none, is refused."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column's own type."""
        return dialect.type_descriptor(JSONB(none_as_null=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Raises: ValueError for NaN and infinity."""
        if value is None:
            return None
        text = json.dumps(value, allow_nan=False)
        return value if dialect.name == "postgresql" else text

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """The value, also where a driver hands out the text."""
        return json.loads(value) if isinstance(value, str) and dialect.name != "postgresql" else value


METADATA: Final = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")
_UUID: TypeEngine[UUID] = Uuid()


def _key() -> Column[int]:
    return Column("id", _Id, primary_key=True, autoincrement=True)


def _to(table: str, column: str = "id") -> ForeignKey:
    # Django's way: errors surface at the commit.
    return ForeignKey(f"{table}.{column}", deferrable=True, initially="DEFERRED", use_alter=table.endswith("artifact"))


# sqlite_autoincrement, as Django has it: an id that was given once is never given again, which the hub's rows rely on.

USERS: Final = Table(
    "auth_user",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("username", String(150), nullable=False, unique=True),
    Column("is_superuser", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    sqlite_autoincrement=True,
)

SCHEDULES: Final = Table(
    "django_q_schedule",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("repeats", Integer, nullable=False),
    sqlite_autoincrement=True,
)

CLIENTS: Final = Table("fma_django_client", METADATA, Column("uuid", _UUID, primary_key=True))

MODELS: Final = Table(
    "fma_django_federatedmodel",
    METADATA,
    _key(),
    Column("name", String(255), nullable=False),
    Column("aggregator", String(255), nullable=False),
    Column("requirement", String(255), nullable=False),
    Column("requirement_args", DjangoJson),
    Column("update_schema", DjangoJson),
    Column("client_agg_results_schema", DjangoJson),
    Column("furthest_base_agg", Integer),
    Column("created_on", DjangoDateTime, nullable=False),
    Column("last_modified", DjangoDateTime, nullable=False),
    Column("current_artifact_id", BigInteger, _to("fma_django_modelartifact"), unique=True),
    Column("developer_id", Integer, _to("auth_user"), nullable=False),
    Column("scheduler_id", Integer, _to("django_q_schedule"), unique=True),
    sqlite_autoincrement=True,
)

REGISTRATIONS: Final = Table(
    "fma_django_federatedmodel_clients",
    METADATA,
    _key(),
    Column("federatedmodel_id", BigInteger, _to("fma_django_federatedmodel"), nullable=False),
    Column("client_id", _UUID, _to("fma_django_client", "uuid"), nullable=False),
    UniqueConstraint("federatedmodel_id", "client_id"),
    sqlite_autoincrement=True,
)

AGGREGATES: Final = Table(
    "fma_django_modelaggregate",
    METADATA,
    _key(),
    Column("result", String(LONGEST_PATH), nullable=False),
    Column("validation_score", Double),
    Column("created_on", DjangoDateTime, nullable=False),
    Column("lft", Integer, nullable=False),
    Column("rght", Integer, nullable=False),
    Column("tree_id", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("federated_model_id", BigInteger, _to("fma_django_federatedmodel"), nullable=False),
    Column("parent_id", BigInteger, _to("fma_django_modelaggregate")),
    sqlite_autoincrement=True,
)

UPDATES: Final = Table(
    "fma_django_modelupdate",
    METADATA,
    _key(),
    Column("data", String(LONGEST_PATH), nullable=False),
    Column("status", Integer, nullable=False),
    Column("created_on", DjangoDateTime, nullable=False),
    Column("applied_aggregate_id", BigInteger, _to("fma_django_modelaggregate")),
    Column("base_aggregate_id", BigInteger, _to("fma_django_modelaggregate")),
    Column("client_id", _UUID, _to("fma_django_client", "uuid"), nullable=False),
    Column("federated_model_id", BigInteger, _to("fma_django_federatedmodel"), nullable=False),
    sqlite_autoincrement=True,
)

ARTIFACTS: Final = Table(
    "fma_django_modelartifact",
    METADATA,
    _key(),
    Column("values", String(LONGEST_PATH), nullable=False),
    Column("version", String(255), nullable=False),
    Column("created_on", DjangoDateTime, nullable=False),
    Column("federated_model_id", BigInteger, _to("fma_django_federatedmodel"), nullable=False),
    UniqueConstraint("federated_model_id", "version", name="unique version to model"),
    sqlite_autoincrement=True,
)

SCORES: Final = Table(
    "fma_django_clientaggregatescore",
    METADATA,
    _key(),
    Column("validation_results", DjangoJson, nullable=False),
    Column("created_on", DjangoDateTime, nullable=False),
    Column("aggregate_id", BigInteger, _to("fma_django_modelaggregate")),
    Column("client_id", _UUID, _to("fma_django_client", "uuid"), nullable=False),
    UniqueConstraint("aggregate_id", "client_id"),
    sqlite_autoincrement=True,
)
