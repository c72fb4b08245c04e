"""Updates to measure with: files of a model of so many parameters, as a transformer's layers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def layer_shapes(parameters: int, width: int | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes that come to exactly that many parameters.

    `width` of the blocks: by default the largest power of two that leaves room for one and a rest.
    """
    if width is None:
        width = 1
        while 13 * (2 * width) ** 2 <= parameters:
            width *= 2
    block = {
        "attention.query": (width, width),
        "attention.key": (width, width),
        "attention.value": (width, width),
        "attention.out": (width, width),
        "norm.scale": (width,),
        "norm.shift": (width,),
        "up": (4 * width, width),
        "down": (width, 4 * width),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    left = parameters
    for number in range(parameters):
        for name, shape in block.items():
            size = int(np.prod(shape))
            if size >= left:
                shapes["head"] = (left,)
                return shapes
            shapes[f"blocks.{number}.{name}"] = shape
            left -= size
    raise ValueError(f"a model of {parameters} parameters is none")


def write_updates(
    folder: Path, count: int, parameters: int, byzantine: int = 0, width: int | None = None
) -> list[Path]:
    """`count` files of float32: one common model, each with changes of its own; the last `byzantine` far from it."""
    base = 0.05 * np.random.default_rng(0).standard_normal(parameters, np.float32)
    files = []
    for index in range(count):
        values = np.random.default_rng(index + 1).standard_normal(parameters, np.float32)
        values *= 0.05 if index >= count - byzantine else 0.001 * (1 + index / count)
        values += base
        arrays, start = {}, 0
        for name, shape in layer_shapes(parameters, width).items():
            size = int(np.prod(shape))
            arrays[name] = values[start : start + size].reshape(shape)
            start += size
        files.append(folder / f"update-{index:04}.safetensors")
        save_file(arrays, files[-1])
    return files


def write_json_updates(folder: Path, count: int, parameters: int) -> list[Path]:
    """`count` files of FMA's JSON, layers of at most 1,000 numbers a list, seven digits each as float32 has them."""
    files = []
    for index in range(count):
        values = np.random.default_rng(index + 1).standard_normal(parameters).round(7)
        layers = [values[start : start + 1000].tolist() for start in range(0, parameters, 1000)]
        files.append(folder / f"update-{index:04}.json")
        files[-1].write_text(json.dumps(layers))
    return files


def tensor_bytes(file: Path) -> int:
    """Bytes of tensor data in a safetensors file."""
    with file.open("rb") as opened:
        (header,) = struct.unpack("<Q", opened.read(8))
    return file.stat().st_size - 8 - int(header)
