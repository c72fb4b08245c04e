"""Object stores: blobs in a bucket, under the same names as in a folder.

Part of the wire contract (docs/decisions/0010): a blob lies at `URL/sha256/ab/abcdef…`, named by the sha256 of its
bytes; what clients put there by signed URLs lies under `URL/incoming/` until the hub has judged it. Needs `obstore`
(`pip install fedqueue[objects]`), which takes credentials, region and endpoint from the provider's own environment
variables (AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT, …, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_NAME, …).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

SCHEMES: Final = ("s3", "gs", "az")
_PROVIDERS: Final = ("AWS", "GOOGLE", "AZURE")
INCOMING: Final = "incoming"

# Larger files go up in parts, which many stores can't make conditional; one that is there already has the same bytes.
_ONE_PART_BYTES: Final = 5 << 20
_PIECE_BYTES: Final = 8 << 20
# Of each request. A store that gives no sign of life for so long is away.
_TIMEOUT: Final = timedelta(seconds=30)
_RETRIES: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}

# What a key is made of here. Anything else could be spelt in two ways, and mean two things to two programs.
_KEY = re.compile(r"[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*")
_URL = re.compile(r"([a-z0-9]+)://([A-Za-z0-9.-]+)((?:/[A-Za-z0-9._=-]+)*)/?")


class BucketUnavailable(Exception):
    """The store did not do what it was asked to; the same call may succeed later."""


class ObjectMissing(Exception):
    """There is no object of that key, or no bucket."""


@dataclass(frozen=True)
class ObjectFacts:
    """What a bucket tells of an object."""

    key: str
    size: int
    modified: datetime


def check_bucket_url(url: str) -> str:
    """The URL without a slash at its end. Raises: ValueError."""
    match = _URL.fullmatch(url)
    if match is None or match[1] not in SCHEMES:
        raise ValueError(f"must be like s3://bucket or s3://bucket/folder, of {', '.join(SCHEMES)}")
    if any(part in (".", "..") for part in match[3].split("/")):
        raise ValueError("must not hold . or .. as a folder")
    return url.rstrip("/")


def is_bucket(url: str) -> bool:
    """Whether it names an object store."""
    return url.partition("://")[0] in SCHEMES


def blob_key(digest: str) -> str:
    """Where the blob of that digest lies under a store's URL."""
    return f"sha256/{digest[:2]}/{digest}"


def key_in(url: str, uri: str) -> str | None:
    """The key of an object under that URL; None if it lies elsewhere or is spelt in a way that no object here is."""
    if not uri.startswith(url + "/"):
        return None
    key = uri[len(url) + 1 :]
    if _KEY.fullmatch(key) is None or any(part in (".", "..") for part in key.split("/")):
        return None
    return key


class Bucket:
    """One URL's objects. Connects when it is first used: what obstore runs on does not survive a fork."""

    def __init__(self, url: str) -> None:
        """Raises: ValueError."""
        self.url = check_bucket_url(url)
        self._guard = threading.Lock()
        self._store: Any = None

    def uri_of(self, key: str) -> str:
        """How others name it."""
        return f"{self.url}/{key}"

    def head(self, key: str) -> ObjectFacts:
        """Raises: ObjectMissing, BucketUnavailable."""
        with self._working(key) as (obstore, store):
            facts = obstore.head(store, key)
        return ObjectFacts(key, int(facts["size"]), facts["last_modified"])

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes in pieces of some mebibytes. Raises: ObjectMissing, BucketUnavailable."""
        size = self.head(key).size
        for start in range(0, size, _PIECE_BYTES):
            # A request of its own for each: none takes long, and one that fails is tried again by itself.
            with self._working(key) as (obstore, store):
                piece = obstore.get_range(store, key, start=start, end=min(start + _PIECE_BYTES, size))
            yield bytes(piece)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object, in the place of whatever is there. Raises: BucketUnavailable."""
        with self._writing(key) as (obstore, store):
            obstore.put(store, key, data)

    def put_blob(self, path: Path, digest: str) -> bool:
        """Have the file's bytes under their digest, whole or not at all; whether they were there before.

        Raises: BucketUnavailable.
        """
        key, size = blob_key(digest), path.stat().st_size
        try:
            if self.head(key).size == size:
                return True
        except ObjectMissing:
            pass
        with self._writing(key) as (obstore, store), path.open("rb") as file:
            if size > _ONE_PART_BYTES:
                obstore.put(store, key, file)
                return False
            try:
                obstore.put(store, key, file.read(), mode="create")
            except obstore.exceptions.AlreadyExistsError:
                return True
        return False

    def move(self, key: str, to: str) -> None:
        """Raises: ObjectMissing, BucketUnavailable."""
        with self._working(key) as (obstore, store):
            obstore.copy(store, key, to)
            obstore.delete(store, key)

    def delete(self, key: str) -> None:
        """It may be gone already. Raises: BucketUnavailable."""
        try:
            with self._working(key) as (obstore, store):
                obstore.delete(store, key)
        except ObjectMissing:
            pass

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        """All objects under it. Raises: BucketUnavailable, ObjectMissing if there is no bucket."""
        with self._working(prefix) as (obstore, store):
            pages = iter(obstore.list(store, prefix))
        while True:
            with self._working(prefix):
                page = next(pages, None)
            if page is None:
                return
            for facts in page:
                yield ObjectFacts(facts["path"], int(facts["size"]), facts["last_modified"])

    def sign(self, method: str, key: str, seconds: float) -> str:
        """A URL by which anybody may GET or PUT that object for so long. Raises: BucketUnavailable."""
        with self._working(key) as (obstore, store):
            return str(obstore.sign(store, method, key, timedelta(seconds=seconds)))

    @contextmanager
    def _writing(self, key: str) -> Iterator[tuple[Any, Any]]:
        try:
            with self._working(key) as connected:
                yield connected
        except ObjectMissing as error:
            raise BucketUnavailable(f"{self.url} can't be written: there is no such bucket") from error

    @contextmanager
    def _working(self, key: str) -> Iterator[tuple[Any, Any]]:
        obstore = _obstore()
        try:
            yield obstore, self._connected(obstore)
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.url}/{key} is not there") from error
        except obstore.exceptions.AlreadyExistsError:
            raise
        except (obstore.exceptions.BaseError, OSError) as error:
            # Its own words go on for pages of debugging.
            raise BucketUnavailable(f"{self.url}/{key}: {str(error).splitlines()[0][:500]}") from error

    def _connected(self, obstore: Any) -> Any:
        with self._guard:
            if self._store is None:
                options: dict[str, Any] = {"timeout": _TIMEOUT, "connect_timeout": timedelta(seconds=10)}
                # Options given here keep obstore from reading the provider's own word for it.
                allowed = any(os.environ.get(f"{name}_ALLOW_HTTP", "").lower() in ("1", "true") for name in _PROVIDERS)
                options |= {"allow_http": allowed}
                self._store = obstore.store.from_url(self.url, client_options=options, retry_config=_RETRIES)
            return self._store


# The process in which obstore began its threads.
_began_in = 0


def _obstore() -> Any:
    global _began_in  # a fact of the process, as obstore's threads are
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise BucketUnavailable("object stores need obstore: pip install fedqueue[objects]") from error
    _began_in = _began_in or os.getpid()
    if _began_in != os.getpid():
        # It would wait for ever for threads that stayed in the parent.
        raise BucketUnavailable(
            "this process was forked from one that had used an object store, which obstore does not survive: use it "
            "only after the fork, or start processes by spawn"
        )
    return obstore
