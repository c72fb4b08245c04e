"""The one door to model data: bytes in a store, read and written as streams of tensors.

The first three methods are FMA's model data connector; the rest lets a round of any size run in bounded memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from inspect import isabstract
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from connectors.errors import CanNotSign
from connectors.records import BlobRef, DataFormat, FederatedModel, ModelUpdate, TensorSpec

Array = NDArray[Any]


class TensorReader(Protocol):
    """One model's tensors in a store, read by pieces. Close it when done (it holds a file or a map)."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor, in the file's order."""

    @property
    def size_bytes(self) -> int:
        """Bytes of tensor data."""

    def read(self, name: str, start: int, stop: int) -> Array:
        """Elements [start, stop) of the flattened tensor, 1-D, read-only; a view of the map where there is one."""

    def close(self) -> None:
        """Let go of the file. Views handed out before stay valid."""


class TensorWriter(Protocol):
    """A model being written: every element once, in any order of tensors, ascending within one."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Put the flattened tensor's elements from `start` on; dtype as declared when the writer was made."""

    def commit(self) -> BlobRef:
        """Make it durable under its digest (fsynced, never overwriting) and say where it is."""


class BaseModelDataConnector(ABC):
    """Model data by reference: checked against its digest, confined to the configured roots."""

    _registry: ClassVar[dict[str, type[BaseModelDataConnector]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__name__
        for key in {name, name.removesuffix("ModelDataConnector")}:
            BaseModelDataConnector._registry[key.lower()] = cls

    @classmethod
    def create(
        cls, model_data_connector_type: str, model_data_connector_settings: dict[str, Any] | None = None
    ) -> BaseModelDataConnector:
        """Build the connector of that name, case-insensitively: `"file"` or `"FileModelDataConnector"`.

        Raises: ValueError naming the known connectors.
        """
        found = BaseModelDataConnector._registry.get(model_data_connector_type.lower())
        if found is None or isabstract(found):
            known = sorted({c.__name__ for c in BaseModelDataConnector._registry.values() if not isabstract(c)})
            raise ValueError(
                f"no model data connector is called {model_data_connector_type!r}: known are {', '.join(known)}"
            )
        return found(**(model_data_connector_settings or {}))

    # --- FMA's contract ---------------------------------------------------------------------------

    @abstractmethod
    def pull_model_updates_data(
        self, model_updates: Iterable[ModelUpdate]
    ) -> Iterator[tuple[ModelUpdate, TensorReader]]:
        """Each update with a reader of its data, one after another, in the order given.

        Raises: ModelDataError (the data is at fault), StoreUnavailable (the store is).
        """

    @abstractmethod
    def prep_model_data_for_storage(self, data: Any, data_format: DataFormat) -> bytes:
        """`data` (a mapping of arrays, or FMA's lists) as the bytes that are stored.

        Raises: ModelDataError.
        """

    @abstractmethod
    def push_model_data_to_storage(self, model: FederatedModel, data: bytes) -> BlobRef:
        """Store the bytes under their digest, durable before this returns; the same bytes twice are stored once."""

    # --- streams ----------------------------------------------------------------------------------

    @abstractmethod
    def take_in(self, uri: str, digest: str | None) -> BlobRef:
        """The bytes behind a reference from outside, in the store under their digest from now on.

        Raises: ReferenceRefused (outside the configured roots), BlobMissing, ModelDataError (CORRUPT: other bytes
        than `digest` says; TOO_LARGE), StoreUnavailable.
        """

    @abstractmethod
    def normalise(self, ref: BlobRef, data_format: DataFormat) -> BlobRef:
        """The blob that holds the same tensors in the format that the model is kept in.

        `ref` itself, unless its bytes are of a format that is read but not kept (numpy's .npy and .npz).
        Raises: ModelDataError (as `open`), BlobMissing, StoreUnavailable.
        """

    @abstractmethod
    def open(self, ref: BlobRef, data_format: DataFormat) -> TensorReader:
        """A reader of the stored model.

        Raises: ModelDataError (SCHEMA, CORRUPT, TOO_LARGE), BlobMissing, StoreUnavailable.
        """

    @abstractmethod
    def pull_bytes(self, ref: BlobRef, limit: int) -> bytes:
        """The stored bytes as they are, for what is small: a JSON text.

        Raises: ModelDataError (TOO_LARGE: more than `limit` bytes), BlobMissing, StoreUnavailable.
        """

    @abstractmethod
    def writer(
        self,
        tensors: Sequence[TensorSpec],
        data_format: DataFormat,
        metadata: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[TensorWriter]:
        """A writer for a model of those tensors; left without `commit()`, it leaves nothing behind."""

    @abstractmethod
    def hold(self, ref: BlobRef) -> None:
        """Keep garbage collection from the blob until a row names it: to be called in the transaction that writes one.

        However long ago it was stored: its worker may have slept since. Raises: StoreUnavailable, also if it was
        collected meanwhile, so that whoever stored it does so again.
        """

    @abstractmethod
    def collect_garbage(self, older_than_seconds: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> int:
        """Delete blobs older than that which `is_named(digests) -> set of those to keep` does not keep; how many."""

    @abstractmethod
    def check(self) -> None:
        """Return if the store can be read and written. Raises: StoreUnavailable."""

    def sign_upload(self, seconds: float) -> tuple[str, str]:  # noqa: ARG002  # for those that can
        """(a URL that takes a PUT for so long, the reference to name then). Raises: CanNotSign, StoreUnavailable."""
        raise CanNotSign("this store has no URLs to put data to")

    def sign_download(self, ref: BlobRef, seconds: float) -> str:  # noqa: ARG002  # for those that can
        """A URL by which the blob may be read for so long. Raises: CanNotSign, StoreUnavailable."""
        raise CanNotSign(f"{ref.uri} has no URL to be read by")


def find_not_finite(reader: TensorReader, chunk: int = 1 << 20) -> str | None:
    """Where the first NaN or infinity is, for people to read: "w[17] is nan"; None if all is finite."""
    for name, shape, _dtype in reader.tensors:
        size = int(np.prod(shape, dtype=np.int64))
        for start in range(0, size, chunk):
            values = reader.read(name, start, min(start + chunk, size))
            if values.dtype.kind in "iub":
                break
            finite = np.isfinite(values)
            if not finite.all():
                at = start + int(np.argmin(finite))
                return f"{name}[{at}] is {values[at - start]}"
    return None
