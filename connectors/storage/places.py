"""Which files may be opened: only regular ones, only inside a root, whatever links are put in the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from connectors.errors import BlobMissing, ReferenceRefused, StoreUnavailable
from fedqueue.blobs import path_of


@contextmanager
def finding(place: object) -> Iterator[None]:
    """Around opening what others named: a file that is not there is their mistake, not the store's."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(_as_uri(place)) from error
    except OSError as error:
        raise StoreUnavailable(f"{_as_uri(place)}: {error.strerror or error}") from error


@contextmanager
def working_in(place: object) -> Iterator[None]:
    """Around the store's own work: whatever the operating system says, trying again later may succeed."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{_as_uri(place)}: {error.strerror or error}") from error


def as_root(place: str | Path) -> Path:
    """A root given as a path or a `file://` URL, absolute. Raises: ValueError."""
    if isinstance(place, str) and "://" in place:
        return path_of(place)
    return Path(place).expanduser().absolute()


def without_query(uri: str) -> str:
    """The URI without what may be a signature, by which others could read or write."""
    return uri.partition("?")[0]


def locate(uri: str, roots: Sequence[Path]) -> tuple[Path, Path]:
    """(root, real path) of a reference from outside, the real path under the real root.

    Raises: ReferenceRefused, BlobMissing, StoreUnavailable.
    """
    try:
        path = path_of(uri)
    except ValueError as error:
        reason = f"{without_query(uri)!r} is not a file:///absolute/path"
        raise ReferenceRefused(f"only files are read here: {reason}") from error
    if ".." in path.parts or "\0" in str(path):
        raise ReferenceRefused(f"{uri!r} is not a plain path")
    for root in roots:
        # First by name alone: whether a file exists outside the roots is nobody's business.
        if not any(path.is_relative_to(base) for base in (root, root.resolve())):
            continue
        try:
            real = path.resolve(strict=True)
        except (NotADirectoryError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise ReferenceRefused(f"{uri!r} can't be followed to a file") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
                raise ReferenceRefused(f"{uri!r} can't be followed to a file") from error
            with finding(uri):
                raise
        if real.is_relative_to(root.resolve()):
            return root.resolve(), real
        raise ReferenceRefused(f"{uri!r} leads out of its root by a link")
    raise ReferenceRefused(f"{uri!r} lies under none of the configured roots")


def open_inside(root: Path, path: Path) -> int:
    """A descriptor for reading the regular file `path`, reached from `root` without following any link.

    Walked folder by folder: a link put in place after the path was resolved is refused, too.
    Raises: ReferenceRefused, FileNotFoundError, OSError.
    """
    parts = path.relative_to(root).parts
    if not parts or ".." in parts:
        raise ReferenceRefused(f"{path.as_uri()} is no file inside {root.as_uri()}")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = _open(part, os.O_DIRECTORY, folder, path)
            os.close(folder)
            folder = inner
        # Not blocking: opening a pipe would otherwise wait for a writer that never comes.
        file = _open(parts[-1], os.O_NONBLOCK, folder, path)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ReferenceRefused(f"{path.as_uri()} is not a regular file")
    return file


def open_file(root: Path, path: Path) -> BinaryIO:
    """The same as a file object. Raises: ReferenceRefused, BlobMissing, StoreUnavailable."""
    with finding(path):
        return os.fdopen(open_inside(root, path), "rb")


def _open(name: str, flags: int, folder: int, path: Path) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        # ELOOP: a link where none may be. ENOTDIR: a link or file amid the folders. ENXIO: a socket.
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise ReferenceRefused(f"{path.as_uri()} does not lead to a file through folders alone") from error
        raise


def _as_uri(place: object) -> str:
    return place.as_uri() if isinstance(place, Path) else str(place)
