"""Stored FMA JSON models: read whole, written whole, handed out by pieces like any other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from connectors.model_data import Array
from connectors.records import BlobRef, TensorSpec
from connectors.storage.fma_json import FloatArray, check_fma_names, format_fma_json, parse_fma_json, too_large
from connectors.storage.limits import Limits
from connectors.storage.maps import map_descriptor
from connectors.storage.places import open_file, working_in
from connectors.storage.safetensors_files import check_piece
from fedqueue.blobs import keep_blob

# Parsed values above this many bytes wait in a file that the kernel may page out, so that a round over many large
# JSON updates does not hold them all in memory.
_SPILL_BYTES = 1024 * 1024


class JsonReader:
    """A TensorReader over parsed JSON."""

    def __init__(self, root: Path, path: Path, limits: Limits, *, spill: Path | None = None) -> None:
        """`spill`: the folder where large values wait, else the store's own for staged files.

        Raises: ModelDataError (as parse_fma_json), BlobMissing, StoreUnavailable.
        """
        with open_file(root, path) as file, working_in(path):
            size = os.fstat(file.fileno()).st_size
            if size > limits.max_json_bytes:
                raise too_large(size, limits)
            # Not up to the limit: Python sets aside as much as it is asked to read.
            text = file.read(size)
        arrays = parse_fma_json(text, limits)
        self._tensors: tuple[TensorSpec, ...] = tuple((name, array.shape, "F64") for name, array in arrays.items())
        self._arrays: Mapping[str, FloatArray] | None = self._settle(spill or root / "staging", arrays)
        self._bytes = sum(array.nbytes for array in arrays.values())

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype (F64) of every tensor, in the text's order."""
        return self._tensors

    @property
    def size_bytes(self) -> int:
        """Bytes of the parsed values."""
        return self._bytes

    def read(self, name: str, start: int, stop: int) -> Array:
        """A read-only view of elements [start, stop) of the flattened tensor."""
        if self._arrays is None:
            raise ValueError("the reader is closed")
        flat = self._arrays[name]
        if not 0 <= start <= stop <= flat.size:
            raise ValueError(f"{name!r} has {flat.size} elements: [{start}, {stop}) is not among them")
        return flat[start:stop]

    def close(self) -> None:
        """Let go of the values. Views handed out before stay valid."""
        self._arrays = None

    @staticmethod
    def _settle(staging: Path, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        flat = {name: array.reshape(-1) for name, array in arrays.items()}
        total = sum(array.nbytes for array in flat.values())
        if total > _SPILL_BYTES:
            with working_in(staging):
                staging.mkdir(exist_ok=True)
                with tempfile.TemporaryFile(dir=staging) as file:
                    for array in flat.values():
                        file.write(array.data)
                    file.flush()
                    whole = map_descriptor(file.fileno()).view(np.float64)
            start = 0
            for name, array in flat.items():
                flat[name] = np.asarray(whole[start : start + array.size])
                start += array.size
        for array in flat.values():
            array.flags.writeable = False
        return flat


class JsonWriter:
    """A TensorWriter that gathers the values and writes the text at the end. Memory: the whole model, once."""

    def __init__(self, root: Path, file: BinaryIO, tensors: Sequence[TensorSpec]) -> None:
        """Raises: ModelDataError (SCHEMA, DTYPE) for tensors that FMA's JSON can't hold."""
        check_fma_names(tensors)
        self._root = root
        self._file = file
        self._specs = {spec[0]: spec for spec in tensors}
        self._arrays = {name: np.empty(shape, np.float64) for name, shape, _dtype in tensors}
        self._written = dict.fromkeys(self._specs, 0)

    def write(self, name: str, start: int, values: Array) -> None:
        """Put the flattened tensor's elements from `start` on. Raises: ValueError."""
        flat = self._arrays[name].reshape(-1)
        check_piece(self._specs[name], self._written[name], flat.size, start, values)
        flat[start : start + values.size] = values
        self._written[name] += values.size

    def finish(self) -> None:
        """Write the text. Raises: ValueError if elements are missing, ModelDataError (NOT_FINITE), StoreUnavailable."""
        for name, array in self._arrays.items():
            if self._written[name] != array.size:
                raise ValueError(f"{name!r} is incomplete: {self._written[name]} of {array.size} elements were written")
        with working_in(self._root):
            for piece in format_fma_json(self._arrays):
                self._file.write(piece.encode())

    def commit(self) -> BlobRef:
        """Make it durable under its digest.

        Raises: ValueError if elements are missing, ModelDataError (NOT_FINITE), StoreUnavailable.
        """
        self.finish()
        with working_in(self._root):
            path, digest = keep_blob(self._root, self._file)
            return BlobRef(path.as_uri(), digest, path.stat().st_size)
