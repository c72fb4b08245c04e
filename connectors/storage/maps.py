"""Files mapped into memory, a bounded number at once.

Every map holds a file descriptor. A round over ten thousand updates would run out of them, so the map unused longest
is let go and made anew when it is asked for: cheap, as the bytes stay in the page cache.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from pathlib import Path

from connectors.storage.places import finding, open_inside


class OpenMaps:
    """The maps of one store, by digest. Safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._maps: OrderedDict[Path, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, root: Path, path: Path) -> mmap.mmap:
        """The whole file, read-only; it must not be empty. Raises: BlobMissing, ReferenceRefused, StoreUnavailable.

        Arrays made on a map keep it alive after it was let go here.
        """
        with self._lock:
            found = self._maps.get(path)
            if found is None:
                found = _map_file(root, path)
                self._maps[path] = found
                if len(self._maps) > self._limit:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(path)
            return found

    def drop(self, path: Path) -> None:
        """Let go of the file, if it is mapped."""
        with self._lock:
            self._maps.pop(path, None)


def _map_file(root: Path, path: Path) -> mmap.mmap:
    with finding(path):
        file = open_inside(root, path)
        try:
            return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
