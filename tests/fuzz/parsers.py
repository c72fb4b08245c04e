"""Every parser that takes bytes from outside, each with a corpus of valid inputs and what it may answer.

A parser takes an input or refuses it by its layer's typed error. Where another judge is at hand (Python's own JSON,
numpy's own reader), what was taken is held against it.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from jsonschema import Draft202012Validator
from safetensors.numpy import save

from connectors.errors import ModelDataError
from connectors.model_data import TensorReader, find_not_finite
from connectors.storage.fma_json import FLAT, parse_fma_json
from connectors.storage.json_files import JsonReader
from connectors.storage.limits import Limits
from connectors.storage.npz_files import NumpyReader
from connectors.storage.safetensors_files import SafetensorsReader
from connectors.storage.safetensors_layout import Headers
from fedqueue.errors import DataCorrupt, InvalidArgument
from fedqueue.tensors import as_tensors, read_tensors
from tasks.domain.json_schemas import find_instance_fault, find_schema_fault
from tasks.domain.update_schema import find_breach
from tests.fuzz.messages import envelopes, tasks
from tests.fuzz.mutations import JsonMutator, Mutator
from tests.fuzz.running import Parse

Draw = Callable[[], bytes]
Made = tuple[Parse, Draw]

# Small, so that the limits themselves are met.
LIMITS: Final = Limits(
    max_bytes=1 << 22, max_tensors=200, max_header_bytes=1 << 14, max_json_bytes=1 << 15, ratio_free_bytes=1 << 18
)
_ARRAYS: Final[Mapping[str, Any]] = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer/b": np.ones(4, np.float16),
    "n": np.array(3),
    "flags": np.array([True, False]),
    "empty": np.empty((0, 2)),
}


def _in_a_file(read: Callable[[Path, Path], TensorReader]) -> Parse:
    """Read an input as the store does: from a file, all of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    path = folder / "input"

    def parse(data: bytes) -> bool:
        path.write_bytes(data)
        if not data:
            return False  # an empty file is refused before it is mapped
        try:
            with closing(read(folder, path)) as reader:
                _walk(reader, LIMITS.max_bytes)
        except ModelDataError:
            return False
        return True

    return parse


def _walk(reader: TensorReader, most: int) -> None:
    """Read every element, and see that what is promised is there."""
    total = 0
    for name, shape, _dtype in reader.tensors:
        values = reader.read(name, 0, prod(shape))
        assert values.size == prod(shape)
        total += values.nbytes
    assert total == reader.size_bytes <= 8 * most
    find_not_finite(reader)


# --- files --------------------------------------------------------------------------------------------------------


def safetensors(seed: int) -> Made:
    """The hub's reader."""
    headers = Headers(LIMITS)
    parse = _in_a_file(lambda root, path: SafetensorsReader(root, path, headers))
    return parse, Mutator(_safetensors_corpus(), seed).draw


def clients_safetensors(seed: int) -> Made:
    """The client's reader, of what it fetches."""

    def parse(data: bytes) -> bool:
        try:
            for array in read_tensors(bytearray(data)).values():
                assert array.nbytes <= len(data)
                array.astype(np.float64)
        except DataCorrupt:
            return False
        return True

    return parse, Mutator(_safetensors_corpus(), seed).draw


def _safetensors_corpus() -> list[bytes]:
    return [
        save(dict(_ARRAYS)),
        save({"w": np.arange(64, dtype=np.float64)}, metadata={"format": "np"}),
        save({f"layer.{number}": np.full(number, number, np.int32) for number in range(20)}),
        _packed({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\x80\x3f\x00\x40"),
        _packed({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\xc0\x7f"),
    ]


def _packed(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def npy(seed: int) -> Made:
    """One array of numpy's."""
    arrays = [*_ARRAYS.values(), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.zeros((2, 2, 2), np.int8)]
    return _in_a_file(lambda root, path: NumpyReader(root, path, LIMITS)), Mutator(_npys(arrays), seed).draw


def _npys(arrays: Any) -> list[bytes]:
    corpus = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        corpus.append(buffer.getvalue())
    return corpus


def npz(seed: int) -> Made:
    """An archive of numpy's."""
    corpus = []
    for pack in (np.savez, np.savez_compressed):
        for arrays in (dict(_ARRAYS), {"w": np.zeros(3000)}, {f"l{number}": np.ones(2) for number in range(8)}):
            buffer = io.BytesIO()
            pack(buffer, **arrays)
            corpus.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(_npys(_ARRAYS.values())):
            archive.writestr(f"layer/{number}.npy", data)
        archive.comment = b"made elsewhere"
    corpus.append(buffer.getvalue())
    return _in_a_file(lambda root, path: NumpyReader(root, path, LIMITS)), Mutator(corpus, seed).draw


def json_model(seed: int) -> Made:
    """FMA's lists, what is taken held against Python's own reading of them."""
    corpus = [
        b"[1, 2, 4]",
        b"[[1.5, -2e3], [[1, 2], [3, 4]], 7]",
        b"[]",
        b"[[], [[]], [0.1]]",
        json.dumps([[float(number) / 7 for number in range(40)]] * 5).encode(),
        b" [ [ 1 ,2 ] , [ 3,4 ] ] \n",
        b"[-0.0, 1e308, 1E-5, 123456789012345678901234567890]",
    ]
    read = _in_a_file(lambda root, path: JsonReader(root, path, LIMITS))

    def parse(data: bytes) -> bool:
        is_taken = read(data)
        if is_taken:
            found = parse_fma_json(data, LIMITS)
            expected = json.loads(data)
            layers = [expected] if list(found) == [FLAT] else expected
            assert len(layers) == len(found)
            for layer, array in zip(layers, found.values(), strict=True):
                assert np.array_equal(np.asarray(layer, np.float64), array), "Python reads other numbers"
        return is_taken

    return parse, Mutator(corpus, seed).draw


# --- JSON Schema --------------------------------------------------------------------------------------------------


def schemas(seed: int) -> Made:
    """A model's `update_schema`, as it is checked when the model is made and then used on an update."""
    numbers = {"type": "array", "items": {"type": "number", "minimum": -5, "maximum": 5}, "minItems": 1}
    corpus: list[Any] = [
        numbers,
        {"type": "array", "prefixItems": [numbers, {"type": "array", "maxItems": 3}], "items": False},
        {"$defs": {"l": numbers}, "type": "array", "items": {"$ref": "#/$defs/l"}, "uniqueItems": True},
        {"anyOf": [{"type": "array", "contains": {"const": 1}}, {"not": {"type": "array"}}], "unevaluatedItems": False},
        {"oneOf": [{"maxItems": 2}, {"minItems": 3}], "if": {"minItems": 2}, "then": {"items": numbers}},
        {"type": "object", "properties": {"note": {"pattern": "^f.+e$"}}, "patternProperties": {"^a": {"maximum": 1}}},
        {"$id": "urn:x", "$anchor": "here", "allOf": [{"$ref": "#here"}], "enum": [[1.0]]},
        {"type": ["array", "null"], "minContains": 1, "contains": {"multipleOf": 0.5}, "pattern": "^a+$"},
    ]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    readers = []
    for number, text in enumerate((b"[1, 2, 4]", b"[[1, 1], [[1, 2], [3, 4]]]", b"[]")):
        (folder / str(number)).write_bytes(text)
        readers.append(JsonReader(folder, folder / str(number), LIMITS))

    def parse(data: bytes) -> bool:
        try:
            # Messages carry no NaN.
            schema = json.loads(data, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        if not isinstance(schema, dict) or find_schema_fault(schema) is not None:
            return False
        for reader in readers:
            find_breach(schema, reader)
        for results in ({"accuracy": 0.5, "note": "fine", "layers": [1, 10**400]}, "x", None):
            find_instance_fault(Draft202012Validator, schema, results)
        return True

    return parse, JsonMutator(corpus, seed, longest=1 << 13).draw


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


# --- Flower -------------------------------------------------------------------------------------------------------


class _Record:
    """An array as Flower's `Array` carries it: the bytes of an .npy, opened by numpy when somebody asks for it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def numpy(self) -> Any:
        """As flwr.common.record.array.Array does it."""
        return np.load(io.BytesIO(self.data), allow_pickle=False)


def flower_arrays(seed: int) -> Made:
    """A Flower ArrayRecord that is handed to the client."""

    def parse(data: bytes) -> bool:
        try:
            for array in as_tensors({"w": _Record(data)}, "data").values():  # type: ignore[dict-item]
                assert array.nbytes <= 8 * LIMITS.max_bytes
        except InvalidArgument:
            return False
        return True

    return parse, Mutator(_npys(_ARRAYS.values()), seed).draw


PARSERS: Final[Mapping[str, Callable[[int], Made]]] = {
    "safetensors": safetensors,
    "safetensors of the client": clients_safetensors,
    "npy": npy,
    "npz": npz,
    "json": json_model,
    "schema": schemas,
    "flower": flower_arrays,
    "envelopes": envelopes,
    "tasks": tasks,
}
