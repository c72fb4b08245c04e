"""Copies of a bucket's blobs in a folder of this machine, under the names that they have in a store of files.

Any of them may be deleted at any time: whoever has one mapped keeps its bytes, whoever comes later fetches it anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from connectors.errors import ModelDataError
from connectors.records import ReasonCode
from fedqueue.blobs import blob_path, keep_blob, new_blob

# How much may be added before the folder is looked through again, as a share of what it may hold.
_LOOK_SHARE = 16


class BlobCache:
    """The copies under `root`, `limit` bytes of them; those used longest ago go first."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._added = limit  # what other processes left is not known yet

    def find(self, digest: str) -> Path | None:
        """The copy, if it is there; used just now."""
        path = blob_path(self._root, digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def keep(self, pieces: Iterator[bytes], digest: str | None, max_bytes: int) -> Path:
        """The bytes in the folder, named by their digest.

        Raises: ModelDataError (CORRUPT: other bytes than `digest` says; TOO_LARGE), OSError.
        """
        hashed, size = hashlib.sha256(), 0
        with new_blob(self._root) as file:
            for piece in pieces:
                size += len(piece)
                if size > max_bytes:
                    raise ModelDataError(ReasonCode.TOO_LARGE, f"more than {max_bytes} bytes, the limit")
                hashed.update(piece)
                file.write(piece)
            found = hashed.hexdigest()
            if digest is not None and found != digest:
                raise ModelDataError(
                    ReasonCode.CORRUPT, f"the data has digest {found}, not {digest}: other bytes than were sent"
                )
            path, _ = keep_blob(self._root, file, found)
        self.added(size)
        return path

    def added(self, size: int) -> None:
        """So many bytes more: copies used longest ago are deleted until the rest is within the limit."""
        self._added += size
        if self._added * _LOOK_SHARE < self._limit:
            return
        self._added = 0
        copies = []
        for path in (self._root / "sha256").glob("*/*"):
            with suppress(FileNotFoundError):
                facts = path.stat(follow_symlinks=False)
                copies.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies, key=lambda copy: copy[0])[:-1]:  # the newest is about to be used
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size
