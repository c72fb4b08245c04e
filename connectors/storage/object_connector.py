"""Model data in a bucket, read and written through a folder on this machine.

The bucket is the store: what is there is durable, and what rows name. The folder holds copies of what was used lately,
so that a round maps its updates as it does in a store of files; it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from connectors.errors import BlobMissing, ModelDataError, ReferenceRefused, StoreMisconfigured, StoreUnavailable
from connectors.model_data import Array, BaseModelDataConnector, TensorReader, TensorWriter
from connectors.records import BlobRef, DataFormat, FederatedModel, ModelUpdate, ReasonCode, TensorSpec
from connectors.storage.bucket_garbage import BucketGarbage
from connectors.storage.cache import BlobCache
from connectors.storage.file_connector import FileModelDataConnector
from connectors.storage.garbage import is_digest
from connectors.storage.limits import Limits
from connectors.storage.places import without_query
from fedqueue.blobs import STORE_MARK, blob_path
from fedqueue.buckets import (
    INCOMING,
    Bucket,
    BucketMisconfigured,
    BucketUnavailable,
    ObjectMissing,
    blob_key,
    is_bucket,
    key_in,
)

T = TypeVar("T")

_MARK_TEXT: Final = b"A store of fedqueue's. Where this object is missing, the store is taken to be away.\n"
# A copy that another process drops between its fetch and its opening is fetched again.
_TRIES: Final = 3


class ObjectModelDataConnector(BaseModelDataConnector):
    """A store under one bucket URL; references from outside are copied in from `outside_roots` and `URL/incoming/`."""

    def __init__(
        self,
        url: str,
        *,
        cache: str | Path,
        cache_bytes: int,
        outside_roots: Sequence[str | Path] = (),
        limits: Limits | None = None,
        named: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """`outside_roots` are bucket URLs, or folders of this machine. Connects to nothing yet.

        `cache` is the folder of copies, and `cache_bytes` what it may hold besides what is in use.
        `named` gives digests that the database names, the newest few: with it a store that is away is told from a new
        one. Raises: ValueError.
        """
        self._limits = limits or Limits()
        self._bucket = Bucket(url)
        self._prompt = Bucket(url, is_prompt=True)
        self._files = FileModelDataConnector(cache, outside_roots=outside_roots, limits=self._limits)
        self._cache = BlobCache(self._files.root, cache_bytes)
        self._garbage = BucketGarbage(self._bucket)
        self._named = named
        self._was_there = False

    # --- FMA's contract -------------------------------------------------------------------------------------------

    def pull_model_updates_data(
        self, model_updates: Iterable[ModelUpdate]
    ) -> Iterator[tuple[ModelUpdate, TensorReader]]:
        """Each update with a reader of its data. Raises: ModelDataError naming the update, StoreUnavailable."""
        for update in model_updates:
            if update.data is not None:
                self._have(update.data)
            yield from self._files.pull_model_updates_data([update])

    def prep_model_data_for_storage(self, data: Any, data_format: DataFormat) -> bytes:
        """As of a store of files. Raises: ModelDataError."""
        return self._files.prep_model_data_for_storage(data, data_format)

    def push_model_data_to_storage(self, model: FederatedModel, data: bytes) -> BlobRef:
        """Store the bytes under their digest, durable before this returns. Raises: ModelDataError (TOO_LARGE)."""
        return self._store(self._files.push_model_data_to_storage(model, data))

    # --- streams --------------------------------------------------------------------------------------------------

    def take_in(self, uri: str, digest: str | None) -> BlobRef:
        """The bytes behind a reference, in the store under their digest from now on.

        Raises: ReferenceRefused, BlobMissing, ModelDataError (CORRUPT, TOO_LARGE), StoreUnavailable.
        """
        if digest is not None and not is_digest(digest):
            raise ReferenceRefused(f"{digest!r} is not a sha256 in hexadecimal")
        key = self._own_key(uri)
        if key is None:
            if not uri.startswith("file:") and not is_bucket(uri):
                raise ReferenceRefused(f"{without_query(uri)!r} lies under none of the configured roots")
            with self._working(uri):  # the same bucket as the store's may hold it, and be away
                found = self._files.take_in(uri, digest)
            return self._store(found)
        if not key.startswith(INCOMING):
            return self._take_own(key, uri, digest)
        try:
            with self._working(uri):
                size = self._bucket.head(key).size
                self._check_size(size)
                path = self._cache.keep(self._bucket.read(key), digest, self._limits.max_bytes)
        except BlobMissing as missing:
            if digest is None:
                raise
            # Whoever took it in before may have been killed before its row was written.
            try:
                return self._take_own(blob_key(digest), self._bucket.uri_of(blob_key(digest)), digest)
            except BlobMissing:
                raise missing from None
        stored = self._store(BlobRef(path.as_uri(), path.name, size))
        if digest is not None:
            # Without a digest nobody would find it again who comes a second time: it is left to garbage collection.
            with self._working(uri):
                self._bucket.delete(key)
        return stored

    def normalise(self, ref: BlobRef, data_format: DataFormat) -> BlobRef:
        """`ref`, or of numpy's files a safetensors blob of the same tensors.

        Raises: ModelDataError, BlobMissing, StoreUnavailable.
        """
        found = self._reading(ref, lambda: self._files.normalise(ref, data_format))
        return ref if found.digest == ref.digest else self._store(found)

    def open(self, ref: BlobRef, data_format: DataFormat) -> TensorReader:
        """A reader of the stored model. Raises: ModelDataError, BlobMissing, StoreUnavailable."""
        return self._reading(ref, lambda: self._files.open(ref, data_format))

    def pull_bytes(self, ref: BlobRef, limit: int) -> bytes:
        """The stored bytes, `limit` at most. Raises: ModelDataError (TOO_LARGE), BlobMissing, StoreUnavailable."""
        return self._reading(ref, lambda: self._files.pull_bytes(ref, limit))

    @contextmanager
    def writer(
        self, tensors: Sequence[TensorSpec], data_format: DataFormat, metadata: Mapping[str, str] | None = None
    ) -> Iterator[TensorWriter]:
        """A writer for a model of those tensors; left without `commit()`, it leaves nothing behind."""
        with self._files.writer(tensors, data_format, metadata) as staged:
            yield _StoredWriter(staged, self._store)

    def hold(self, ref: BlobRef) -> None:
        """Keep garbage collection from the blob until a row names it.

        Raises: StoreUnavailable, also if it was collected meanwhile.
        """
        try:
            with self._working(ref.uri):
                # A model's row is locked: a store that is away must not keep everybody else from it for a minute.
                BucketGarbage(self._prompt).renew(ref.digest)
                self._prompt.head(blob_key(ref.digest))
        except BlobMissing as error:
            raise StoreUnavailable(f"{ref.uri} was collected meanwhile") from error

    def collect_garbage(self, older_than_seconds: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> int:
        """Take blobs out of the store that are older than that and that `is_named(digests)` does not keep; how many.

        Raises: StoreUnavailable.
        """
        with self._working(self._bucket.url):
            return self._garbage.collect(older_than_seconds, is_named)

    def check(self) -> None:
        """Return if an object can be written, read back and deleted. Raises: StoreUnavailable."""
        key = f"checks/{uuid4()}"
        with self._working(self._bucket.url):
            self._bucket.put(key, b"fedqueue")
            found = b"".join(self._bucket.read(key))
            self._bucket.delete(key)
        if found != b"fedqueue":
            raise StoreUnavailable(f"{self._bucket.url} does not give back what was written")

    # --- signed URLs ----------------------------------------------------------------------------------------------

    def sign_upload(self, seconds: float) -> tuple[str, str]:
        """(a URL that takes a PUT for so long, the reference to name in a submission). Raises: StoreUnavailable."""
        key = f"{INCOMING}/{uuid4()}"
        with self._working(self._bucket.url):
            return self._bucket.sign("PUT", key, seconds), self._bucket.uri_of(key)

    def sign_download(self, ref: BlobRef, seconds: float) -> str:
        """A URL by which the blob may be read for so long. Raises: StoreUnavailable."""
        with self._working(ref.uri):
            return self._bucket.sign("GET", blob_key(ref.digest), seconds)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _own_key(self, uri: str) -> str | None:
        """The key of a blob or an upload of the store's; None if it lies elsewhere. Raises: ReferenceRefused."""
        key = key_in(self._bucket.url, uri)
        if key is not None:
            digest = key.rpartition("/")[2]
            if not key.startswith(f"{INCOMING}/") and (not is_digest(digest) or key != blob_key(digest)):
                raise ReferenceRefused(f"{without_query(uri)!r} is not a blob of the store")
        return key

    def _take_own(self, key: str, uri: str, digest: str | None) -> BlobRef:
        """A blob of the store's own, read anew and held to its digest."""
        own = key.rpartition("/")[2]
        if digest not in (None, own):
            raise ModelDataError(ReasonCode.CORRUPT, f"{uri} has digest {own}, not {digest}")
        with self._working(uri):
            size = self._bucket.head(key).size
            self._check_size(size)
            # Before the long read: garbage collection leaves it alone from here on.
            self._garbage.renew(own)
            self._cache.keep(self._bucket.read(key), own, self._limits.max_bytes)
        return BlobRef(uri, own, size)

    def _store(self, ref: BlobRef) -> BlobRef:
        """What lies in the folder, in the bucket."""
        with self._working(self._bucket.url):
            path = blob_path(self._files.root, ref.digest)
            if self._bucket.put_blob(path, ref.digest):
                self._garbage.renew(ref.digest)
            self._cache.added(ref.size_bytes)
        return BlobRef(self._bucket.uri_of(blob_key(ref.digest)), ref.digest, ref.size_bytes)

    def _have(self, ref: BlobRef) -> None:
        """A copy of the blob on this machine."""
        if not is_digest(ref.digest):
            raise BlobMissing(ref.uri)
        with self._working(ref.uri):
            if self._cache.find(ref.digest) is None:
                key = blob_key(ref.digest)
                self._check_size(self._bucket.head(key).size)
                self._cache.keep(self._bucket.read(key), ref.digest, self._limits.max_bytes)

    def _reading(self, ref: BlobRef, read: Callable[[], T]) -> T:
        for _ in range(_TRIES):
            self._have(ref)
            try:
                return read()
            except BlobMissing:
                continue  # dropped from the folder in between
        raise StoreUnavailable(f"{self._files.root}: copies of blobs are deleted as fast as they are fetched")

    @contextmanager
    def _working(self, uri: str) -> Iterator[None]:
        """Around what is done in the bucket: a blob is missing only from a store that is there."""
        try:
            self._check_mark()
            try:
                yield
            except (ObjectMissing, BlobMissing) as error:
                self._was_there = False
                self._check_mark()  # it may have gone since
                digest = uri.rpartition("/")[2]
                if is_digest(digest) and self._garbage.bring_back(digest):
                    raise StoreUnavailable(f"{uri} was out of reach: garbage collection looked at it") from error
                raise BlobMissing(uri) from error
        except BucketMisconfigured as error:
            raise StoreMisconfigured(str(error)) from error
        except BucketUnavailable as error:
            raise StoreUnavailable(str(error)) from error
        except OSError as error:
            raise StoreUnavailable(f"{self._files.root}: {error.strerror or error}") from error

    def _check_mark(self) -> None:
        """Return if the store is there: marked, or new. Raises: StoreUnavailable, BucketUnavailable."""
        if self._was_there:
            return
        if not self._holds(STORE_MARK):
            named = [] if self._named is None else list(self._named())
            if named and not any(self._holds(blob_key(digest)) for digest in named):
                raise StoreUnavailable(
                    f"{self._bucket.url} is away: it holds neither the object {STORE_MARK} nor any blob that the "
                    "database names; should it be lost for good, put that object into a new bucket: its updates fail"
                )
            self._bucket.put(STORE_MARK, _MARK_TEXT)
        self._was_there = True

    def _holds(self, key: str) -> bool:
        try:
            self._bucket.head(key)
        except ObjectMissing:
            return False
        return True

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise ModelDataError(ReasonCode.TOO_LARGE, f"{size} bytes, the limit is {self._limits.max_bytes}")


@dataclass
class _StoredWriter:
    """A writer into the folder, whose commit is one into the bucket."""

    staged: TensorWriter
    store: Callable[[BlobRef], BlobRef]

    def write(self, name: str, start: int, values: Array) -> None:
        """As of any writer."""
        self.staged.write(name, start, values)

    def commit(self) -> BlobRef:
        """Make it durable under its digest and say where it is."""
        writer = self.staged
        return self.store(writer.commit())
