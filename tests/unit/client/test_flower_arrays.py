"""Flower's ArrayRecord as model data: skipped where Flower's environment has not been made."""

from __future__ import annotations

import io
import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedqueue.errors import InvalidArgument
from fedqueue.tensors import as_tensors

ROOT = Path(__file__).resolve().parents[3]

# In Flower's own environment; what it lacks of ours (ml_dtypes, pydantic) comes after its own packages.
_CODE = """
import json, sys
sys.path += sys.argv[1:3]
import numpy as np
from flwr.app import Array, ArrayRecord
from fedqueue.payload import SharedStore
from fedqueue.tensors import as_tensors, write_tensors
from tasks.aggregation import UpdateArrays, combine

def record(factor):
    arrays = {"w": factor * np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3), "h": np.ones(2, np.float16)}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})

with open(sys.argv[3], "wb") as file:
    write_tensors(file, as_tensors(record(1), "data"))
combined = combine("fedavg", {}, [UpdateArrays(record(1), 1), UpdateArrays(record(4), 2)])
print(json.dumps({name: array.tolist() for name, array in combined.arrays.items()}))
"""


def test_an_array_record_is_model_data_and_combines(tmp_path: Path) -> None:
    python = ROOT / ".peers/flower/bin/python"
    if not python.exists():
        pytest.skip("Flower's environment is not there: make peers")
    file = tmp_path / "data.safetensors"
    command = [str(python), "-c", _CODE, str(ROOT), sysconfig.get_paths()["purelib"], str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    arrays = load_file(file)
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "w": (np.dtype(np.float32), (2, 3)),
        "n": (np.dtype(np.int64), ()),
        "h": (np.dtype(np.float16), (2,)),
    }
    assert arrays["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert json.loads(done.stdout) == {"w": [[0, 3, 6], [9, 12, 15]], "n": 3, "h": [1, 1]}


class _OnAnotherDevice:
    """As torch's tensors on a GPU do."""

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class _OfFlower:
    """As Flower's Array does: numpy reads its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def numpy(self) -> object:
        return np.load(io.BytesIO(self.data), allow_pickle=False)


@pytest.mark.parametrize("shape", ["(8589934592,)", "(4,", "(1" + "0" * 400 + ",)"], ids=["64 GiB", "no end", "digits"])
def test_an_array_whose_header_lies_is_named(shape: str) -> None:
    """numpy believes it, and ends in whatever error it comes to (found by fuzzing)."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(InvalidArgument, match=r"data\['w'\]"):
        as_tensors({"w": _OfFlower(data)}, "data")  # type: ignore[dict-item]


def test_a_tensor_that_gives_no_array_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"data\['w'\].*cuda:0"):
        as_tensors({"w": _OnAnotherDevice()}, "data")  # type: ignore[dict-item]
