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
_PROVIDERS: Final = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# Some stores take no more parts than this.
_MOST_PARTS: Final = 10_000
INCOMING: Final = "incoming"

# Larger files go up in parts, which many stores can't make conditional; one that is there already has the same bytes.
_ONE_PART_BYTES: Final = 5 << 20
_PIECE_BYTES: Final = 8 << 20
# Of each request. A store that gives no sign of life for so long is away.
_TIMEOUT: Final = timedelta(seconds=30)
_CONNECT_TIMEOUT: Final = timedelta(seconds=10)
_RETRIES: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=60)}
# For what is done while somebody waits for a lock.
_PROMPT_TIMEOUT: Final = timedelta(seconds=3)
_PROMPT_RETRIES: Final = {"max_retries": 1, "retry_timeout": timedelta(seconds=3)}
# How often in a row a reading may break off with nothing read.
_BREAKS: Final = 3

# What a key is made of here. Anything else could be spelt in two ways, and mean two things to two programs.
_KEY = re.compile(r"[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*")
# A provider's token may travel in the query of each request, which errors quote.
_QUERY = re.compile(r"\?[^\s\"')]+")
_URL = re.compile(r"([a-z0-9]+)://([A-Za-z0-9.-]+)((?:/[A-Za-z0-9._=-]+)*)/?")


class BucketUnavailable(Exception):
    """The store did not do what it was asked to; the same call may succeed later."""


class BucketMisconfigured(BucketUnavailable):
    """There is no such bucket, it refuses access, or its provider's variables are wrong: its owner must act."""


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

    def __init__(self, url: str, *, is_prompt: bool = False) -> None:
        """`is_prompt`: it gives up within seconds where the store is away. Raises: ValueError."""
        self.url = check_bucket_url(url)
        self._is_prompt = is_prompt
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
        size, start, breaks = self.head(key).size, 0, 0
        while start < size:
            try:
                for piece in self._read_on(key, start, size):
                    yield piece
                    start, breaks = start + len(piece), 0
            except BucketUnavailable:
                # A large object takes longer than one request may: it goes on from here.
                breaks += 1
                if breaks > _BREAKS:
                    raise

    def _read_on(self, key: str, start: int, end: int) -> Iterator[bytes]:
        with self._working(key) as (obstore, store):
            found = obstore.get(store, key, options={"range": (start, end)})
            for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object, in the place of whatever is there. Raises: BucketUnavailable."""
        with self._writing(key) as (obstore, store):
            obstore.put(store, key, data)

    def put_blob(self, path: Path, digest: str) -> bool:
        """Have the file's bytes under their digest, whole or not at all; whether they were there before.

        Raises: BucketUnavailable.
        """
        key = blob_key(digest)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            mode = "create"
            try:
                if self.head(key).size == size:
                    return True
                mode = "overwrite"  # what is there can't be these bytes
            except ObjectMissing:
                pass
            with self._writing(key) as (obstore, store):
                if size > _ONE_PART_BYTES:
                    obstore.put(store, key, file, chunk_size=max(_ONE_PART_BYTES, -(-size // _MOST_PARTS)))
                    return False
                try:
                    obstore.put(store, key, file.read(), mode=mode)
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
            raise BucketMisconfigured(f"{self.url} can't be written: there is no such bucket") from error

    @contextmanager
    def _working(self, key: str) -> Iterator[tuple[Any, Any]]:
        obstore = _obstore()
        try:
            yield obstore, self._connected(obstore)
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.url}/{key} is not there") from error
        except obstore.exceptions.AlreadyExistsError:
            raise
        except (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError) as error:
            raise BucketMisconfigured(
                f"{self.url} refuses access: see to {self._variables}, and to what they may do ({_words_of(error)})"
            ) from error
        except (obstore.exceptions.BaseError, OSError) as error:
            raise BucketUnavailable(f"{self.url}/{key}: {_words_of(error)}") from error

    @property
    def _variables(self) -> str:
        return _PROVIDERS[self.url.partition("://")[0]]

    def _connected(self, obstore: Any) -> Any:
        with self._guard:
            if self._store is None:
                timeout = _PROMPT_TIMEOUT if self._is_prompt else _TIMEOUT
                options: dict[str, Any] = {"timeout": timeout, "connect_timeout": min(timeout, _CONNECT_TIMEOUT)}
                # Options given here keep obstore from reading the provider's own word for it.
                names = ("AWS", "GOOGLE", "AZURE")
                allowed = any(os.environ.get(f"{name}_ALLOW_HTTP", "").lower() in ("1", "true") for name in names)
                options |= {"allow_http": allowed}
                retries = _PROMPT_RETRIES if self._is_prompt else _RETRIES
                try:
                    self._store = obstore.store.from_url(self.url, client_options=options, retry_config=retries)
                except (obstore.exceptions.BaseError, ValueError) as error:
                    raise BucketMisconfigured(
                        f"{self.url} can't be reached: {_words_of(error)}; see to {self._variables}"
                    ) from error
            return self._store


def _words_of(error: Exception) -> str:
    """An error's first line, for people: the others are for the provider's own programmers."""
    return _QUERY.sub("?…", str(error).splitlines()[0])[:500]


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
