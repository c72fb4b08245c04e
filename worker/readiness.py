"""What a worker can't do without: whether it is there, part by part; and waiting, patiently and audibly, for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from sqlalchemy.exc import DBAPIError

from config.secrets import masked
from config.settings import PREFIX, Settings
from connectors.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    SchemaOutdated,
    SchemaTooNew,
    StoreMisconfigured,
    StoreUnavailable,
)
from worker.bootstrap import HubCelery, build_metadata, build_model_data
from worker.health import broker_trouble

if TYPE_CHECKING:
    from connectors.sql.connector import SqlAlchemyMetadataConnector

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True)
class Part:
    """One thing that the hub needs: whether it can be used from here, and how that was told, or why not."""

    name: str
    is_ready: bool
    detail: str


def readiness(settings: Settings) -> list[Part]:
    """The database, its schema, the broker and the store, each looked at; the schema only where there is a database."""
    metadata = build_metadata(settings)
    try:
        parts = [*_database(metadata, settings)]
        with HubCelery(settings) as app:
            trouble = broker_trouble(app)
        parts.append(Part("broker", not trouble, trouble or f"{masked(settings.broker_url)} answers"))
        return [*parts, _store(metadata, settings)]
    finally:
        metadata.close()


def _database(metadata: SqlAlchemyMetadataConnector, settings: Settings) -> Iterator[Part]:
    try:
        revision = metadata.schema_revision()
    except (DatabaseUnavailable, DatabaseUnsuitable) as error:
        yield Part("database", False, masked(str(error)))
        return
    yield Part("database", True, f"{masked(settings.database_url)} answers")
    try:
        metadata.check()
    except (DatabaseUnavailable, SchemaOutdated, SchemaTooNew) as error:
        yield Part("schema", False, masked(str(error)))
    else:
        yield Part("schema", True, f"at {revision}")


def _store(metadata: SqlAlchemyMetadataConnector, settings: Settings) -> Part:
    try:
        build_model_data(settings, metadata).check()
    except StoreMisconfigured as error:
        return Part("store", False, masked(f"{PREFIX}STORE_URL: {error}"))
    except (DatabaseUnavailable, StoreUnavailable) as error:
        return Part("store", False, masked(str(error)))
    except DBAPIError:
        # It can't be told from a folder that nothing is mounted on: the database, asked for that, has no tables.
        return Part("store", False, "it can't be told whose it is before the database is migrated")
    return Part("store", True, f"{settings.store_url} keeps what is written and gives it back")


def wait_for_database(settings: Settings) -> None:
    """Return when the database answers and has this version's schema, however long that takes.

    Under compose the workers may start before the database, and before its migration.

    Raises: SchemaTooNew at once: no waiting makes this code newer.
    """
    metadata = build_metadata(settings)
    pause, said = _FIRST_PAUSE, ""
    try:
        while True:
            try:
                metadata.check()
            except (DatabaseUnavailable, SchemaOutdated) as error:
                reason = str(error)
                # A first look that comes a moment too early is no news; the same news is said once.
                if pause > 1.0 and reason != said:
                    log.warning("waiting for the database", reason=reason)
                    said = reason
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
            else:
                if said:
                    log.info("the database is ready")
                return
    finally:
        # This is the pool's parent: a connection left open here would be inherited by every child.
        metadata.close()
