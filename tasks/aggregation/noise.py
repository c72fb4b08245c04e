"""Gaussian noise from a cryptographic generator, the same for any chunk: element k of tensor t has its own place.

ChaCha20 (RFC 8439) gives the bits, Box and Muller's transform the normal deviates. Everything after the integers is
plain IEEE arithmetic, without the mathematical library, whose last bits differ from processor to processor.
Not a defence against reading secrets off the last bits of a float64 sum (Mironov, CCS 2012): what is published is cast
to the tensor's dtype, which drops them for all but float64.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from math import log, pi

import numpy as np
from numpy.typing import NDArray

from tasks.aggregation.streams import FloatArray

SEED_BYTES = 32
_PER_BLOCK = 8  # 64 bytes of key stream are 8 numbers of 64 bits: 4 pairs, 8 deviates
_CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")


def new_seed() -> bytes:
    """A seed that nobody can guess."""
    return secrets.token_bytes(SEED_BYTES)


def normal_deviates(seed: bytes, stream: int, start: int, stop: int) -> FloatArray:
    """Elements [start, stop) of an endless row of independent normal deviates, mean 0, variance 1.

    `stream` (below 2**96) tells rows apart that share a seed: a tensor's position, the round's counts.
    Memory: some twenty times the outcome while it lasts.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    first, last = start // _PER_BLOCK, -(-stop // _PER_BLOCK)
    nonce = np.frombuffer(stream.to_bytes(12, "little"), "<u4")
    words = chacha20_blocks(np.frombuffer(seed, "<u4"), nonce, first, last - first)
    numbers = words.reshape(-1, 2).astype(np.uint64)
    bits = numbers[:, 0] | numbers[:, 1] << np.uint64(32)
    # 53 bits: (0, 1] for the logarithm, [0, 1) for the angle.
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * _log(uniform[0::2] + 2.0**-53))
    cosine, sine = _on_the_circle(uniform[1::2])
    deviates = np.empty(uniform.size, np.float64)
    deviates[0::2], deviates[1::2] = radius * cosine, radius * sine
    return deviates[start - first * _PER_BLOCK : stop - first * _PER_BLOCK]


def chacha20_blocks(key: NDArray[np.uint32], nonce: NDArray[np.uint32], counter: int, count: int) -> NDArray[np.uint32]:
    """`count` blocks of key stream from the block `counter` on, as words. Shape (count, 16).

    Source: RFC 8439, section 2.3.
    """
    if counter + count > 1 << 32:
        raise ValueError("the row ends after 2**35 elements")
    state = np.empty((16, count), np.uint32)
    state[:4] = _CONSTANTS[:, None]
    state[4:12] = key[:, None]
    state[12] = np.arange(counter, counter + count, dtype=np.uint64).astype(np.uint32)
    state[13:] = nonce[:, None]
    # Four columns, then four diagonals at once: each row of the square is one array.
    a, b, c, d = (state[4 * row : 4 * row + 4].copy() for row in range(4))
    for _ in range(10):
        _quarter_rounds(a, b, c, d)
        b, c, d = np.roll(b, -1, 0), np.roll(c, -2, 0), np.roll(d, -3, 0)
        _quarter_rounds(a, b, c, d)
        b, c, d = np.roll(b, 1, 0), np.roll(c, 2, 0), np.roll(d, 3, 0)
    state += np.concatenate([a, b, c, d])
    return np.ascontiguousarray(state.T)


def _quarter_rounds(a: NDArray[np.uint32], b: NDArray[np.uint32], c: NDArray[np.uint32], d: NDArray[np.uint32]) -> None:
    for left, right, turned, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        left += right
        turned ^= left
        high = turned << np.uint32(by)
        turned >>= np.uint32(32 - by)
        turned |= high


def _log(values: FloatArray) -> FloatArray:
    """The natural logarithm of values in (0, 1], to about a bit: 2 artanh((m - 1) / (m + 1)) + e ln 2."""
    mantissa, exponent = np.frexp(values)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2, mantissa)
    exponent = exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    logarithm: FloatArray = 2 * s * _polynomial(s * s, [1 / (2 * k + 1) for k in range(12)])
    logarithm += exponent * log(2)
    return logarithm


def _on_the_circle(turns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(cosine, sine) of that many turns, in [0, 1)."""
    quarter = np.floor(4 * turns + 0.5)
    angle = (turns - quarter / 4) * (2 * pi)  # within an eighth of a turn
    squared = angle * angle
    cosine = _polynomial(squared, _inverse_factorials(0))
    sine = angle * _polynomial(squared, _inverse_factorials(1))
    swap = quarter % 2 == 1
    x, y = np.where(swap, sine, cosine), np.where(swap, cosine, sine)
    # By quarters: (c, s), (-s, c), (-c, -s), (s, -c), (c, s).
    x = np.where((quarter == 1) | (quarter == 2), -x, x)
    y = np.where((quarter == 2) | (quarter == 3), -y, y)
    return x, y


def _inverse_factorials(first: int) -> list[float]:
    terms, factorial = [], 1.0
    for k in range(18):
        factorial *= max(k, 1)
        if k % 2 == first:
            terms.append((-1.0) ** (k // 2) / factorial)
    return terms


def _polynomial(x: FloatArray, coefficients: Sequence[float]) -> FloatArray:
    total = np.full(x.shape, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total *= x
        total += coefficient
    return total
