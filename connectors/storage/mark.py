"""Whether the store is there at all: a small file in it tells a store that is away from one that lacks a blob.

A folder that is not mounted looks like a store without any blob. Taken for one, it would condemn updates whose data
is safe, and what was written into it would be gone as soon as the store is mounted over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from connectors.errors import StoreUnavailable
from connectors.storage.places import working_in
from fedqueue.blobs import STORE_MARK, blob_path, sync_folder

_TEXT: Final = b"A store of fedqueue's. Where this file is missing, the store is taken to be away.\n"


class StoreMark:
    """The mark of the store at `root`. `named()`: digests that the database names, a few of its newest."""

    def __init__(self, root: Path, named: Callable[[], Collection[str]]) -> None:
        self._root = root
        self._named = named

    def check(self) -> None:
        """Return if the store is there: marked, made before there were marks, or new.

        Raises: StoreUnavailable, and what `named` raises.
        """
        with working_in(self._root):
            if _is_there(self._root / STORE_MARK):
                return
        # The database remembers whether anything was ever stored. A mark made whenever there is none would be made in
        # the very folder that something else ought to be mounted on.
        named = self._named()
        with working_in(self._root):
            if named and not any(_is_there(blob_path(self._root, digest)) for digest in named):
                raise StoreUnavailable(
                    f"{self._root.as_uri()} is away: it holds neither the file {STORE_MARK} nor any blob that the "
                    "database names; should it be lost for good, make that file in a new folder: its updates will fail"
                )
            self._make()

    def _make(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # made by somebody else in this moment
            handle = os.open(self._root / STORE_MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, _TEXT)
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(self._root)


def _is_there(path: Path) -> bool:
    try:
        path.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
