"""The schema of a hub's database: brought up to date when a hub starts, its file made whole when it has ended."""

from __future__ import annotations

from config.settings import Settings
from worker.bootstrap import build_metadata


def migrate(settings: Settings) -> tuple[str | None, str | None]:
    """Bring the database's schema to this version: (revision found, revision reached).

    Raises: DatabaseUnavailable.
    """
    metadata = build_metadata(settings)
    revision = getattr(metadata, "schema_revision", lambda: None)
    try:
        found = revision()
        metadata.update_database()
        return found, revision()
    finally:
        metadata.close()


def settle_database(settings: Settings) -> None:
    """Leave a stopped hub's SQLite database whole in its one file: whoever copies that file then has it all.

    SQLite writes its log into the file when the last connection closes. Of two processes that close theirs at the
    same time neither takes itself for the last, and one that was killed closed nothing: so one more comes after all.

    Raises: DatabaseUnavailable.
    """
    if not settings.database_url.startswith("sqlite"):
        return
    metadata = build_metadata(settings)
    try:
        metadata.check()
    finally:
        metadata.close()
