"""The schema of a hub's database: brought up to date when a hub starts, its file made whole when it has ended."""

from __future__ import annotations

from dataclasses import dataclass

from config.settings import Settings
from worker.bootstrap import build_metadata


@dataclass(frozen=True)
class Migration:
    """What a migration found and reached, and the steps that wait: (revision, oldest code that it leaves)."""

    found: str | None
    reached: str | None
    waiting: list[tuple[str, str]]


def migrate(settings: Settings, *, contract: bool = False) -> Migration:
    """Bring the database's schema to this version; steps that shut out older workers only if `contract`.

    Raises: DatabaseUnavailable, SchemaTooNew.
    """
    metadata = build_metadata(settings)
    try:
        found = metadata.migrate_database(contract=contract)
        waiting = metadata.contracting_steps()
        if not waiting:
            metadata.check()
        return Migration(found, metadata.schema_revision(), waiting)
    finally:
        metadata.close()


def settle_database(settings: Settings) -> None:
    """Leave a stopped hub's SQLite database whole in its one file: whoever copies that file then has it all.

    SQLite writes its log into the file when the last connection closes. Of two processes that close theirs at the
    same time neither takes itself for the last, one that was killed closed nothing, and an orphan of a killed worker
    may keep its own open: so it is said in so many words.

    Raises: DatabaseUnavailable.
    """
    metadata = build_metadata(settings)
    try:
        metadata.settle()
    finally:
        metadata.close()
