"""Model data in a folder: content-addressed, never overwritten, on disk before anyone is told of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from connectors.errors import BlobMissing, ModelDataError, ReferenceRefused, StoreUnavailable
from connectors.model_data import Array, BaseModelDataConnector, TensorReader, TensorWriter
from connectors.records import BlobRef, DataFormat, FederatedModel, ModelUpdate, ReasonCode, TensorSpec
from connectors.storage.dtypes import NAMES, NUMPY_DTYPES
from connectors.storage.fma_json import check_fma_names, fma_json_of, format_fma_json
from connectors.storage.garbage import clear_staging, collect_blobs, is_digest, was_out_of_reach
from connectors.storage.json_files import JsonReader, JsonWriter
from connectors.storage.limits import Limits
from connectors.storage.mark import StoreMark
from connectors.storage.model_files import is_safetensors
from connectors.storage.npz_files import NumpyReader, copy_tensors, is_numpy
from connectors.storage.places import as_root, finding, locate, open_file, without_query, working_in
from connectors.storage.safetensors_files import SafetensorsReader, SafetensorsWriter
from connectors.storage.safetensors_layout import LENGTH_BYTES, Headers, lay_out
from fedqueue.blobs import blob_path, keep_blob, new_blob, read_pieces
from fedqueue.buckets import Bucket, BucketUnavailable, ObjectMissing, is_bucket, key_in


class FileModelDataConnector(BaseModelDataConnector):
    """A store under one root folder; references from outside are copied in from `outside_roots` only.

    Blobs are mapped while they are read, so nobody else may cut files under `root` short.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        outside_roots: Sequence[str | Path] = (),
        limits: Limits | None = None,
        named: Callable[[], Collection[str]] | None = None,
    ) -> None:
        """`root` and `outside_roots` are paths or `file://` URLs, the latter also buckets' URLs.

        `named` gives digests that the database names, the newest few: with it a store that is away is told from one
        that lacks a blob, and none is made where one was (see StoreMark); without it, the folder is taken as it is.
        Raises: ValueError; StoreUnavailable without `named`, for with it nothing is touched before the first use.
        """
        self._limits = limits or Limits()
        root = as_root(root)
        with working_in(root):
            if named is None:
                root.mkdir(parents=True, exist_ok=True)
            self._root = root.resolve()
        self._mark = None if named is None else StoreMark(self._root, named)
        # The store under the name it was given, too: that is how references spell it where a link leads to it.
        self._own_roots = (root, self._root)
        buckets = [outside for outside in outside_roots if isinstance(outside, str) and is_bucket(outside)]
        self._outside_roots = tuple(as_root(outside) for outside in outside_roots if outside not in buckets)
        self._outside_buckets = [Bucket(outside) for outside in buckets]
        self._headers = Headers(self._limits)

    @property
    def root(self) -> Path:
        """Where the store lies, links resolved."""
        return self._root

    # --- FMA's contract -------------------------------------------------------------------------------------------

    def pull_model_updates_data(
        self, model_updates: Iterable[ModelUpdate]
    ) -> Iterator[tuple[ModelUpdate, TensorReader]]:
        """Each update with a reader of its data, the format found from its bytes. Closing readers is the caller's.

        Raises: ModelDataError naming the update, StoreUnavailable.
        """
        for update in model_updates:
            if update.data is None:
                raise ModelDataError(ReasonCode.CORRUPT, f"update {update.id} has no data")
            try:
                reader = self.open(update.data, self._find_format(update.data))
            except ModelDataError as error:
                raise ModelDataError(error.reason_code, f"update {update.id}: {error.reason}") from error
            yield update, reader

    def prep_model_data_for_storage(self, data: Any, data_format: DataFormat) -> bytes:
        """The bytes that are stored: of arrays by name, or of FMA's lists (also of arrays).

        Lists become float64 tensors in safetensors, arrays become float64 in JSON. Raises: ModelDataError.
        """
        arrays = _arrays_by_name(data) if isinstance(data, Mapping) else dict(fma_json_of(data, self._limits))
        if data_format is DataFormat.JSON:
            for name, array in arrays.items():
                if array.dtype == np.bool_:
                    raise ModelDataError(
                        ReasonCode.DTYPE, f"tensor {name!r} is of dtype BOOL: JSON holds numbers alone"
                    )
            wide = {name: array.astype(np.float64) for name, array in arrays.items()}
            check_fma_names([(name, array.shape, "F64") for name, array in wide.items()])
            return "".join(format_fma_json(wide)).encode()
        before_data, placed, _length = lay_out(
            [(name, array.shape, NAMES[array.dtype]) for name, array in arrays.items()]
        )
        return before_data + b"".join(arrays[tensor.spec[0]].tobytes() for tensor in placed)

    def push_model_data_to_storage(self, model: FederatedModel, data: bytes) -> BlobRef:  # noqa: ARG002  # FMA's signature
        """Store the bytes under their digest, durable before this returns. Raises: ModelDataError (TOO_LARGE)."""
        self._check_size(len(data))
        with self._there(), working_in(self._root), self._new_blob() as file:
            file.write(data)
            path, digest = keep_blob(self._root, file, hashlib.sha256(data).hexdigest())
        return BlobRef(path.as_uri(), digest, len(data))

    # --- streams --------------------------------------------------------------------------------------------------

    def take_in(self, uri: str, digest: str | None) -> BlobRef:
        """The bytes behind a reference, in the store under their digest from now on.

        What lies in the store already is read once, to check it; anything else is copied in from an outside root.
        Raises: ReferenceRefused, BlobMissing, ModelDataError (CORRUPT, TOO_LARGE), StoreUnavailable.
        """
        if digest is not None and not is_digest(digest):
            raise ReferenceRefused(f"{digest!r} is not a sha256 in hexadecimal")
        with self._there():
            return self._fetch(uri, digest) if is_bucket(uri) else self._take_in(uri, digest)

    def _fetch(self, uri: str, digest: str | None) -> BlobRef:
        for bucket in self._outside_buckets:
            key = key_in(bucket.url, uri)
            if key is not None:
                break
        else:
            raise ReferenceRefused(f"{without_query(uri)!r} lies under none of the configured roots")
        try:
            self._check_size(bucket.head(key).size)
            with working_in(self._root):
                return self._keep(uri, bucket.read(key), digest)
        except ObjectMissing as error:
            raise BlobMissing(uri) from error
        except BucketUnavailable as error:
            raise StoreUnavailable(str(error)) from error

    def _take_in(self, uri: str, digest: str | None) -> BlobRef:
        root, path = self._find(uri)
        in_store = root == self._root and is_digest(path.name) and path == blob_path(root, path.name)
        if root == self._root and not in_store and not self._is_outside(path):
            raise ReferenceRefused(f"{uri!r} is not a blob of the store")
        with open_file(root, path) as file, working_in(self._root):
            self._check_size(os.fstat(file.fileno()).st_size)
            if in_store:
                # Before the long read: garbage collection leaves it alone from here on.
                os.utime(file.fileno())
                size, found = self._copy(read_pieces(file), None)
                _check_digest(uri, found, path.name)
                _check_digest(uri, found, digest)
                if path.exists():
                    return BlobRef(path.as_uri(), found, size)
                file.seek(0)  # collected just before its clock was set anew: store the bytes again
            return self._keep(uri, read_pieces(file), digest)

    def _keep(self, uri: str, pieces: Iterator[bytes], digest: str | None) -> BlobRef:
        with self._new_blob() as staged:
            size, found = self._copy(pieces, staged)
            _check_digest(uri, found, digest)
            kept, _digest = keep_blob(self._root, staged, found)
        return BlobRef(kept.as_uri(), found, size)

    def normalise(self, ref: BlobRef, data_format: DataFormat) -> BlobRef:
        """`ref`, or of numpy's files a safetensors blob of the same tensors, which the model is kept in.

        Raises: ModelDataError (CORRUPT, DTYPE, TOO_LARGE; SCHEMA where the model is kept as JSON), BlobMissing,
        StoreUnavailable.
        """
        path = self._path_of(ref)
        with self._there(), open_file(self._root, path) as file, working_in(path):
            if not is_numpy(file.read(LENGTH_BYTES)):
                return ref
        if data_format is not DataFormat.SAFETENSORS:
            raise ModelDataError(ReasonCode.SCHEMA, f"a file of numpy's, and the model is kept as {data_format}")
        with (
            closing(NumpyReader(self._root, path, self._limits)) as reader,
            self.writer(reader.tensors, data_format) as writer,
        ):
            copy_tensors(reader, writer)
            return writer.commit()

    def open(self, ref: BlobRef, data_format: DataFormat) -> TensorReader:
        """A reader of the stored model, found by its digest: references outlive a move of the store.

        Raises: ModelDataError (CORRUPT, SCHEMA, SHAPE, DTYPE, NOT_FINITE, TOO_LARGE), BlobMissing, StoreUnavailable.
        """
        path = self._path_of(ref)
        with self._there():
            if data_format is DataFormat.JSON:
                return JsonReader(self._root, path, self._limits)
            with finding(path):
                size = path.stat(follow_symlinks=False).st_size
            self._check_size(size)
            if size < LENGTH_BYTES:  # also because an empty file can't be mapped
                raise ModelDataError(ReasonCode.CORRUPT, f"not a safetensors file: it has {size} bytes")
            return SafetensorsReader(self._root, path, self._headers)

    def pull_bytes(self, ref: BlobRef, limit: int) -> bytes:
        """The stored bytes, `limit` at most. Raises: ModelDataError (TOO_LARGE), BlobMissing, StoreUnavailable."""
        path = self._path_of(ref)
        with self._there(), open_file(self._root, path) as file, working_in(path):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ModelDataError(ReasonCode.TOO_LARGE, f"more than {limit} bytes")
        return data

    @contextmanager
    def writer(
        self, tensors: Sequence[TensorSpec], data_format: DataFormat, metadata: Mapping[str, str] | None = None
    ) -> Iterator[TensorWriter]:
        """A writer for a model of those tensors; left without `commit()`, it leaves nothing behind.

        `metadata` goes into a safetensors header; FMA's JSON has no place for it.
        """
        with ExitStack() as stack:
            # Only this step: an OSError of the caller's own block is none of the store's.
            with self._there(), working_in(self._root):
                file = stack.enter_context(self._new_blob())
            if data_format is DataFormat.JSON:
                yield JsonWriter(self._root, file, tensors)
            else:
                yield SafetensorsWriter(self._root, file, tensors, metadata)

    def hold(self, ref: BlobRef) -> None:
        """Set the blob's clock anew, so that garbage collection leaves it until a row names it.

        Raises: StoreUnavailable, also if it was collected meanwhile.
        """
        path = self._path_of(ref)
        with working_in(path):
            os.utime(path)

    def collect_garbage(self, older_than_seconds: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> int:
        """Delete blobs older than that which `is_named(digests)` does not keep, and old staged files; how many
        blobs. Raises: StoreUnavailable."""
        with self._there(), working_in(self._root):
            deleted = collect_blobs(self._root, older_than_seconds, is_named)
            clear_staging(self._root, older_than_seconds)
            return deleted

    def check(self) -> None:
        """Return if a file can be written, synced and read back. Raises: StoreUnavailable."""
        with self._there(), working_in(self._root), self._new_blob() as file:
            file.write(b"fedqueue")
            file.flush()
            os.fsync(file.fileno())
            if Path(file.name).read_bytes() != b"fedqueue":
                raise OSError("it does not give back what was written")

    # --- parts ----------------------------------------------------------------------------------------------------

    def _new_blob(self) -> AbstractContextManager[BinaryIO]:
        return new_blob(self._root, begin=self._mark is None)

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Around what is done in the store: a blob is missing only from a store that is there.

        Raises: StoreUnavailable.
        """
        if self._mark is not None:
            self._mark.check()
        try:
            yield
        except BlobMissing as error:
            if self._mark is not None:
                self._mark.check()  # it may have gone since
            if was_out_of_reach(self._root, Path(error.uri).name):
                raise StoreUnavailable(f"{error.uri} was out of reach: garbage collection looked at it") from error
            raise

    def _find(self, uri: str) -> tuple[Path, Path]:
        return locate(uri, (*self._own_roots, *self._outside_roots))

    def _is_outside(self, path: Path) -> bool:
        return any(path.is_relative_to(root.resolve()) for root in self._outside_roots)

    def _path_of(self, ref: BlobRef) -> Path:
        if not is_digest(ref.digest):
            raise BlobMissing(ref.uri)
        return blob_path(self._root, ref.digest)

    def _find_format(self, ref: BlobRef) -> DataFormat:
        path = self._path_of(ref)
        with self._there(), open_file(self._root, path) as file, working_in(path):
            start = file.read(LENGTH_BYTES + 1)
        return DataFormat.SAFETENSORS if is_safetensors(start) else DataFormat.JSON

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            raise ModelDataError(ReasonCode.TOO_LARGE, f"{size} bytes, the limit is {self._limits.max_bytes}")

    def _copy(self, pieces: Iterator[bytes], into: BinaryIO | None) -> tuple[int, str]:
        """(bytes, digest) of the pieces, written to `into`; a file that grows meanwhile is not followed for ever."""
        digest = hashlib.sha256()
        size = 0
        for piece in pieces:
            size += len(piece)
            self._check_size(size)
            digest.update(piece)
            if into is not None:
                into.write(piece)
        return size, digest.hexdigest()


def _check_digest(uri: str, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise ModelDataError(ReasonCode.CORRUPT, f"{uri} has digest {found}, not {wanted}: other bytes than were sent")


def _arrays_by_name(data: Mapping[str, Any]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, value in data.items():
        array = np.asarray(value)
        little = array.dtype.newbyteorder("<")
        if little not in NAMES:
            known = ", ".join(NUMPY_DTYPES)
            raise ModelDataError(ReasonCode.DTYPE, f"tensor {name!r} is of dtype {array.dtype}; known are {known}")
        # Not ascontiguousarray, which would turn a scalar into a vector.
        arrays[name] = array.astype(little, order="C", copy=False)
    return arrays
