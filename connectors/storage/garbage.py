"""Delete what no row names: blobs of lost rounds and refused submissions, and files that a crash left in staging."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import islice
from pathlib import Path

from fedqueue.blobs import blob_path

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BATCH = 500
_ASIDE = "collected-"


def is_digest(text: str) -> bool:
    """Whether it is a sha256 as blobs are named by."""
    return _DIGEST.fullmatch(text) is not None


def collect_blobs(root: Path, older_than_seconds: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> int:
    """Delete the blobs older than that which `is_named` does not keep; how many. Raises: OSError.

    Whoever stores bytes that are there already sets the blob's clock anew before a row names it; so a blob is
    looked at again after it was taken out of the readers' way, and put back if its clock has moved.
    """
    for aside in _files_in(root / "staging"):
        # Left by a collector that was killed before it had looked again.
        digest = aside.name.removeprefix(_ASIDE)
        if aside.name.startswith(_ASIDE) and is_digest(digest):
            blob_path(root, digest).parent.mkdir(parents=True, exist_ok=True)
            _put_back(aside, blob_path(root, digest))
            aside.unlink(missing_ok=True)
    before = time.time() - older_than_seconds
    old = _old_blobs(root, before)
    deleted = 0
    while batch := list(islice(old, _BATCH)):
        for digest in sorted(set(batch) - is_named(batch)):
            deleted += _delete_unless_renewed(root, digest, before)
    return deleted


def was_out_of_reach(root: Path, digest: str) -> bool:
    """Whether a blob that was not found may be there all the same: a collector has taken it aside, or put it back."""
    # In this order: it is put back before it is aside no more.
    return is_digest(digest) and ((root / "staging" / (_ASIDE + digest)).exists() or blob_path(root, digest).exists())


def clear_staging(root: Path, older_than_seconds: float) -> int:
    """Delete staged files that nobody has written to for that long; how many. Raises: OSError."""
    before = time.time() - older_than_seconds
    deleted = 0
    for path in _files_in(root / "staging"):
        if _modified(path) < before:
            path.unlink(missing_ok=True)
            deleted += 1
    return deleted


def _old_blobs(root: Path, before: float) -> Iterator[str]:
    for folder in sorted(_entries(root / "sha256")):
        for path in _files_in(folder):
            # Anything else that lies here was not made by the store, and is not the store's to delete.
            if is_digest(path.name) and path == blob_path(root, path.name) and _modified(path) < before:
                yield path.name


def _delete_unless_renewed(root: Path, digest: str, before: float) -> bool:
    blob = blob_path(root, digest)
    aside = root / "staging" / (_ASIDE + digest)
    aside.parent.mkdir(exist_ok=True)
    try:
        blob.rename(aside)
    except FileNotFoundError:
        return False
    renewed = _modified(aside) >= before
    if renewed:
        _put_back(aside, blob)
    aside.unlink(missing_ok=True)
    return not renewed


def _put_back(aside: Path, blob: Path) -> None:
    # One that exists was stored anew in between; an aside that doesn't was put back by another collector.
    with suppress(FileExistsError, FileNotFoundError):
        os.link(aside, blob)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _files_in(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (Path(name) for name in names)


def _modified(path: Path) -> float:
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return float("inf")
