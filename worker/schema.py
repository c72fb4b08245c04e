"""The migration, as a step that says from where to where it led."""

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
