"""The kernels' loops, compiled by numba. Imported only once there is enough to compute.

Updates lie where they lie: a kernel gets their addresses, and reads each value once. Tiles of a kibi-element or so are
turned into float64 in the processor's nearest cache. No `fastmath` anywhere: every addition happens in the order
written, on any processor.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import carray  # type: ignore[attr-defined]
from numba.extending import register_jitable

from tasks.aggregation.kernels import LANES, TILE
from tasks.aggregation.kernels.vectors import float32_at, float64_at, sum_products, sum_squared_differences, uint16_at

# How a value is stored.
F64, F32, F16, BF16 = 0, 1, 2, 3

# Long runs of each update in turn: a short one ends before the processor has seen that it should read ahead.
_SUM_TILE: Final = 8192
_ROW_BYTES: Final = 8 * TILE
_HALF_SCALE: Final = np.float32(2.0**112)  # between the exponents of float16 and of float32


@register_jitable
def load(address: Any, kind: Any, start: Any, tile: Any, bits: Any) -> None:
    """Fill `tile` with the float64 values of the elements from `start` on; `bits` is scratch, uint32, as long."""
    size = tile.size
    if kind == 1:
        floats = carray(float32_at(address), (start + size,))[start:]
        for k in range(size):
            tile[k] = floats[k]
    elif kind == 0:
        doubles = carray(float64_at(address), (start + size,))[start:]
        for k in range(size):
            tile[k] = doubles[k]
    else:
        halves = carray(uint16_at(address), (start + size,))[start:]
        widened = bits.view(np.float32)
        if kind == 3:
            for k in range(size):
                bits[k] = np.uint32(halves[k]) << np.uint32(16)
            for k in range(size):
                tile[k] = widened[k]
        else:
            # Shifted into a float32's fields, a float16 is too small by 2**112, subnormal ones included.
            for k in range(size):
                bits[k] = np.uint32(halves[k] & np.uint16(0x7FFF)) << np.uint32(13)
            for k in range(size):
                value = np.float64(widened[k] * _HALF_SCALE)
                if bits[k] >= np.uint32(0x0F800000):  # infinite or NaN
                    value = np.float64(np.inf if bits[k] == np.uint32(0x0F800000) else np.nan)
                tile[k] = -value if halves[k] & np.uint16(0x8000) else value


def weighted_sum(
    addresses: Any, base_addresses: Any, kind: Any, coefficients: Any, divisor: Any, total: Any, narrow: Any
) -> None:
    """Sum of coefficient × (value - base) over `divisor`; no `base_addresses`: of coefficient × value.

    Into `total`; if that is empty, cast into `narrow`.
    """
    count = addresses.size
    deltas = base_addresses.size > 0
    casting = narrow.size > 0
    size_of_all = max(total.size, narrow.size)
    longest = min(_SUM_TILE, size_of_all)
    tile = np.empty(longest, np.float64)
    base_tile = np.zeros(longest, np.float64)
    sum_tile = np.empty(longest, np.float64)
    bits = np.empty(longest, np.uint32)
    for start in range(0, size_of_all, _SUM_TILE):
        size = min(_SUM_TILE, size_of_all - start)
        stop = start + size
        sums = sum_tile[:size] if casting else total[start:stop]
        sums[:] = 0.0
        base = base_tile[:size]
        i = 0
        while i < count:
            if deltas and (i == 0 or base_addresses[i] != base_addresses[i - 1]):
                load(base_addresses[i], kind, start, base, bits[:size])
            four = i + 4 <= count and kind == 1
            if four and deltas:
                for j in range(1, 4):
                    four = four and base_addresses[i + j] == base_addresses[i]
            if four:
                add_four(addresses, base, deltas, coefficients, i, start, sums)
                i += 4
            else:
                values = tile[:size]
                load(addresses[i], kind, start, values, bits[:size])
                c = coefficients[i]
                if deltas:
                    for k in range(size):
                        sums[k] += c * (values[k] - base[k])
                else:
                    for k in range(size):
                        sums[k] += c * values[k]
                i += 1
        if casting:
            out = narrow[start:stop]
            for k in range(size):
                out[k] = np.float32(sums[k] / divisor)
        elif divisor != 1.0:
            for k in range(size):
                sums[k] = sums[k] / divisor


@register_jitable
def add_four(addresses: Any, base: Any, deltas: Any, coefficients: Any, i: Any, start: Any, sums: Any) -> None:
    """Four float32 updates from the i-th on at once: the sums are loaded and stored a quarter as often."""
    size = sums.size
    stop = start + size
    x0 = carray(float32_at(addresses[i]), (stop,))[start:]
    x1 = carray(float32_at(addresses[i + 1]), (stop,))[start:]
    x2 = carray(float32_at(addresses[i + 2]), (stop,))[start:]
    x3 = carray(float32_at(addresses[i + 3]), (stop,))[start:]
    c0, c1, c2, c3 = coefficients[i], coefficients[i + 1], coefficients[i + 2], coefficients[i + 3]
    if deltas:
        for k in range(size):
            b = base[k]
            s = sums[k] + c0 * (np.float64(x0[k]) - b)
            s = s + c1 * (np.float64(x1[k]) - b)
            s = s + c2 * (np.float64(x2[k]) - b)
            sums[k] = s + c3 * (np.float64(x3[k]) - b)
    else:
        for k in range(size):
            s = sums[k] + c0 * np.float64(x0[k])
            s = s + c1 * np.float64(x1[k])
            s = s + c2 * np.float64(x2[k])
            sums[k] = s + c3 * np.float64(x3[k])


def squared_distances(addresses: Any, kind: Any, size: Any, sums: Any) -> None:
    """Every pair of one segment, tile by tile."""
    count = addresses.size
    rows = np.zeros((count, TILE), np.float64)
    first_row = np.uint64(rows.ctypes.data)
    bits = np.empty(TILE, np.uint32)
    sums[:] = 0.0
    for start in range(0, size, TILE):
        length = min(TILE, size - start)
        whole = -(-length // LANES) * LANES
        for i in range(count):
            load(addresses[i], kind, start, rows[i, :length], bits[:length])
            rows[i, length:whole] = 0.0
        # By blocks of rows that stay in the cache while all others pass by them.
        for block in range(0, count, 16):
            for i in range(block + 1, count):
                row = first_row + np.uint64(i * _ROW_BYTES)
                for j in range(block, min(block + 16, i)):
                    other = first_row + np.uint64(j * _ROW_BYTES)
                    sums[i * (i - 1) // 2 + j] += sum_squared_differences(row, other, whole)


def moments(addresses: Any, base_addresses: Any, kind: Any, size: Any, centre: Any, along: Any, sums: Any) -> None:
    """Sums of d² and d × along for d = value - base - centre; what is empty is left out."""
    tile = np.empty(TILE, np.float64)
    base = np.empty(TILE, np.float64)
    other = np.empty(TILE, np.float64)
    bits = np.empty(TILE, np.uint32)
    tile_at, other_at = np.uint64(tile.ctypes.data), np.uint64(other.ctypes.data)
    sums[:] = 0.0
    for start in range(0, size, TILE):
        length = min(TILE, size - start)
        whole = -(-length // LANES) * LANES
        if along.size:
            other[:length] = along[start : start + length]
            other[length:whole] = 0.0
        for i in range(addresses.size):
            load(addresses[i], kind, start, tile[:length], bits[:length])
            if base_addresses.size:
                if i == 0 or base_addresses[i] != base_addresses[i - 1]:
                    load(base_addresses[i], kind, start, base[:length], bits[:length])
                for k in range(length):
                    tile[k] -= base[k]
            if centre.size:
                around = centre[start:]
                for k in range(length):
                    tile[k] -= around[k]
            tile[length:whole] = 0.0
            sums[i, 0] += sum_products(tile_at, tile_at, whole)
            if along.size:
                sums[i, 1] += sum_products(tile_at, other_at, whole)


@register_jitable
def exchange(rows: Any, pairs: Any, size: Any) -> None:
    """Run a sorting network down the columns of `rows`, for `size` columns at once."""
    for p in range(pairs.shape[0]):
        upper = rows[pairs[p, 0]]
        lower = rows[pairs[p, 1]]
        for k in range(size):
            a = upper[k]
            b = lower[k]
            upper[k] = a if a < b else b
            lower[k] = b if a < b else a


@register_jitable
def load_narrow(address: Any, kind: Any, start: Any, row: Any, size: Any, bits: Any, tile: Any) -> None:
    """Like `load`, into a row of float32: exact for all but float64."""
    if kind == 1:
        floats = carray(float32_at(address), (start + size,))[start:]
        for k in range(size):
            row[k] = floats[k]
    else:
        load(address, kind, start, tile[:size], bits[:size])
        for k in range(size):
            row[k] = np.float32(tile[k])


@register_jitable
def flag(row: Any, size: Any, flags: Any) -> None:
    """Add NaN to the flags of columns where `row` is not finite, 0 elsewhere."""
    for k in range(size):
        flags[k] += np.float64(row[k] - row[k])


@register_jitable
def mean_of_ranks(rows: Any, low: Any, high: Any, size: Any, flags: Any, mean: Any) -> None:
    """The mean of the sorted rows [low, high), by column."""
    for k in range(size):
        mean[k] = 0.0
    for rank in range(low, high):
        for k in range(size):
            mean[k] += np.float64(rows[rank, k])
    count = np.float64(high - low)
    for k in range(size):
        mean[k] = mean[k] / count + flags[k]


@register_jitable
def mean_by_window(rows: Any, count: Any, size: Any, flags: Any, mean: Any) -> None:
    """The mean of the `count` sorted values nearest the median, by column."""
    updates = rows.shape[0]
    for k in range(size):
        median = (np.float64(rows[(updates - 1) // 2, k]) + np.float64(rows[updates // 2, k])) / 2.0
        low = 0
        for left in range(updates, count, -1):
            if median - np.float64(rows[low, k]) > np.float64(rows[low + left - 1, k]) - median:
                low += 1
        total = 0.0
        for offset in range(count):
            total += np.float64(rows[low + offset, k])
        mean[k] = total / np.float64(count) + flags[k]


def order_statistics(
    addresses: Any, kind: Any, pairs: Any, low: Any, high: Any, window: Any, block: Any, mean: Any
) -> None:
    """Mean of the ranks [low, high) by element; with `window` > 0, of that many values nearest the median."""
    count = addresses.size
    bits = np.empty(block, np.uint32)
    tile = np.empty(block, np.float64)
    flags = np.empty(block, np.float64)
    narrow = np.empty((count if kind != 0 else 0, block), np.float32)
    wide = np.empty((count if kind == 0 else 0, block), np.float64)
    for start in range(0, mean.size, block):
        size = min(block, mean.size - start)
        out = mean[start : start + size]
        flags[:] = 0.0
        # float32 holds all but float64 exactly, and takes half the room.
        if kind != 0:
            for i in range(count):
                load_narrow(addresses[i], kind, start, narrow[i], size, bits, tile)
                flag(narrow[i], size, flags)
            exchange(narrow, pairs, size)
            if window > 0:
                mean_by_window(narrow, window, size, flags, out)
            else:
                mean_of_ranks(narrow, low, high, size, flags, out)
        else:
            for i in range(count):
                load(addresses[i], kind, start, wide[i, :size], bits[:size])
                flag(wide[i], size, flags)
            exchange(wide, pairs, size)
            if window > 0:
                mean_by_window(wide, window, size, flags, out)
            else:
                mean_of_ranks(wide, low, high, size, flags, out)
