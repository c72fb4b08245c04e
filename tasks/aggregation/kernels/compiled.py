"""The kernels by numba: compiled once, kept on disk, loaded when first needed.

Nothing else of the engine imports this module by name: a process that never has much to compute never loads numba.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from tasks.aggregation.dtypes import NAMES
from tasks.aggregation.kernels import loops
from tasks.aggregation.kernels.networks import comparators
from tasks.aggregation.streams import Array, FloatArray

_log = logging.getLogger(__name__)

_KINDS = {"F64": loops.F64, "F32": loops.F32, "F16": loops.F16, "BF16": loops.BF16}
_NO_FLOATS: FloatArray = np.empty(0, np.float64)
_NO_NARROW: NDArray[np.float32] = np.empty(0, np.float32)
_NO_ADDRESSES = np.empty(0, np.uint64)
_CACHE_BYTES = 1 << 15  # of the processor's nearest cache, for the rows of a sorting network

_addresses = types.Array(types.uint64, 1, "C")
_doubles = types.Array(types.float64, 1, "C")
_singles = types.Array(types.float32, 1, "C")
_matrix = types.Array(types.float64, 2, "C")
_pairs = types.Array(types.int32, 2, "C")
_int = types.int64
_SIGNATURES = {
    "weighted_sum": types.void(_addresses, _addresses, _int, _doubles, types.float64, _doubles, _singles),
    "squared_distances": types.void(_addresses, _int, _int, _doubles),
    "moments": types.void(_addresses, _addresses, _int, _int, _doubles, _doubles, _matrix),
    "order_statistics": types.void(_addresses, _int, _pairs, _int, _int, _int, _int, _doubles),
}


class Compiled:
    """Every method as `Kernels` says. The loops run without the interpreter's lock, so threads run side by side."""

    def __init__(self) -> None:
        self._loops: dict[str, Callable[..., None]] = {}

    def weighted_sum(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None,
        coefficients: Sequence[float],
        size: int,
        divisor: float = 1.0,
    ) -> FloatArray:
        """One array of that size: the sum."""
        total = np.empty(size, np.float64)
        self._sum(values, bases, coefficients, divisor, total, _NO_NARROW)
        return total

    def narrow_weighted_sum(
        self, values: Sequence[Array], coefficients: Sequence[float], size: int, divisor: float
    ) -> NDArray[np.float32]:
        """In float64 for one tile at a time: half the memory of the sum, written once."""
        narrow = np.empty(size, np.float32)
        self._sum(values, None, coefficients, divisor, _NO_FLOATS, narrow)
        return narrow

    def _sum(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None,
        coefficients: Sequence[float],
        divisor: float,
        total: FloatArray,
        narrow: NDArray[np.float32],
    ) -> None:
        if not values:
            total[:], narrow[:] = 0.0, 0.0
            return
        pinned, addresses, kind = _addresses_of(values)
        pinned_bases, base_addresses, _kind = _addresses_of(bases) if bases else ([], _NO_ADDRESSES, 0)
        factors = np.array(coefficients, np.float64)
        self._loop("weighted_sum")(addresses, base_addresses, kind, factors, divisor, total, narrow)
        del pinned, pinned_bases  # only now: the loop read their memory

    def sorted_mean(self, values: Sequence[Array], low: int, high: int) -> FloatArray:
        """A sorting network of only those comparisons that the wanted ranks depend on."""
        return self._order(values, comparators(len(values), low, high), low, high, 0)

    def mean_near_median(self, values: Sequence[Array], count: int) -> FloatArray:
        """A whole sorting network, then a window that shrinks from its farther end."""
        return self._order(values, comparators(len(values), 0, len(values)), 0, 0, count)

    def squared_distances(self, values: Sequence[Array]) -> FloatArray:
        """Tiles of all updates in float64, every pair of them while they are in the cache."""
        pinned, addresses, kind = _addresses_of(values)
        sums = np.empty(len(values) * (len(values) - 1) // 2, np.float64)
        self._loop("squared_distances")(addresses, kind, values[0].size, sums)
        del pinned
        return sums

    def moments(
        self,
        values: Sequence[Array],
        bases: Sequence[Array] | None = None,
        centre: FloatArray | None = None,
        along: FloatArray | None = None,
    ) -> FloatArray:
        """One tile of one update at a time."""
        pinned, addresses, kind = _addresses_of(values)
        pinned_bases, base_addresses, _kind = _addresses_of(bases) if bases else ([], _NO_ADDRESSES, 0)
        sums = np.empty((len(values), 2), np.float64)
        around, towards = (_NO_FLOATS if given is None else np.ascontiguousarray(given) for given in (centre, along))
        self._loop("moments")(addresses, base_addresses, kind, values[0].size, around, towards, sums)
        del pinned, pinned_bases
        return sums

    def _order(self, values: Sequence[Array], pairs: Any, low: int, high: int, window: int) -> FloatArray:
        pinned, addresses, kind = _addresses_of(values)
        mean = np.empty(values[0].size, np.float64)
        block = max(32, min(512, _CACHE_BYTES // (4 * len(values)) // 16 * 16))
        self._loop("order_statistics")(addresses, kind, pairs, low, high, window, block, mean)
        del pinned
        return mean

    def _loop(self, name: str) -> Callable[..., None]:
        if name not in self._loops:
            self._loops[name] = _compile(name)
        return self._loops[name]


def load() -> Compiled:
    """The compiled kernels; each is compiled, or fetched from the disk, when first called."""
    return Compiled()


def _compile(name: str) -> Callable[..., None]:
    """The loop as machine code: from the cache if there is one (NUMBA_CACHE_DIR, else beside the source).

    A cache that can't be written (a read-only image, a full disk) costs time, not the round.
    """
    function, signature = getattr(loops, name), _SIGNATURES[name]
    try:
        compiled: Callable[..., None] = njit([signature], nogil=True, cache=True)(function)
    except (RuntimeError, OSError) as error:
        _log.warning("numba keeps no cache here (set NUMBA_CACHE_DIR to a writable folder): %s", error)
        compiled = njit([signature], nogil=True)(function)
    return compiled


def _addresses_of(values: Sequence[Array]) -> tuple[list[Array], Any, int]:
    """(the arrays to keep alive, where they lie, how they are stored)."""
    pinned = [np.ascontiguousarray(value) for value in values]
    addresses = np.array([value.ctypes.data for value in pinned], np.uint64)
    return pinned, addresses, _KINDS[NAMES[pinned[0].dtype]]
