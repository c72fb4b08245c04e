"""Column types that mean the same on every database."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Index, Integer, MetaData, String, Text, TypeDecorator
from sqlalchemy.dialects.mysql import DATETIME as MySqlDateTime
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: MariaDB and SQLite give back naive ones."""

    impl = DateTime(timezone=True).with_variant(MySqlDateTime(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC. A naive value is a mistake of ours."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime can't be stored: give it a time zone")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand out UTC, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts up by itself only for a column declared as exactly INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")
# None is SQL's NULL, never the JSON value null.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# MariaDB's own TEXT ends at 64 KiB: a fourth of what a log of 65,536 characters may take.
LongText = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")

RowId = Annotated[int, mapped_column(BigId, primary_key=True, autoincrement=True)]
Text200 = Annotated[str, mapped_column(String(200))]


class Base(DeclarativeBase):
    """Every table of the hub; constraints are named so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads it from the class
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        Any: Json,
        int: BigInteger(),
    }


def index_on(dialects: tuple[str, ...], name: str, *columns: str, **options: Any) -> Index:
    """An index that databases of these kinds alone have. `info` says so to whoever compares schemas."""
    index = Index(name, *columns, info={"dialects": dialects}, **options)
    index.ddl_if(callable_=lambda *_, dialect, **__: dialect.name in dialects)
    return index


def now() -> datetime:
    """This machine's time, for columns that people read. Leases use the database's clock instead."""
    return datetime.now(UTC)


def one_of(column: str, values: Iterable[str]) -> str:
    """SQL for "the column holds one of these words"."""
    words = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({words})"
