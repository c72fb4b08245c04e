"""Sorting networks: which two rows to compare and swap, in which order, to sort or to select.

The comparisons do not depend on the values, so a processor does them for many elements at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def comparators(rows: int, low: int, high: int) -> NDArray[np.int32]:
    """Pairs (i, j), i < j: after min to row i and max to row j for each, rows [low, high) hold those ranks.

    Shape (comparisons, 2). Batcher's merge exchange, less what rows outside [low, high) alone depend on.
    Source: Knuth, The Art of Computer Programming, volume 3, 5.2.2, Algorithm M.
    """
    pairs: list[tuple[int, int]] = []
    top = 1 << max(rows - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs.extend((i, i + d) for i in range(rows - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    # Backwards: a comparison matters if one of its rows is wanted by what follows.
    wanted = set(range(low, high))
    kept = []
    for i, j in reversed(pairs):
        if i in wanted or j in wanted:
            kept.append((i, j))
            wanted.update((i, j))
    return np.array(kept[::-1], np.int32).reshape(-1, 2)
