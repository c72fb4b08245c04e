"""Commands that copy the hub, and bring a copy back: backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.edge import readable_errors, settings_or_exit

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the copy lies.")]
StoreOnly = Annotated[
    bool, typer.Option("--store-only", help="Not the database: its own tools do that, between two of these.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(folder: Folder, store_only: StoreOnly = False) -> None:
    """Copy database and store while the hub works: SQLite, or PostgreSQL by its pg_dump. Again: only what is new."""
    settings = settings_or_exit()
    from worker.backup import back_up

    with readable_errors():
        copied = back_up(settings, folder, store_only=store_only)
    _say(copied.blobs, None if copied.database is None else f"the database in {copied.database}")


def restore(folder: Folder, store_only: StoreOnly = False) -> None:
    """Bring a copy back, into an empty database. No worker may run meanwhile."""
    settings = settings_or_exit()
    from worker.backup import restore as run

    with readable_errors():
        copied = run(settings, folder, store_only=store_only)
    _say(copied.blobs, None if copied.database is None else f"the database from {copied.database}")


def _say(blobs: int, database: str | None) -> None:
    typer.echo(f"{blobs} blobs that were not there yet" + ("" if database is None else f", and {database}"))
