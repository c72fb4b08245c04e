"""Model data on its way between a client and the store it shares with the hub."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike
from pydantic import JsonValue

from fedqueue.blobs import blob_path, is_store, keep_blob, new_blob, path_of, read_pieces
from fedqueue.errors import DataCorrupt, InvalidArgument, StoreUnreachable
from fedqueue.messages import DataRef
from fedqueue.messages.names import INLINE_DATA_LIMIT
from fedqueue.tensors import as_tensors, write_tensors

# What a model is kept as whose data comes in a file of that name. The hub brings numpy's files into safetensors.
_FORMATS: Final = {".safetensors": "safetensors", ".npz": "safetensors", ".npy": "safetensors", ".json": "json"}
_NPY_MAGIC: Final = b"\x93NUMPY"
_ZIP_MAGIC: Final = b"PK\x03\x04"


@dataclass(frozen=True)
class Payload:
    """Model data ready to be named in a message: inline (JSON), or by reference."""

    data_format: str
    inline: JsonValue = None
    ref: DataRef | None = None

    @property
    def digest(self) -> str:
        """The sha256 of its bytes: the same of the same data."""
        return hashlib.sha256(json.dumps(self.inline).encode()).hexdigest() if self.ref is None else self.ref.digest


# What a caller may hand over: named arrays (also a Flower ArrayRecord, or tensors with a `numpy()`), the path of a
# .safetensors, .npz, .npy or .json file, FMA's lists, or what `Client.put` made of any of these.
ModelData = Mapping[str, ArrayLike] | str | os.PathLike[str] | Sequence[Any] | Payload


class Store(ABC):
    """The client's end of the store that it shares with the hub."""

    # Whether `read` is given a URL that the hub has signed, in place of the blob's own.
    wants_url: ClassVar[bool] = False

    def take(self, data: ModelData, field: str) -> Payload:
        """Put the data where the hub can read it; small FMA lists stay inline.

        A file's bytes go as they are: to judge them is the hub's part. Numpy's are told by how they begin, whatever
        the file is called; the others by their names.
        Raises: InvalidArgument naming `field`, StoreUnreachable.
        """
        if isinstance(data, Payload):
            return data
        if isinstance(data, str | os.PathLike):
            return self._take_file(Path(data), field)
        if isinstance(data, Mapping):
            tensors = as_tensors(data, field)
            with self._writing() as file:
                write_tensors(file, tensors)
                return Payload("safetensors", ref=self._keep(file))
        if isinstance(data, list | tuple):
            return self._take_list(data, field)
        raise InvalidArgument(
            field, f"is a {type(data).__name__}: give a mapping of arrays, a path, or FMA's lists of numbers"
        )

    def _take_file(self, path: Path, field: str) -> Payload:
        try:
            source = path.open("rb")
        except OSError as error:
            raise _unreadable(path, field, error) from error
        with source:
            pieces = read_pieces(source)
            try:
                start = next(pieces, b"")
            except OSError as error:
                raise _unreadable(path, field, error) from error
            data_format = "safetensors" if _is_numpy(start) else _FORMATS.get(path.suffix.lower())
            if data_format is None:
                raise InvalidArgument(field, f"{path} is none of {', '.join(_FORMATS)}")
            with self._writing() as file:
                hashed = hashlib.sha256()
                for piece in chain([start], pieces):
                    hashed.update(piece)
                    file.write(piece)
                return Payload(data_format, ref=self._keep(file, hashed.hexdigest()))

    def _take_list(self, data: Sequence[Any], field: str) -> Payload:
        try:
            text = json.dumps(data, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(field, f"can't be sent as JSON: {error}") from error
        if len(text) <= INLINE_DATA_LIMIT:
            return Payload("json", inline=json.loads(text))
        with self._writing() as file:
            file.write(text)
            return Payload("json", ref=self._keep(file))

    @abstractmethod
    def read(self, uri: str, digest: str) -> bytearray:
        """The blob's bytes, checked. Raises: StoreUnreachable, DataCorrupt."""

    def copy(self, uri: str, digest: str, file: BinaryIO) -> None:
        """Write the blob's bytes into the file, checked; what it holds after a failure is not to be used.

        Memory: some mebibytes, whatever the blob's size. Raises: StoreUnreachable, DataCorrupt, OSError of the file.
        """
        hashed = hashlib.sha256()
        for piece in self._pieces(uri, digest):
            hashed.update(piece)
            file.write(piece)
        if hashed.hexdigest() != digest:
            raise _corrupt(uri.partition("?")[0], digest)

    @abstractmethod
    def _pieces(self, uri: str, digest: str) -> Iterator[bytes]:
        """The blob's bytes, not checked. Raises: StoreUnreachable."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[BinaryIO]:
        """A file to write a blob into; gone afterwards unless it was kept. Raises: StoreUnreachable."""

    @abstractmethod
    def _keep(self, file: BinaryIO, digest: str | None = None) -> DataRef:
        """Where the hub finds what was written; durable when this returns. Raises: StoreUnreachable, OSError."""


class SharedStore(Store):
    """A `file://` store: blobs under their digest, complete before they have a name.

    Nothing is kept in memory between calls, so it needs no care with threads or forks.
    """

    def __init__(self, store_url: str | None) -> None:
        self._url = store_url

    def read(self, uri: str, digest: str) -> bytearray:
        """From the folder, which the hub may have mounted somewhere else. Raises: StoreUnreachable, DataCorrupt."""
        path = self._find(uri, digest)
        try:
            with path.open("rb") as file:
                buffer = bytearray(os.fstat(file.fileno()).st_size)
                size = file.readinto(buffer)
        except OSError as error:
            raise _not_here(uri, error) from error
        if size != len(buffer):
            raise _corrupt(str(path), digest)
        return checked(buffer, str(path), digest)

    def _pieces(self, uri: str, digest: str) -> Iterator[bytes]:
        path = self._find(uri, digest)
        try:
            file = path.open("rb")
        except OSError as error:
            raise _not_here(uri, error) from error
        with file:
            pieces = read_pieces(file)
            while True:
                try:
                    piece = next(pieces, b"")
                except OSError as error:
                    raise _not_here(uri, error) from error
                if not piece:
                    return
                yield piece

    def _find(self, uri: str, digest: str) -> Path:
        # By its digest under our own root first: the hub may have the same store mounted somewhere else.
        if self._url is not None and self._url.startswith("file:"):
            path = blob_path(self._root(), digest)
            if path.exists():
                return path
        try:
            return path_of(uri)
        except ValueError as error:
            raise StoreUnreachable(f"this client reads file:// stores only, and the model lies at {uri}") from error

    def _root(self) -> Path:
        if self._url is None:
            raise StoreUnreachable(
                "this data is too large for the broker and no store is known: pass store_url, or set "
                "FEDQUEUE_STORE_URL to the hub's store, e.g. file:///srv/fedqueue/store"
            )
        try:
            return path_of(self._url)
        except ValueError as error:
            raise StoreUnreachable(f"store_url names no store known here: {self._url}") from error

    def _writing(self) -> _Writing:
        return _Writing(self._root())

    def _keep(self, file: BinaryIO, digest: str | None = None) -> DataRef:
        path, digest = keep_blob(self._root(), file, digest)
        return DataRef(uri=path.as_uri(), digest=digest)


class _Writing(AbstractContextManager[BinaryIO]):
    """`new_blob` in a store that is there, with the store's own failures told apart from the caller's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blob = new_blob(root, begin=False)

    def __enter__(self) -> BinaryIO:
        if not is_store(self._root):
            # A hub begins a store. One that a client began would lie where the hub's is not mounted.
            raise StoreUnreachable(
                f"there is no store at {self._root}: is the hub's mounted on this machine, has a hub ever run on it, "
                "and does store_url (FEDQUEUE_STORE_URL) name it?"
            )
        try:
            return self._blob.__enter__()
        except OSError as error:
            raise StoreUnreachable(f"the store at {self._root} can't be written: {error.strerror}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._blob.__exit__(kind, error, trace)
        if isinstance(error, OSError):
            raise StoreUnreachable(f"the store at {self._root} can't be written: {error.strerror}") from error


def _is_numpy(start: bytes) -> bool:
    """Whether a file that begins so is an .npy, or an .npz: an archive whose first member is an .npy."""
    # Any archive would not do: what torch.save writes is one too, and is no model data.
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    return start.startswith(_NPY_MAGIC) or (start.startswith(_ZIP_MAGIC) and name.endswith(b".npy"))


def _unreadable(path: Path, field: str, error: OSError) -> InvalidArgument:
    return InvalidArgument(field, f"{path} can't be read: {error.strerror}")


def checked(buffer: bytearray, place: str, digest: str) -> bytearray:
    """The same bytes, if they are those of the digest. Raises: DataCorrupt."""
    if hashlib.sha256(buffer).hexdigest() != digest:
        raise _corrupt(place, digest)
    return buffer


def _corrupt(place: str, digest: str) -> DataCorrupt:
    return DataCorrupt(f"{place} does not hold the bytes that the hub names ({digest})")


def _not_here(uri: str, error: OSError) -> StoreUnreachable:
    return StoreUnreachable(
        f"{uri} can't be read here: {error.strerror}; is the hub's store mounted on this machine, "
        "and does store_url (FEDQUEUE_STORE_URL) name it?"
    )


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no number, list or array")


def lists_of(buffer: bytearray) -> JsonValue:
    """A JSON model's lists. Raises: DataCorrupt."""
    try:
        lists: JsonValue = json.loads(buffer)
    except ValueError as error:
        raise DataCorrupt(f"this model is no JSON: {error}") from error
    return lists
