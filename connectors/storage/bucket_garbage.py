"""Delete what no row names from a bucket, which knows neither links nor a clock that can be set anew.

In place of both: whoever stores bytes that are there already, or is about to name them in a row, leaves a small object
`held/DIGEST` whose age counts as the blob's. A blob is moved to `trash/` first and looked at again; there it stays for
as long as a blob must be old to be collected, and whoever misses it meanwhile moves it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from connectors.storage.garbage import is_digest
from fedqueue.buckets import INCOMING, Bucket, ObjectFacts, ObjectMissing, blob_key

_BATCH: Final = 500
_HELD: Final = "held"
_TRASH: Final = "trash"
_CHECKS: Final = "checks"


class BucketGarbage:
    """The collector of one bucket's URL, and what others do so that it spares theirs. All raise: BucketUnavailable."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def renew(self, digest: str) -> None:
        """From now on the blob is as if it were stored anew."""
        self._bucket.put(f"{_HELD}/{digest}", b"")

    def bring_back(self, digest: str) -> bool:
        """Whether a blob that was not found is there again: a collector had taken it aside."""
        try:
            self._bucket.move(f"{_TRASH}/{digest}", blob_key(digest))
        except ObjectMissing:
            # Another one may have brought it back in between.
            return self._is_there(blob_key(digest))
        return True

    def collect(self, older_than_seconds: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> int:
        """Take blobs aside that are older than that and that `is_named(digests)` does not keep; how many.

        What was taken aside so long ago, what clients left under `incoming/` and what served its time goes for good.
        """
        before = time.time() - older_than_seconds
        self._empty_trash(before, is_named)
        deleted = 0
        old = (blob.key.rpartition("/")[2] for blob in self._blobs() if blob.modified.timestamp() < before)
        while batch := list(islice(old, _BATCH)):
            for digest in sorted(set(batch) - is_named(batch)):
                deleted += self._take_aside(digest, before, is_named)
        for prefix in (INCOMING, _CHECKS, _HELD):
            for left in self._bucket.list(prefix):
                if left.modified.timestamp() < before:
                    self._bucket.delete(left.key)
        return deleted

    def _blobs(self) -> Iterator[ObjectFacts]:
        for found in self._bucket.list("sha256"):
            digest = found.key.rpartition("/")[2]
            # Anything else that lies here was not made by the store, and is not the store's to delete.
            if is_digest(digest) and found.key == blob_key(digest):
                yield found

    def _take_aside(self, digest: str, before: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> bool:
        if self._held_since(digest) >= before:
            return False
        try:
            self._bucket.move(blob_key(digest), f"{_TRASH}/{digest}")
        except ObjectMissing:
            return False
        if self._held_since(digest) >= before or digest in is_named([digest]):
            self.bring_back(digest)
            return False
        return True

    def _empty_trash(self, before: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> None:
        aside = self._bucket.list(_TRASH)
        while batch := list(islice(aside, _BATCH)):
            named = is_named([found.key.rpartition("/")[2] for found in batch])
            for found in batch:
                digest = found.key.rpartition("/")[2]
                if digest in named:
                    self.bring_back(digest)  # its collector was killed before it had looked again
                elif found.modified.timestamp() < before:
                    self._bucket.delete(found.key)

    def _held_since(self, digest: str) -> float:
        try:
            return self._bucket.head(f"{_HELD}/{digest}").modified.timestamp()
        except ObjectMissing:
            return 0.0

    def _is_there(self, key: str) -> bool:
        try:
            self._bucket.head(key)
        except ObjectMissing:
            return False
        return True
