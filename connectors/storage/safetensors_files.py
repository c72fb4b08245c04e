"""Stored safetensors models, read by memory map and written by pieces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from connectors.model_data import Array
from connectors.records import BlobRef, TensorSpec
from connectors.storage.dtypes import NUMPY_DTYPES
from connectors.storage.maps import map_file
from connectors.storage.places import working_in
from connectors.storage.safetensors_layout import LENGTH_BYTES, Headers, Placed, header_length, lay_out
from fedqueue.blobs import keep_blob


class SafetensorsReader:
    """A TensorReader over a mapped file: views, no copies. Safe only on files that nobody cuts short, as blobs are."""

    def __init__(self, root: Path, path: Path, headers: Headers) -> None:
        """Raises: ModelDataError (CORRUPT, DTYPE, TOO_LARGE), BlobMissing, StoreUnavailable."""
        mapped = map_file(root, path)
        end = LENGTH_BYTES + header_length(mapped[:LENGTH_BYTES].tobytes(), mapped.size, headers.limits)
        self._layout = headers.parse(mapped[LENGTH_BYTES:end].tobytes(), mapped.size)
        self._bytes = mapped.size - end
        self._mapped: NDArray[np.uint8] | None = mapped

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor, in the file's order."""
        return self._layout.specs

    @property
    def size_bytes(self) -> int:
        """Bytes of tensor data."""
        return self._bytes

    def read(self, name: str, start: int, stop: int) -> Array:
        """A read-only view of elements [start, stop) of the flattened tensor."""
        mapped = self._mapped
        if mapped is None:
            raise ValueError("the reader is closed")
        tensor = self._layout.placed[name]
        if not 0 <= start <= stop <= tensor.size:
            raise ValueError(f"{name!r} has {tensor.size} elements: [{start}, {stop}) is not among them")
        dtype = NUMPY_DTYPES[tensor.spec[2]]
        values: Array = np.frombuffer(mapped, dtype, stop - start, tensor.offset + start * dtype.itemsize)
        return values

    def close(self) -> None:
        """Let go of the file. Views handed out before stay valid."""
        self._mapped = None


class SafetensorsWriter:
    """A TensorWriter into a staged file: header first, then every piece at its place."""

    def __init__(
        self,
        root: Path,
        file: BinaryIO,
        tensors: Sequence[TensorSpec],
        metadata: Mapping[str, str] | None,
        *,
        content_addressed: bool = True,
    ) -> None:
        """`content_addressed`: it will be committed under its digest, so what comes in order is hashed on the way."""
        self._root = root
        self._file = file
        self._digest = sha256() if content_addressed else None
        self._hashed = 0  # bytes from the file's start
        before_data, placed, self._length = lay_out(tensors, metadata)
        self._placed = {tensor.spec[0]: tensor for tensor in placed}
        self._written = dict.fromkeys(self._placed, 0)
        self._put(before_data, 0)

    def write(self, name: str, start: int, values: Array) -> None:
        """Put the flattened tensor's elements from `start` on. Raises: ValueError, StoreUnavailable."""
        tensor = self._placed[name]
        check_piece(tensor.spec, self._written[name], tensor.size, start, values)
        flat = np.ascontiguousarray(values)
        if flat.size:
            # Viewed as bytes: bfloat16 arrays offer no buffer of their own.
            self._put(flat.view(np.uint8).data, tensor.offset + start * flat.itemsize)
        self._written[name] += flat.size

    def finish(self) -> None:
        """Return if the file is whole. Raises: ValueError if elements are missing."""
        check_complete(self._placed.values(), self._written)

    def commit(self) -> BlobRef:
        """Make it durable under its digest. Raises: ValueError if elements are missing, StoreUnavailable."""
        self.finish()
        with working_in(self._root):
            whole = self._digest if self._hashed == self._length else None
            path, digest = keep_blob(self._root, self._file, whole.hexdigest() if whole else None)
        return BlobRef(path.as_uri(), digest, self._length)

    def _put(self, data: Any, offset: int) -> None:
        view = memoryview(data)
        # The bytes are still in the processor's cache; reading them all again at the end would take as long again.
        if self._digest is not None and offset == self._hashed:
            self._digest.update(view)
            self._hashed += len(view)
        with working_in(self._root):
            while view:
                done = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[done:], offset + done


def check_piece(spec: TensorSpec, written: int, size: int, start: int, values: Array) -> None:
    """Return if `values` is the tensor's next piece, of its dtype. Raises: ValueError."""
    name, _shape, dtype = spec
    if values.ndim != 1 or values.dtype != NUMPY_DTYPES[dtype]:
        raise ValueError(f"{name!r} is written as 1-D {dtype}, not {values.ndim}-D {values.dtype}")
    if start != written or start + values.size > size:
        raise ValueError(
            f"{name!r} has {size} elements, {written} are written: "
            f"[{start}, {start + values.size}) does not follow them"
        )


def check_complete(placed: Any, written: Mapping[str, int]) -> None:
    """Return if every element was written. Raises: ValueError naming the first tensor that lacks some."""
    tensor: Placed
    for tensor in placed:
        name = tensor.spec[0]
        if written[name] != tensor.size:
            raise ValueError(f"{name!r} is incomplete: {written[name]} of {tensor.size} elements were written")
