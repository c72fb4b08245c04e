"""The safetensors layout: eight bytes of header length, a JSON header, then every tensor's bytes without a gap.

Parsed here and not by the safetensors package: its numpy reader copies every tensor and does not know bfloat16.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from connectors.errors import ModelDataError
from connectors.records import ReasonCode, TensorSpec
from connectors.storage.dtypes import NUMPY_DTYPES, is_shape
from connectors.storage.limits import Limits

LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_MARKS_A_TENSOR = 16  # brackets and commas: eight, and one for every dimension
_MARKS_OF_METADATA = 1 << 16
_REMEMBERED = 4
_LONGEST_REMEMBERED = 1 << 20  # bytes: some ten thousand tensors


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor and where its bytes lie in the file."""

    spec: TensorSpec
    offset: int  # from the file's first byte
    size: int  # elements


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's tensors lie."""

    placed: Mapping[str, Placed]  # by name, by ascending place
    specs: tuple[TensorSpec, ...]


class Headers:
    """Reads headers, and remembers the last few: a round's updates mostly have one and the same, to the byte.

    They then share its outcome, too: a thousand updates of a thousand tensors take up room for a thousand, not a
    million. Safe to share between threads.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._remembered = lru_cache(_REMEMBERED)(self._parse)

    def parse(self, header: bytes, file_bytes: int) -> Layout:
        """Every claim of the header checked against the file's length.

        Raises: ModelDataError (CORRUPT, DTYPE, TOO_LARGE).
        """
        parse = self._parse if len(header) > _LONGEST_REMEMBERED else self._remembered
        return parse(header, file_bytes)

    def _parse(self, header: bytes, file_bytes: int) -> Layout:
        placed = parse_header(header, file_bytes, self.limits)
        return Layout({tensor.spec[0]: tensor for tensor in placed}, tuple(tensor.spec for tensor in placed))


def header_length(first_bytes: bytes, file_bytes: int, limits: Limits) -> int:
    """How many bytes of header follow the first eight. Raises: ModelDataError (CORRUPT, TOO_LARGE)."""
    if len(first_bytes) < LENGTH_BYTES:
        raise _corrupt(f"the file ends after {len(first_bytes)} bytes, within the header's length")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if LENGTH_BYTES + length > file_bytes:
        raise _corrupt(f"the header claims {length} bytes, the file has {file_bytes - LENGTH_BYTES} left for it")
    if length > limits.max_header_bytes:
        raise ModelDataError(
            ReasonCode.TOO_LARGE, f"the header has {length} bytes, the limit is {limits.max_header_bytes}"
        )
    return length


def parse_header(header: bytes, file_bytes: int, limits: Limits) -> tuple[Placed, ...]:
    """The tensors by ascending place, every claim of the header checked against the file's length.

    Raises: ModelDataError (CORRUPT, DTYPE, TOO_LARGE).
    """
    entries = _load(header, limits)
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(f"{_METADATA} must map text to text")
    if len(entries) > limits.max_tensors:
        raise ModelDataError(
            ReasonCode.TOO_LARGE, f"the file has {len(entries)} tensors, the limit is {limits.max_tensors}"
        )
    data_start = LENGTH_BYTES + len(header)
    found = sorted((_parse_entry(name, entry) for name, entry in entries.items()), key=lambda item: (item[1], item[2]))
    placed = []
    end_before = 0
    for spec, begin, end in found:
        if begin != end_before:
            fault = "overlaps the one before" if begin < end_before else f"leaves {begin - end_before} bytes before it"
            raise _corrupt(f"tensor {spec[0]!r} {fault}")
        placed.append(Placed(spec, data_start + begin, prod(spec[1])))
        end_before = end
    if data_start + end_before != file_bytes:
        raise _corrupt(
            f"the header describes {end_before} bytes of tensors, the file has {file_bytes - data_start}: "
            + ("it was cut short" if data_start + end_before > file_bytes else "something follows them")
        )
    return tuple(placed)


def lay_out(
    tensors: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, tuple[Placed, ...], int]:
    """(everything before the data, the tensors by ascending place, the whole file's length).

    Wider dtypes come first and the header is padded to eight bytes, so that every tensor is aligned.
    Raises: ModelDataError (DTYPE, SCHEMA).
    """
    names = [name for name, _shape, _dtype in tensors]
    if len(set(names)) < len(names) or _METADATA in names:
        raise ModelDataError(ReasonCode.SCHEMA, f"tensor names must differ, and none may be {_METADATA}")
    for name, _shape, dtype in tensors:
        if dtype not in NUMPY_DTYPES:
            raise _unknown_dtype(name, dtype)
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    placed = []
    end = 0
    for name, shape, dtype in sorted(tensors, key=lambda spec: -NUMPY_DTYPES[spec[2]].itemsize):
        size = prod(shape)
        begin, end = end, end + size * NUMPY_DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        placed.append(Placed((name, tuple(shape), dtype), begin, size))
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    start = LENGTH_BYTES + len(header)
    moved = tuple(Placed(tensor.spec, start + tensor.offset, tensor.size) for tensor in placed)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header, moved, start + end


def _load(header: bytes, limits: Limits) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise _corrupt("the header is not a JSON object")
    # Every bracket and comma may become an object of a hundred bytes: 100 MiB of "[]," would be two gigabytes, parsed.
    marks = sum(header.count(mark) for mark in (b"{", b"[", b","))
    if marks > _MARKS_A_TENSOR * limits.max_tensors + _MARKS_OF_METADATA:
        raise ModelDataError(
            ReasonCode.TOO_LARGE,
            f"the header has {marks} brackets and commas, more than {limits.max_tensors} tensors need",
        )
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_refuse_duplicates)
    except RecursionError:
        raise _corrupt("the header is nested too deeply") from None
    except MemoryError:
        raise ModelDataError(ReasonCode.TOO_LARGE, "the header takes more memory than there is") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and numbers of absurd length
        raise _corrupt(f"the header is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise _corrupt("the header is not a JSON object")
    return entries


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice, _times = Counter(name for name, _value in pairs).most_common(1)[0]
        raise _corrupt(f"the header names {twice!r} twice")
    return entries


def _parse_entry(name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise _corrupt(f"tensor {name!r} must have exactly the fields {', '.join(sorted(_FIELDS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_DTYPES:
        raise _unknown_dtype(name, dtype)
    if not isinstance(shape, list) or not is_shape(shape):
        raise _corrupt(f"tensor {name!r} has no proper shape")
    if not _is_span(offsets):
        raise _corrupt(f"tensor {name!r} has no proper data_offsets")
    needed = prod(shape) * NUMPY_DTYPES[dtype].itemsize
    if needed != offsets[1] - offsets[0]:
        raise _corrupt(
            f"tensor {name!r} of shape {shape} and dtype {dtype} needs {needed} bytes, "
            f"its data_offsets span {offsets[1] - offsets[0]}"
        )
    return (name, tuple(shape), dtype), offsets[0], offsets[1]


def _is_span(offsets: Any) -> bool:
    # bool is an int to Python, not to the format.
    return (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int for offset in offsets)
        and 0 <= offsets[0] <= offsets[1]
    )


def _unknown_dtype(name: str, dtype: Any) -> ModelDataError:
    return ModelDataError(ReasonCode.DTYPE, f"tensor {name!r} is of dtype {dtype}; known are {', '.join(NUMPY_DTYPES)}")


def _corrupt(reason: str) -> ModelDataError:
    return ModelDataError(ReasonCode.CORRUPT, f"not a sound safetensors file: {reason}")
