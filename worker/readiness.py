"""Waiting, patiently and audibly, for what a worker can't do without."""

from __future__ import annotations

import time
from typing import Final

import structlog

from config.settings import Settings
from connectors.errors import DatabaseUnavailable, SchemaOutdated
from worker.bootstrap import build_metadata

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


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
