"""An FMA deployment to be read and left as it is: one snapshot of its tables, for an import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Select, create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from connectors.deployment import FoundAggregate, FoundArtifact, FoundModel, FoundScore, FoundUpdate
from connectors.django.errors import NoDeployment
from connectors.django.found import (
    AGGREGATES_FOUND,
    ARTIFACTS_FOUND,
    MODELS_FOUND,
    REGISTRATIONS_FOUND,
    SCORES_FOUND,
    UPDATES_FOUND,
    to_found_aggregate,
    to_found_artifact,
    to_found_model,
    to_found_score,
    to_found_update,
)
from connectors.django.media import Media, as_media
from connectors.django.tables import AGGREGATES, ARTIFACTS, METADATA, MODELS, REGISTRATIONS, SCORES, UPDATES
from connectors.errors import DatabaseUnavailable, DatabaseUnsuitable


class FmaSnapshot:
    """What the deployment held at one moment."""

    def __init__(self, connection: Connection, media: Media) -> None:
        self._connection = connection
        self._media = media

    def models(self) -> list[FoundModel]:
        """Every model, by id."""
        return [to_found_model(row) for row in self._rows(MODELS_FOUND.order_by(MODELS.c.id))]

    def clients(self, model: FoundModel) -> list[UUID]:
        """The model's registered clients, in the order of their registration."""
        statement = REGISTRATIONS_FOUND.where(REGISTRATIONS.c.federatedmodel_id == model.id)
        return [row.client_id for row in self._rows(statement.order_by(REGISTRATIONS.c.id))]

    def artifacts(self, model: FoundModel) -> list[FoundArtifact]:
        """The model's artifacts, by id."""
        statement = ARTIFACTS_FOUND.where(ARTIFACTS.c.federated_model_id == model.id)
        return [to_found_artifact(row, self._media) for row in self._rows(statement.order_by(ARTIFACTS.c.id))]

    def aggregates(self, model: FoundModel) -> list[FoundAggregate]:
        """The model's aggregates, in the order of their creation."""
        statement = AGGREGATES_FOUND.where(AGGREGATES.c.federated_model_id == model.id)
        ordered = statement.order_by(AGGREGATES.c.created_on, AGGREGATES.c.id)
        return [to_found_aggregate(row, self._media) for row in self._rows(ordered)]

    def updates(self, model: FoundModel) -> list[FoundUpdate]:
        """The model's updates, by id."""
        statement = UPDATES_FOUND.where(UPDATES.c.federated_model_id == model.id)
        return [to_found_update(row, self._media) for row in self._rows(statement.order_by(UPDATES.c.id))]

    def scores(self, model: FoundModel) -> list[FoundScore]:
        """The scores of the model's aggregates, by id."""
        statement = SCORES_FOUND.where(AGGREGATES.c.federated_model_id == model.id)
        return [to_found_score(row) for row in self._rows(statement.order_by(SCORES.c.id))]

    def _rows(self, statement: Select[Any]) -> list[Any]:
        return list(self._connection.execute(statement).all())


@contextmanager
def snapshot(url: str, media: str | Path) -> Iterator[FmaSnapshot]:
    """The deployment as it stands now, however long the block takes. Nothing is written there.

    Raises: DatabaseUnsuitable, DatabaseUnavailable, NoDeployment.
    """
    engine = _reading(url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # Python's driver begins none for a SELECT: each would see another moment.
                connection.exec_driver_sql("BEGIN")
            missing = METADATA.tables.keys() - set(inspect(connection).get_table_names())
            if missing:
                raise NoDeployment(sorted(missing))
            yield FmaSnapshot(connection, as_media(media))
    except DBAPIError as error:
        raise DatabaseUnavailable(f"the deployment's database can't be read: {error.orig}") from error
    finally:
        engine.dispose()


def _reading(url: str) -> Engine:
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if kind == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        return create_engine(parsed, execution_options=options)
    if kind != "sqlite" or parsed.database is None:
        raise DatabaseUnsuitable(f"FMA works on SQLite or PostgreSQL, not on {kind}")
    # Not connectors.sql.engine's: that would put the file into WAL mode.
    file = Path(parsed.database).absolute()
    return create_engine(f"sqlite:///file:{file}?mode=ro&uri=true", connect_args={"timeout": 30.0})
