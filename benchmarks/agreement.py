"""Whether two results agree: within what float32 may lose on the way, or which update each of them picked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

_HALF_ULP: Final = 2.0**-24  # of float32, relative


@dataclass(frozen=True)
class Agreement:
    """How far a peer's result is from ours."""

    max_difference: float
    allowed: float
    remark: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it is as near as float32 lets one expect."""
        return self.max_difference <= self.allowed


def agreement(aggregator: str, ours: Path, theirs: Path, updates: Sequence[Path]) -> Agreement:
    """The comparison of two result files. A pick (Krum's) must be equal to the bit.

    A sum of n float32 products, divided once, may be off by (n + 2) half units of the largest value's last place
    (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); ours is rounded once, by half a unit.
    """
    mine, other = _load(ours), _load(theirs)
    if mine.keys() != other.keys() or any(mine[name].shape != other[name].shape for name in mine):
        return Agreement(float("inf"), 0.0, "other tensors")
    farthest = max(_difference(mine[name], other[name]) for name in mine)
    if aggregator == "krum":
        picked = [next((i for i, file in enumerate(updates) if _same(file, pick)), None) for pick in (mine, other)]
        return Agreement(farthest, 0.0, "" if picked[0] == picked[1] else f"picked {picked[1]}, we {picked[0]}")
    if ours.suffix == ".json":
        return Agreement(farthest, (len(updates) + 3) * 2.0**-53 * _largest(tuple(updates)))
    return Agreement(farthest, (len(updates) + 3) * _HALF_ULP * _largest(tuple(updates)))


def _load(path: Path) -> Mapping[str, NDArray[Any]]:
    if path.suffix == ".json":
        return {str(at): np.array(layer, np.float64) for at, layer in enumerate(json.loads(path.read_bytes()))}
    return load_file(path)


def _difference(mine: NDArray[Any], other: NDArray[Any]) -> float:
    if not mine.size:
        return 0.0
    difference = float(np.max(np.abs(mine.astype(np.float64) - other.astype(np.float64))))
    return float("inf") if np.isnan(difference) else difference


def _same(file: Path, arrays: Mapping[str, NDArray[Any]]) -> bool:
    update = _load(file)
    return all(np.array_equal(update[name], arrays[name]) for name in arrays)


@lru_cache(maxsize=1)
def _largest(updates: tuple[Path, ...]) -> float:
    """The largest absolute value of all. Looked for once, not for every result: gigabytes are read."""
    return max(float(np.max(np.abs(array))) for file in updates for array in _load(file).values() if array.size)
