"""Model files outside any store: read where they lie, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from connectors.errors import ModelDataError, StoreUnavailable
from connectors.model_data import Array, TensorReader
from connectors.records import DataFormat, ReasonCode, TensorSpec
from connectors.storage.json_files import JsonReader, JsonWriter
from connectors.storage.limits import Limits
from connectors.storage.npz_files import NumpyReader, is_numpy
from connectors.storage.places import finding, open_file, working_in
from connectors.storage.safetensors_files import SafetensorsReader, SafetensorsWriter
from connectors.storage.safetensors_layout import LENGTH_BYTES, Headers
from fedqueue.blobs import sync_folder


class ModelFiles:
    """Readers of model files anywhere on this machine. Safetensors is mapped: nobody may cut a file short meanwhile."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._headers = Headers(self._limits)

    def open(self, path: Path) -> TensorReader:
        """A reader of safetensors, numpy's formats or FMA's JSON, told apart by its bytes; links are followed.

        Raises: BlobMissing, ModelDataError (as FileModelDataConnector.open), StoreUnavailable.
        """
        with finding(path.absolute()):
            real = path.resolve(strict=True)
        with open_file(real.parent, real) as file, working_in(real):
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH_BYTES + 1)
        if size > self._limits.max_bytes:
            raise ModelDataError(ReasonCode.TOO_LARGE, f"{size} bytes, the limit is {self._limits.max_bytes}")
        if is_numpy(start[:LENGTH_BYTES]):
            return NumpyReader(real.parent, real, self._limits, spill=Path(tempfile.gettempdir()))
        if not is_safetensors(start) and (format_of_name(path) is DataFormat.JSON or start.lstrip()[:1] == b"["):
            return JsonReader(real.parent, real, self._limits, spill=Path(tempfile.gettempdir()))
        if size < LENGTH_BYTES:  # also because an empty file can't be mapped
            raise ModelDataError(ReasonCode.CORRUPT, f"not a safetensors file: it has {size} bytes")
        return SafetensorsReader(real.parent, real, self._headers)


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so is safetensors, and not JSON."""
    # No JSON text holds a NUL; a header under 2**32 bytes has four of them before its brace.
    return start[4:8] == bytes(4) and start[8:9] == b"{"


class ModelFileWriter:
    """A model on its way into a file: staged beside it, and gone unless `put_in_place` took it."""

    def __init__(self, file: BinaryIO, staged: Path, target: Path, tensors: Sequence[TensorSpec]) -> None:
        """FMA's JSON if the target ends in `.json`, else safetensors. Raises: ModelDataError, StoreUnavailable."""
        self._file = file
        self._staged = staged
        self.target = target
        self._writer = (
            JsonWriter(target.parent, file, tensors)
            if format_of_name(target) is DataFormat.JSON
            else SafetensorsWriter(target.parent, file, tensors, None, content_addressed=False)
        )

    def write(self, name: str, start: int, values: Array) -> None:
        """Put the flattened tensor's elements from `start` on. Raises: ValueError, StoreUnavailable."""
        self._writer.write(name, start, values)

    def finish(self) -> int:
        """Write what is still to be written; the file's length.

        Raises: ValueError if elements are missing, ModelDataError (NOT_FINITE, in JSON), StoreUnavailable.
        """
        self._writer.finish()
        with working_in(self.target):
            self._file.flush()
            return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Have every byte on disk, still under the staged name."""
        with working_in(self.target):
            os.fsync(self._file.fileno())

    def rename(self) -> None:
        """Give it the name, instead of what had it."""
        with working_in(self.target):
            self._staged.replace(self.target)
            sync_folder(self.target.parent)


@contextmanager
def model_file_writers(outcomes: Mapping[Path, Sequence[TensorSpec]]) -> Iterator[list[ModelFileWriter]]:
    """A writer for each path; what `put_in_place` did not take leaves nothing behind.

    Raises: ModelDataError (tensors that JSON can't hold), StoreUnavailable (no such folder, no permission).
    """
    with ExitStack() as stack:
        writers = []
        for path, tensors in outcomes.items():
            target = path.resolve()  # through a link: what it leads to is replaced, not the link
            with working_in(target):
                if target.exists() and not stat.S_ISREG(target.stat().st_mode):
                    raise StoreUnavailable(f"{target.as_uri()}: it is there, and not a file")
                staged = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
                # Before there is a file: a signal may end the process right after it was made.
                stack.callback(staged.unlink, missing_ok=True)
                # The mode that a new file has anywhere: what the process's umask leaves of it.
                handle = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            file = os.fdopen(handle, "w+b")
            stack.callback(_close, file)
            try:
                writers.append(ModelFileWriter(file, staged, target, tensors))
            except ModelDataError as error:
                raise ModelDataError(error.reason_code, f"{path}: {error.reason}") from error
        yield writers


def put_in_place(writers: Sequence[ModelFileWriter]) -> None:
    """Every file that was finished, durable under its name; none of them before all are on disk.

    Raises: StoreUnavailable.
    """
    for writer in writers:
        writer.sync()
    for writer in writers:
        writer.rename()


def format_of_name(path: Path) -> DataFormat:
    """How a model is written into a file of that name."""
    return DataFormat.JSON if path.suffix.lower() == ".json" else DataFormat.SAFETENSORS


def _close(file: BinaryIO) -> None:
    # What was put in place has been synced; what a full disk refuses to take here is thrown away.
    with suppress(OSError):
        file.close()
