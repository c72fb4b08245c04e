"""Numpy's files, .npy and .npz, read without pickle and without trust in what they say of themselves.

An .npz is a zip archive of .npy members, each a tensor by its name without ".npy"; a bare .npy is one tensor "values".
A zip promises sizes: they are summed, and held against the archive's own, before a byte is unpacked, and unpacking
stops where the promise ends.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from connectors.errors import ModelDataError
from connectors.model_data import Array, TensorReader, TensorWriter
from connectors.records import ReasonCode, TensorSpec
from connectors.storage.dtypes import NUMPY_DTYPES
from connectors.storage.limits import Limits
from connectors.storage.maps import map_descriptor
from connectors.storage.npy_header import NPY_MAGIC, NpyHeader, corrupt, read_npy_header
from connectors.storage.places import open_file, working_in

BARE: Final = "values"

_ZIP_MAGIC: Final = b"PK\x03\x04"
_SUFFIX: Final = ".npy"
_PIECE: Final = 1 << 20

# Unpacked values above this many bytes wait in a file that the kernel may page out.
_SPILL_BYTES: Final = 1 << 20

# Bytes of the archive's list of members for each member allowed: zipfile makes five to ten times as much of it.
_LISTED_BYTES: Final = 128

_ENCRYPTED: Final = 0x1


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """One array's place among the unpacked bytes."""

    name: str
    header: NpyHeader
    offset: int


def is_numpy(start: bytes) -> bool:
    """Whether a file that begins so (eight bytes are enough) is one of numpy's."""
    # "PK" and what follows is also the length of a safetensors header, and four zeros come after that.
    return start.startswith(NPY_MAGIC) or (start.startswith(_ZIP_MAGIC) and start[4:8] != bytes(4))


class NumpyReader:
    """A TensorReader over the arrays of an .npy or .npz."""

    def __init__(self, root: Path, path: Path, limits: Limits, *, spill: Path | None = None) -> None:
        """`spill`: the folder where large values wait, else the store's own for staged files.

        Raises: ModelDataError (CORRUPT, DTYPE, TOO_LARGE), BlobMissing, StoreUnavailable.
        """
        with open_file(root, path) as file, working_in(path):
            size = os.fstat(file.fileno()).st_size
            if size > limits.max_bytes:
                raise _too_large(f"{size} bytes, the limit is {limits.max_bytes}")
            if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                file.seek(0)
                unpacked = [_Unpacked(BARE, read_npy_header(file, size, BARE), 0)]
                whole = _values_of(file, size)
            else:
                unpacked, whole = _unpack(file, size, limits, spill or root / "staging")
        self._whole: Array | None = whole
        self._unpacked = {each.name: each for each in unpacked}

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every array, in the file's order."""
        return tuple((each.name, each.header.shape, each.header.dtype) for each in self._unpacked.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of elements."""
        return sum(each.header.data_bytes for each in self._unpacked.values())

    def read(self, name: str, start: int, stop: int) -> Array:
        """Elements [start, stop) of the flattened array, read-only; a copy of those in Fortran order."""
        if self._whole is None:
            raise ValueError("the reader is closed")
        each = self._unpacked[name]
        header = each.header
        if not 0 <= start <= stop <= header.size:
            raise ValueError(f"{name!r} has {header.size} elements: [{start}, {stop}) is not among them")
        begin = each.offset + header.data_start
        flat: Array = self._whole[begin : begin + header.data_bytes].view(NUMPY_DTYPES[header.dtype])
        if not header.fortran or header.size == 0:
            return flat[start:stop]
        # `flat` goes by the last index first, whatever lies next to what.
        values: Array = flat.reshape(header.shape[::-1]).T.flat[start:stop]
        values.flags.writeable = False
        return values

    def close(self) -> None:
        """Let go of the values. Views handed out before stay valid."""
        self._whole = None


def copy_tensors(reader: TensorReader, writer: TensorWriter) -> None:
    """Write all that is read."""
    for name, shape, _dtype in reader.tensors:
        size = prod(shape)
        for start in range(0, size, _PIECE):
            writer.write(name, start, reader.read(name, start, min(start + _PIECE, size)))


def _too_large(reason: str) -> ModelDataError:
    """The refusal of what is over a limit."""
    return ModelDataError(ReasonCode.TOO_LARGE, reason)


# --- archives -----------------------------------------------------------------------------------------------------


class _Listing:
    """The file as zipfile reads it, its list of members no longer than it may be: that one is read whole."""

    def __init__(self, file: BinaryIO, longest: int) -> None:
        self._file = file
        self._longest = longest

    def read(self, count: int = -1) -> bytes:
        """As a file does. Raises: ModelDataError (TOO_LARGE)."""
        if count > self._longest:
            raise _too_large(f"the archive's list of members has {count} bytes, the limit is {self._longest}")
        # All that is left is asked for near the end alone, where the list's place is looked up.
        return self._file.read(self._longest if count < 0 else count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _unpack(file: BinaryIO, size: int, limits: Limits, staging: Path) -> tuple[list[_Unpacked], Array]:
    """Every member's place, and all their bytes one after another."""
    with _readable_errors(), ExitStack() as stack:
        listing = _Listing(file, max(_PIECE, limits.max_tensors * _LISTED_BYTES))
        archive = stack.enter_context(zipfile.ZipFile(listing))
        members = archive.infolist()
        total = _check_members(members, size, limits)
        headers = [_read_header(archive, member) for member in members]
        places = [0, *np.cumsum([_padded(member.file_size) for member in members]).tolist()]
        if total <= _SPILL_BYTES:
            whole = np.zeros(places[-1], np.uint8)
            for member, place in zip(members, places, strict=False):
                at = place
                for piece in _pieces(archive, member):
                    whole[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                    at += len(piece)
            whole.flags.writeable = False
        else:
            with working_in(staging):
                staging.mkdir(exist_ok=True)
                spilled = stack.enter_context(tempfile.TemporaryFile(dir=staging))
            for member, place in zip(members, places, strict=False):
                with working_in(staging):
                    spilled.seek(place)
                for piece in _pieces(archive, member):
                    with working_in(staging):
                        spilled.write(piece)
            with working_in(staging):
                spilled.truncate(places[-1])
                spilled.flush()
                whole = _values_of(spilled, places[-1])
    return [
        _Unpacked(member.filename.removesuffix(_SUFFIX), header, place)
        for member, header, place in zip(members, headers, places, strict=False)
    ], whole


def _check_members(members: Sequence[zipfile.ZipInfo], size: int, limits: Limits) -> int:
    """The bytes that all members promise to unpack to, if nothing is wrong with what the archive lists.

    Raises: ModelDataError (CORRUPT, TOO_LARGE).
    """
    if not members:
        raise ModelDataError(ReasonCode.CORRUPT, "the archive has no members")
    if len(members) > limits.max_tensors:
        raise _too_large(f"the archive has {len(members)} members, the limit is {limits.max_tensors}")
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename
        if not name.endswith(_SUFFIX) or not _is_plain(name.removesuffix(_SUFFIX)) or name != member.filename:
            raise corrupt(name[:200], "a member's name must be a plain one, and end in .npy")
        if name in seen:
            raise corrupt(name[:200], "the archive has two members of this name")
        if member.flag_bits & _ENCRYPTED:
            raise corrupt(name[:200], "it is encrypted")
        # Of what zipfile unpacks, these two alone can be stopped in the middle of a piece.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise corrupt(name[:200], f"it is packed by method {member.compress_type}; read are stored and deflated")
        seen.add(name)
    total = sum(member.file_size for member in members)
    if total > limits.max_bytes:
        raise _too_large(f"the archive unpacks to {total} bytes, the limit is {limits.max_bytes}")
    most = max(limits.max_unpacked_ratio * size, limits.ratio_free_bytes)
    if total > most:
        raise _too_large(
            f"the archive unpacks from {size} bytes to {total}, more than {limits.max_unpacked_ratio} times as many"
        )
    return total


def _is_plain(name: str) -> bool:
    """Whether it is a tensor's name, as "layer/weight", and leads nowhere."""
    return not any(character in name for character in "\\\0") and all(
        part not in ("", ".", "..") for part in name.split("/")
    )


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NpyHeader:
    with archive.open(member) as opened:
        return read_npy_header(opened, member.file_size, member.filename.removesuffix(_SUFFIX))  # type: ignore[arg-type]


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The member's bytes, as many as it promises, their checksum right. Raises: ModelDataError (CORRUPT)."""
    left = member.file_size
    with archive.open(member) as opened:
        while piece := opened.read(_PIECE):
            left -= len(piece)
            yield piece
    if left:
        raise corrupt(member.filename, f"it ends {left} bytes before its promised {member.file_size}")


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What zipfile and zlib say of a damaged archive, as the refusal of its bytes."""
    try:
        yield
    # RuntimeError: encrypted after all, or a version beyond zipfile. EOFError: cut short. ValueError: names that are no
    # text, and places before the file's beginning.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise ModelDataError(ReasonCode.CORRUPT, f"not a sound .npz file: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a seek to such a place; anything else is the disk's
            raise
        raise ModelDataError(ReasonCode.CORRUPT, "not a sound .npz file: it points outside itself") from error


def _padded(size: int) -> int:
    """Every member begins at a multiple of 64, as .npy pads its header: so that its elements are aligned."""
    return -(-size // 64) * 64


def _values_of(file: BinaryIO, size: int) -> Array:
    """The file's bytes, mapped."""
    return map_descriptor(file.fileno()) if size else np.empty(0, np.uint8)
