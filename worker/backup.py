"""A copy of the database and the store that belong together, taken while the hub works; and the way back.

The store is copied, then the database, then what the store has got since. Whatever a row of the copy names was there
when the database was copied. What is older than the first pass was met by that; what is younger is met by the second,
for garbage collection takes only what is a day old.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url

from config.settings import Settings
from connectors.storage.garbage import is_digest
from fedqueue.blobs import STORE_MARK, blob_path, keep_blob, new_blob, path_of, sync_folder
from fedqueue.buckets import is_bucket
from worker.bootstrap import build_metadata
from worker.errors import BackupRefused
from worker.supervisor import home_held

_SQLITE: Final = "fedqueue.db"
_POSTGRESQL: Final = "fedqueue.dump"
_STORE: Final = "store"


@dataclass(frozen=True)
class Copied:
    """What was copied: the database's file (None: the store alone), and blobs that were not there before."""

    database: Path | None
    blobs: int


def back_up(settings: Settings, folder: Path, *, store_only: bool = False) -> Copied:
    """Copy the hub into the folder, beside running workers; a folder that holds one already is brought up to date.

    Blobs are linked where the folder is on the store's file system, and copied otherwise. Raises: BackupRefused.
    """
    if is_bucket(settings.store_url):
        _check_bucket(store_only)
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return Copied(_dump(settings, folder), 0)
    root = path_of(settings.store_url)
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        blobs = _copy_blobs(root, folder / _STORE)
        if store_only:
            return Copied(None, blobs)
        database = _dump(settings, folder)
        return Copied(database, blobs + _copy_blobs(root, folder / _STORE))


def restore(settings: Settings, folder: Path, *, store_only: bool = False) -> Copied:
    """Bring the folder's copy back, to an empty database; no worker may run meanwhile.

    One that goes on from before could post a round that the restored database knows nothing of. Blobs that are in the
    store already stay. Raises: BackupRefused; AlreadyRunning where `up` runs in this home.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with home_held(settings), _told(folder):
        if is_bucket(settings.store_url):
            _check_bucket(store_only)
            return Copied(_load(settings, folder), 0)
        if not (folder / _STORE).is_dir():
            raise BackupRefused(f"{folder} holds no backup: there is no folder {_STORE} in it")
        # The blobs first: no row may name what is not there yet.
        blobs = _copy_blobs(folder / _STORE, path_of(settings.store_url))
        return Copied(None if store_only else _load(settings, folder), blobs)


def _check_bucket(store_only: bool) -> None:
    if store_only:
        raise BackupRefused(
            "the store is a bucket: copies of it are its provider's affair (versions, replication), and a database "
            "that is restored needs no blob that a later one would not name"
        )


# --- the database -----------------------------------------------------------------------------------------------


def _dump(settings: Settings, folder: Path) -> Path:
    url = make_url(settings.database_url)
    kind = url.get_backend_name()
    if kind == "sqlite":
        target = folder / _SQLITE
        with (
            _replaced(target) as new,
            closing(_connected(Path(url.database or ""))) as source,
            closing(sqlite3.connect(new)) as copy,
        ):
            # SQLite's own copy of a database in use: as it stood at one moment.
            source.backup(copy)
        return target
    if kind == "postgresql":
        target = folder / _POSTGRESQL
        with _replaced(target) as new:
            _run(["pg_dump", "--format=custom", f"--file={new}"], url)
        return target
    raise BackupRefused(f"{kind}: use its own tools (docs/operations.md), between two `backup --store-only`")


def _load(settings: Settings, folder: Path) -> Path:
    url = make_url(settings.database_url)
    kind = url.get_backend_name()
    source = folder / {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}.get(kind, "nothing")
    if not source.is_file():
        raise BackupRefused(f"{folder} holds no copy of a {kind} database")
    if kind == "sqlite":
        target = Path(url.database or "")
        if target.exists():
            raise BackupRefused(f"{target} is there: move it away first, with its -wal and -shm")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _replaced(target) as new:
            shutil.copyfile(source, new)
        return source
    metadata = build_metadata(settings)
    try:
        if metadata.schema_revision() is not None:
            raise BackupRefused("the database is not empty: make an empty one, and name it in FEDQUEUE_DATABASE_URL")
    finally:
        metadata.close()
    _run(["pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", str(source)], url)
    return source


def _connected(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise BackupRefused(f"there is no database {path}")
    return sqlite3.connect(path, timeout=30)


def _run(command: list[str], url: URL) -> None:
    """Run a program of PostgreSQL's on the database; the password goes by the environment, not among its arguments."""
    if shutil.which(command[0]) is None:
        raise BackupRefused(f"{command[0]} is not on the PATH: it comes with PostgreSQL's client programs")
    place = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({} if url.password is None else {"PGPASSWORD": str(url.password)})}
    done = subprocess.run(
        [command[0], f"--dbname={place}", *command[1:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BackupRefused(f"{command[0]} failed: {done.stderr.strip()}")


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A file to write, which takes `target`'s place, whole and durable, when the block has ended well."""
    new = target.with_name(target.name + ".new")
    new.unlink(missing_ok=True)
    yield new
    with new.open("rb") as written:
        os.fsync(written.fileno())
    new.replace(target)
    sync_folder(target.parent)


# --- the store --------------------------------------------------------------------------------------------------


def _copy_blobs(source: Path, target: Path) -> int:
    """Give `target` every blob of `source` that it has not; how many."""
    copied = 0
    for folder in sorted((source / "sha256").glob("*")):
        for blob in sorted(folder.iterdir()):
            if is_digest(blob.name) and blob == blob_path(source, blob.name):
                copied += not blob_path(target, blob.name).exists() and _copy_one(blob, target)
    target.mkdir(parents=True, exist_ok=True)
    # Last: with it the folder counts as a store that is there.
    (target / STORE_MARK).touch()
    for folder in (*sorted((target / "sha256").glob("*")), target / "sha256", target):
        if folder.is_dir():
            sync_folder(folder)
    return copied


def _copy_one(blob: Path, target: Path) -> bool:
    """Link or copy one blob; False if it was collected meanwhile, so that no row named it."""
    place = blob_path(target, blob.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, place)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        try:
            with blob.open("rb") as source, new_blob(target) as file:
                shutil.copyfileobj(source, file)
                _path, digest = keep_blob(target, file)
        except FileNotFoundError:
            return False
        if digest != blob.name:
            raise BackupRefused(f"{blob} is damaged: its digest is {digest}") from None
    return True


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raises: BackupRefused for whatever the operating system or SQLite says."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise BackupRefused(f"{folder}: {error}") from error
