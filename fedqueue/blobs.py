"""Content-addressed files: how a client and the hub name the same bytes in a store they share.

Part of the wire contract (docs/decisions/0001): a blob lies at `ROOT/sha256/ab/abcdef…`, named by the sha256 of its
bytes. It is complete and on disk before it has that name, and is never written again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

# In the root of every store that a hub has begun: what lacks it may be the folder that a store should be mounted on.
STORE_MARK = ".fedqueue-store"

_PIECE = 1 << 20


def is_store(root: Path) -> bool:
    """Whether a hub's store lies there: one with the mark, or with blobs of a hub that made no marks yet."""
    return (root / STORE_MARK).exists() or (root / "sha256").is_dir()


def blob_path(root: Path, digest: str) -> Path:
    """Where the blob of that digest lies under a store's root."""
    return root / "sha256" / digest[:2] / digest


def path_of(uri: str) -> Path:
    """The absolute path that a `file://` URI names. Raises: ValueError for any other URI."""
    parts = urlsplit(uri)
    # A query or fragment is part of no file's name: a raw `?` or `#` must not cut a name short.
    foreign = parts.netloc not in ("", "localhost") or "?" in uri or "#" in uri
    if parts.scheme != "file" or foreign or not parts.path.startswith("/"):
        raise ValueError(f"{uri!r} is not a file:///absolute/path")
    return Path(unquote(parts.path))


def digest_of(path: Path) -> str:
    """The sha256 of the file's bytes, hexadecimal, read by pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_blob(root: Path, *, begin: bool = True) -> Iterator[BinaryIO]:
    """A file to write a blob into, on the store's file system; gone afterwards unless it was kept.

    `begin`: a root that is not there is made. Raises: OSError.
    """
    staging = root / "staging"
    _make_folder(staging, None if begin else root)
    # Readable by whoever may enter the root: the hub and its clients need not be one user.
    file = tempfile.NamedTemporaryFile(dir=staging, delete=False)  # noqa: SIM115  # closed below
    try:
        os.fchmod(file.fileno(), 0o644)
        yield file  # type: ignore[misc]  # the wrapper has BinaryIO's methods
    finally:
        Path(file.name).unlink(missing_ok=True)
        # What was kept has been synced; what a full disk still refuses to take here was not, and is gone.
        with suppress(OSError):
            file.close()


def keep_blob(root: Path, file: BinaryIO, digest: str | None = None) -> tuple[Path, str]:
    """Give the file written in `new_blob` its name for good: (path, digest). Durable when this returns."""
    file.flush()
    os.fsync(file.fileno())
    staged = Path(file.name)
    digest = digest or digest_of(staged)
    target = blob_path(root, digest)
    staged.stat()  # gone with its store: no folder is made where something else may lie now
    _make_folder(target.parent, root)
    while True:
        try:
            # A link, unlike a rename, never replaces: whoever comes second finds the same bytes there.
            os.link(staged, target)
        except FileExistsError:
            try:
                # The clock of garbage collection starts anew: the row that names it is yet to be written.
                os.utime(target)
            except FileNotFoundError:
                continue  # collected between the two calls
        break
    # Not only where this call made them: whoever made them may not have come to syncing them yet.
    for folder in (target.parent, target.parent.parent, root):
        sync_folder(folder)
    return target, digest


def _make_folder(folder: Path, within: Path | None = None) -> None:
    """Make the folder and those above it, as far as `within`, each with its name durable in the one above."""
    if folder == within:
        # A store that went away while it was written to must not be begun anew in its place, nor in the empty folder
        # that an unmounted file system leaves there.
        if not is_store(folder) and not (folder / "staging").is_dir():
            raise FileNotFoundError(ENOENT, "no store lies there (any more)", str(folder))
        return
    if folder.is_dir():
        return
    _make_folder(folder.parent, within)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's names durable: a file's own fsync does not."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_pieces(file: BinaryIO) -> Iterator[bytes]:
    """The rest of the file, a mebibyte at a time."""
    while piece := file.read(_PIECE):
        yield piece
