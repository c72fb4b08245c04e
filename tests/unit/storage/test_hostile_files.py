"""Files that lie, each met by a process with 1 GiB of address space: refused with a reason, and before allocating.

The way is a submission's: taken in, brought into the model's format, opened, and looked through for what is not finite.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.hubs import ROOT

GIB: Final = 1 << 30
MIB: Final = 1 << 20

# Everything is imported once; then each file is met by a child of this process, which has the limit. Its answer: what
# became of the file, and by how many bytes its address space grew at most meanwhile.
_MEET: Final = """
import json, os, re, resource, sys
from pathlib import Path
from connectors.errors import ModelDataError
from connectors.model_data import find_not_finite
from connectors.records import DataFormat
from connectors.storage import FileModelDataConnector

def address_space():
    return 1024 * int(re.search(r"VmPeak:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

def meet(folder, data_format, limit):
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    store = FileModelDataConnector(Path(folder) / "store", outside_roots=[folder])
    before = address_space()
    found = {"code": None, "reason": None}
    try:
        ref = store.normalise(store.take_in((Path(folder) / "hostile").as_uri(), None), DataFormat(data_format))
        reader = store.open(ref, DataFormat(data_format))
        assert find_not_finite(reader) is None
    except ModelDataError as error:
        found = {"code": str(error.reason_code), "reason": error.reason}
    return found | {"grown": address_space() - before}

for line in sys.stdin:
    child = os.fork()
    if not child:
        print(json.dumps(meet(**json.loads(line))), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(json.dumps({"code": "the process died of it", "reason": None}), flush=True)
"""


@pytest.fixture(autouse=True)
def _nothing_large_is_kept(tmp_path: Path) -> Iterator[None]:
    """pytest keeps the folders of three runs: gigabytes of zeros."""
    yield
    shutil.rmtree(tmp_path)


Meet = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def meet() -> Iterator[Meet]:
    """What becomes of the file `hostile` in a folder."""
    # One thread of BLAS: each has an address space of its own, and nothing here multiplies matrices.
    with subprocess.Popen(
        [sys.executable, "-c", _MEET],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def met(folder: Path, data_format: str, limit: int = GIB) -> dict[str, Any]:
            ask.write(json.dumps({"folder": str(folder), "data_format": data_format, "limit": limit}) + "\n")
            ask.flush()
            found: dict[str, Any] = json.loads(answers.readline())
            return found

        yield met
        ask.close()


def _check(found: dict[str, Any], folder: Path, code: str, says: str, room: int) -> None:
    assert (found["code"], says in str(found["reason"])) == (code, True), found
    assert found["grown"] <= room, f"{found['grown'] // MIB} MiB more than before, {room // MIB} allowed"
    assert not list((folder / "store" / "staging").iterdir())


# --- safetensors --------------------------------------------------------------------------------------------------


def _safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


_W: Final = _entry([2], 0, 8)

# Allowed beside the mapped file itself: some buffers of a mebibyte, and what the allocator rounds up to.
_LITTLE: Final = 16 * MIB


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_safetensors({"w": _entry([7 << 38], 0, 7 << 40)}, bytes(8)), "describes 7696581394432 bytes of tensors"),
        (_safetensors({"w": _W}, bytes(8), length=7 << 40), "the header claims 7696581394432 bytes"),
        (_safetensors({"w": _W}, bytes(8), length=(1 << 64) - 1), "the header claims"),
        (_safetensors({"w": _W}, bytes(8), length=100), "the header claims 100 bytes"),
        (_safetensors({"w": _W, "x": _entry([2], 4, 12)}, bytes(12)), "'x' overlaps the one before"),
        (_safetensors({"w": _W, "x": _W}, bytes(8)), "'x' overlaps the one before"),
        (_safetensors({"w": _W, "x": _entry([2], 16, 24)}, bytes(24)), "'x' leaves 8 bytes before it"),
        (_safetensors({"w": _entry([2], 8, 16)}, bytes(16)), "'w' leaves 8 bytes before it"),
        (_safetensors({"w": _W}, bytes(9)), "something follows them"),
        (_safetensors({"w": _W}, bytes(7)), "it was cut short"),
        (_safetensors(b'{"w":%(w)s,"w":%(w)s}' % {b"w": json.dumps(_W).encode()}, bytes(8)), "names 'w' twice"),
        (_safetensors({"w": _entry([1 << 40, 1 << 40], 0, 8)}, bytes(8)), "no proper shape"),
        # 2**32 × 2**32 elements are none at all where counts wrap around at 64 bits.
        (_safetensors({"w": _entry([1 << 32, 1 << 32], 0, 0)}), "no proper shape"),
        (_safetensors({"w": _entry([1 << 29, 1 << 30], 0, 8)}, bytes(8)), "its data_offsets span 8"),
        (_safetensors({"w": _entry([0, 1 << 63], 0, 0)}), "no proper shape"),
        (_safetensors({"w": _entry([-2, -1], 0, 8)}, bytes(8)), "no proper shape"),
        (_safetensors({"w": _entry([2], -8, 0)}, bytes(8)), "no proper data_offsets"),
        (_safetensors(b'{"a":' * 100_000), "nested too deeply"),
        (_safetensors(b'{"__metadata__":{"a":' + b"[" * 100_000), "nested too deeply"),
        (_safetensors(b"[]"), "not a JSON object"),
        (_safetensors(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'), "not"),
    ],
    ids=lambda value: value[:24].replace("'", "") if isinstance(value, str) else "",
)
def test_a_lying_safetensors_header_is_refused(meet: Meet, tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "hostile").write_bytes(data)
    _check(meet(tmp_path, "safetensors"), tmp_path, "CORRUPT", says, _LITTLE)


def test_a_header_of_200_megabytes_of_zeros_is_not_even_read(meet: Meet, tmp_path: Path) -> None:
    with (tmp_path / "hostile").open("wb") as file:
        file.write((200 * 10**6).to_bytes(8, "little"))
        file.truncate(8 + 200 * 10**6)
    # It is mapped, which takes address space and no memory.
    _check(
        meet(tmp_path, "safetensors"), tmp_path, "TOO_LARGE", "the header has 200000000 bytes", 200 * 10**6 + _LITTLE
    )


def test_a_header_of_64_mebibytes_of_zeros_is_no_json(meet: Meet, tmp_path: Path) -> None:
    with (tmp_path / "hostile").open("wb") as file:
        file.write((64 * MIB).to_bytes(8, "little"))
        file.truncate(8 + 64 * MIB)
    _check(meet(tmp_path, "safetensors"), tmp_path, "CORRUPT", "not a JSON object", 128 * MIB + _LITTLE)


@pytest.mark.parametrize("repeated", [b"[],", b'"":{},', b"{},"], ids=repr)
def test_a_header_that_would_be_gigabytes_of_objects_is_counted_first(
    meet: Meet, tmp_path: Path, repeated: bytes
) -> None:
    """90 MiB of "[]," parse into two gigabytes of lists; a killed worker would meet the same file again."""
    text = b'{"w":[' + repeated * (90 * MIB // len(repeated)) + b"0]}"
    (tmp_path / "hostile").write_bytes(_safetensors(text))
    _check(meet(tmp_path, "safetensors"), tmp_path, "TOO_LARGE", "brackets and commas", 180 * MIB + _LITTLE)


# --- FMA's JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (lambda: b"[" * 10**7 + b"]" * 10**7, "SCHEMA", "nested deeper than 64 lists"),
        (lambda: b'{"a":' * 10**7, "SCHEMA", "the data is an object"),
        (lambda: b'[{"a":' * 10**6, "SCHEMA", "[0] is an object"),
        (lambda: b"[1," + b"9" * 50_000 + b"]", "NOT_FINITE", "[1] is beyond what a float64 can hold"),
        (lambda: b"[1," + b"9" * 20 * MIB + b"]", "SCHEMA", "[1] is longer than any number"),
        (lambda: b"[1, 1e99999999999999999999]", "NOT_FINITE", "[1] is beyond what a float64 can hold"),
        (lambda: b"[1, NaN]", "NOT_FINITE", "NaN"),
        (lambda: b"[[1, -Infinity]]", "NOT_FINITE", "-Infinity"),
        (lambda: b'[1, "' + b"a" * 20 * MIB + b'"]', "SCHEMA", "[1] is text"),
        (lambda: b"[" + b"[]," * (80 * MIB) + b"[]]", "TOO_LARGE", "100001 layers or more"),
        (lambda: b"[[" + b"[]," * MIB + b"[0]]]", "SHAPE", "[0][1048576] has shape [1]"),
        (lambda: b"[" + b"0," * (150 * MIB) + b"0]", "TOO_LARGE", "bytes of JSON, the limit is 268435456"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_hostile_json_is_refused(meet: Meet, tmp_path: Path, text: Callable[[], bytes], code: str, says: str) -> None:
    (tmp_path / "hostile").write_bytes(text())
    size = (tmp_path / "hostile").stat().st_size
    # The text once, and a hundred thousand layers; what is refused by its length alone is not read at all.
    _check(meet(tmp_path, "json"), tmp_path, code, says, (0 if "the limit" in says else size + _LITTLE) + _LITTLE)


def test_numbers_for_which_there_is_no_memory_are_too_large(meet: Meet, tmp_path: Path) -> None:
    """48 MiB of "0," are 192 MiB of numbers: within the limits, but more than this process may have."""
    (tmp_path / "hostile").write_bytes(b"[" + b"0," * (24 * MIB) + b"0]")
    found = meet(tmp_path, "json", 320 * MIB)
    assert (found["code"], "more memory than there is" in found["reason"]) == ("TOO_LARGE", True), found


def test_a_long_list_is_no_hostile_file(meet: Meet, tmp_path: Path) -> None:
    """32 Mi numbers, eight bytes each; as Python's objects, 24 bytes and 8 for its place in a list, they are 1 GiB."""
    (tmp_path / "hostile").write_bytes(b"[" + b"0," * (32 * MIB - 1) + b"0]")
    found = meet(tmp_path, "json")
    assert found["code"] is None, found


# --- numpy's files ------------------------------------------------------------------------------------------------


def _npy(header: Any, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else (repr(header) + "\n").encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little") + text + data


def _header(shape: Any, descr: Any = "<f4", order: Any = False) -> dict[str, Any]:
    return {"descr": descr, "fortran_order": order, "shape": shape}


_NPY: Final = _npy(_header((2,)), bytes(8))

# Protocol 0, as anybody could type it: whoever unpickles it runs the command.
_PICKLE: Final = b"cos\nsystem\n(S'touch run-by-pickle'\ntR."


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (_npy(_header((7 << 38,)), bytes(8)), "CORRUPT", "needs 7696581394432 bytes, it has 8"),
        (_npy(_header((1 << 40, 1 << 40)), bytes(8)), "CORRUPT", "no proper shape"),
        (_npy(_header((1 << 32, 1 << 32))), "CORRUPT", "no proper shape"),
        (_npy(_header((0, 1 << 63))), "CORRUPT", "no proper shape"),
        (_npy(_header((-1, -2)), bytes(8)), "CORRUPT", "no proper shape"),
        (_npy(_header((True, 2)), bytes(8)), "CORRUPT", "no proper shape"),
        (_npy(_header((2.0,)), bytes(8)), "CORRUPT", "no proper shape"),
        (_npy(_header((1,) * 65), bytes(4)), "CORRUPT", "no proper shape"),
        (_npy(_header((2,)), bytes(9)), "CORRUPT", "needs 8 bytes, it has 9"),
        (_npy(_header((2,), "|O"), _PICKLE), "DTYPE", "is of dtype '|O'"),
        (_npy(_header((2,), [("a", "|O")]), _PICKLE), "DTYPE", "is of dtype"),
        (_npy(_header((2,), ">f4"), bytes(8)), "DTYPE", "is of dtype '>f4'"),
        (_npy(_header((2,), "<V4000000000")), "DTYPE", "is of dtype '<V4000000000'"),
        (_npy(b"(" * 9_000), "CORRUPT", "no Python literal"),
        (_npy(b"-" * 9_000 + b"1"), "CORRUPT", "no Python literal"),
        (_npy(b"{'descr': __import__('os').system('touch run-by-literal')}"), "CORRUPT", "no Python literal"),
        (_npy(b"{'shape': (" + b"9" * 5_000 + b",)}"), "CORRUPT", "no Python literal"),
        (_npy({"descr": "<f4"}), "CORRUPT", "exactly the fields"),
        (_npy(_header((2,), order=1), bytes(8)), "CORRUPT", "neither True nor False"),
        (_npy(_header((2,)), bytes(8), version=2, length=(1 << 32) - 1), "CORRUPT", "claims 4294967295 bytes"),
        (_npy(_header((2,)), bytes(8), length=5_000), "CORRUPT", "ends within its header"),
        (_npy(_header((2,)), bytes(8), version=9), "CORRUPT", "of version 9.0"),
        (b"\x93NUMPY", "CORRUPT", "does not begin as .npy does"),
    ],
    ids=lambda value: value[:24].replace("'", "") if isinstance(value, str) else "",
)
def test_a_lying_npy_header_is_refused(meet: Meet, tmp_path: Path, data: bytes, code: str, says: str) -> None:
    (tmp_path / "hostile").write_bytes(data)
    _check(meet(tmp_path, "safetensors"), tmp_path, code, says, _LITTLE)
    assert not list(ROOT.glob("run-by-*")), "nothing in the file was run"


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _zeros(count: int) -> bytes:
    """A sound .npy of so many bytes of zeros."""
    return _npy(_header((count,), "|i1"), bytes(count))


def _listed(data: bytes, *, offset: int, value: bytes) -> bytes:
    """The archive with other bytes in its list's first entry (signature PK 01 02)."""
    place = data.index(b"PK\x01\x02") + offset
    return data[:place] + value + data[place + len(value) :]


def _size(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _bomb() -> bytes:
    data = _zip({"w.npy": _zeros(256 * MIB)})
    assert 256 * MIB / len(data) > 1000
    return data


def _bomb_that_says_it_is_small() -> bytes:
    """The list promises 1,000 bytes, and so does the .npy header: 64 MiB come out of it."""
    promised = _npy(_header((900,), "|i1")) + bytes(900)
    data = _zip({"w.npy": promised + bytes(64 * MIB)})
    return _listed(data, offset=24, value=_size(len(promised)))


def _thousand_names_for_one_bomb() -> bytes:
    """Every entry of the list leads to the same bytes: 100 KiB of archive, 32 GiB of promises."""
    inner = _zip({"w0000.npy": _zeros(32 * MIB)})
    start = inner.index(b"PK\x01\x02")
    end = inner.index(b"PK\x05\x06")
    entry = inner[start:end]
    entries = b"".join(entry.replace(b"w0000", b"w%04d" % number) for number in range(1000))
    count = (1000).to_bytes(2, "little")
    tail = inner[end : end + 8] + count + count + _size(len(entries)) + _size(start) + b"\0\0"
    return inner[:start] + entries + tail


def _long_list() -> bytes:
    """300,000 members of nothing."""
    return _zip({f"{number}.npy": b"" for number in range(300_000)}, zipfile.ZIP_STORED)


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (_bomb, "TOO_LARGE", "more than 100 times as many"),
        (_bomb_that_says_it_is_small, "CORRUPT", ""),
        (_thousand_names_for_one_bomb, "TOO_LARGE", "the limit is"),
        (_long_list, "TOO_LARGE", "the archive's list of members has"),
        (lambda: _zip({"w.npy": _npy(_header((7 << 38,)), bytes(8))}), "CORRUPT", "needs 7696581394432 bytes"),
        (lambda: _listed(_zip({"w.npy": _NPY}), offset=24, value=_size(3 << 30)), "TOO_LARGE", "more than 100 times"),
        (lambda: _listed(_zip({"w.npy": _NPY}), offset=24, value=_size(8 * MIB)), "CORRUPT", "needs 8 bytes"),
        (lambda: _listed(_zip({"w.npy": _NPY}), offset=42, value=_size(3 << 30)), "CORRUPT", "not a sound .npz"),
        (lambda: _listed(_zip({"w.npy": _NPY}), offset=8, value=b"\x01\x00"), "CORRUPT", "it is encrypted"),
        (lambda: _listed(_zip({"w.npy": _NPY}), offset=16, value=bytes(4)), "CORRUPT", "Bad CRC"),
        (lambda: _zip({"w.npy": _NPY}, zipfile.ZIP_LZMA), "CORRUPT", "packed by method 14"),
        (lambda: _zip({"w.npy": _NPY}, zipfile.ZIP_BZIP2), "CORRUPT", "packed by method 12"),
        (lambda: _zip({"/etc/w.npy": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({"../w.npy": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({"a/../../w.npy": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({"a\\w.npy": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({"w.txt": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({".npy": _NPY}), "CORRUPT", "must be a plain one"),
        (lambda: _zip({"w0.npy": _NPY, "w1.npy": _NPY}).replace(b"w1.npy", b"w0.npy"), "CORRUPT", "two members"),
        (lambda: _zip({"w.npy": _zip({"w.npy": _NPY})}), "CORRUPT", "does not begin as .npy does"),
        (lambda: _zip({"w.npy": _npy(_header((1,), "|O"), _PICKLE)}), "DTYPE", "is of dtype '|O'"),
        (lambda: _zip({"__metadata__.npy": _NPY}), "SCHEMA", "none may be __metadata__"),
        (lambda: _zip({"w.npy": _NPY})[:-30], "CORRUPT", "not a sound .npz"),
        (lambda: b"PK\x03\x04" + b"\x14" * 100, "CORRUPT", "not a sound .npz"),
    ],
    ids=lambda value: value[:24].replace("'", "") if isinstance(value, str) else "",
)
def test_a_hostile_archive_is_refused(
    meet: Meet, tmp_path: Path, make: Callable[[], bytes], code: str, says: str
) -> None:
    (tmp_path / "hostile").write_bytes(make())
    _check(meet(tmp_path, "safetensors"), tmp_path, code, says, _LITTLE)
    assert not list(ROOT.glob("run-by-*")), "nothing in the file was run"


def test_a_large_archive_is_no_hostile_file(meet: Meet, tmp_path: Path) -> None:
    """400 MiB of real values, unpacked into a file and never into memory."""
    weights = np.random.default_rng(0).integers(0, 1 << 16, 100 * MIB, np.uint32)
    file = io.BytesIO()
    np.savez(file, w=weights.view(np.int32))
    (tmp_path / "hostile").write_bytes(file.getbuffer())
    found = meet(tmp_path, "safetensors")
    assert found["code"] is None, found
    # Two maps of it, one after the other: of what was unpacked, and of the blob that was made of it.
    assert found["grown"] < 800 * MIB + _LITTLE
