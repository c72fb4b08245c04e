"""numba's kernels and numpy's: the same bytes, whatever the dtype, the length and what the values are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation.kernels import LANES, TILE
from tasks.aggregation.kernels.compiled import load
from tasks.aggregation.kernels.networks import comparators
from tasks.aggregation.kernels.reference import REFERENCE, sum_in_order

BF16: Any = ml_dtypes.bfloat16
FLOATS = [np.float64, np.float32, np.float16, BF16]
COMPILED = load()


def _same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one, other)
    assert one.tobytes() == other.tobytes()


@st.composite
def _updates(draw: st.DrawFn) -> list[Any]:
    """A few updates of one dtype: normal values, zeros of both signs, subnormal and huge ones among them."""
    dtype = draw(st.sampled_from(FLOATS))
    count = draw(st.integers(1, 13))
    size = draw(st.sampled_from([1, 2, 31, 33, 700, TILE, TILE + 1, 2 * TILE + 77, 5000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(count, size)) * 10.0 ** rng.integers(-6, 3)
    rare = rng.integers(0, 12, size=(count, size))
    values[rare == 0], values[rare == 1], values[rare == 2] = 0.0, -0.0, 2.0**-24
    return list(values.astype(dtype))


@settings(max_examples=40, deadline=None)
@given(_updates(), st.booleans(), st.integers(0, 2**32))
def test_weighted_sums_agree_to_the_bit(values: list[Any], one_base: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = values[0].size
    coefficients = rng.normal(size=len(values)).tolist()
    bases = [values[0] if one_base else values[rng.integers(len(values))] for _ in values]
    for given_bases in (None, bases):
        _same(
            COMPILED.weighted_sum(values, given_bases, coefficients, size),
            REFERENCE.weighted_sum(values, given_bases, coefficients, size),
        )
        _same(
            COMPILED.weighted_sum(values, given_bases, coefficients, size, 0.7),
            REFERENCE.weighted_sum(values, given_bases, coefficients, size, 0.7),
        )
    _same(
        COMPILED.narrow_weighted_sum(values, coefficients, size, 0.7),
        REFERENCE.narrow_weighted_sum(values, coefficients, size, 0.7),
    )


@settings(max_examples=40, deadline=None)
@given(_updates(), st.data())
def test_means_by_rank_agree_to_the_bit(values: list[Any], data: st.DataObject) -> None:
    low = data.draw(st.integers(0, len(values) - 1))
    high = data.draw(st.integers(low + 1, len(values)))
    _same(COMPILED.sorted_mean(values, low, high), REFERENCE.sorted_mean(values, low, high))
    _same(COMPILED.mean_near_median(values, high), REFERENCE.mean_near_median(values, high))


@settings(max_examples=40, deadline=None)
@given(_updates(), st.integers(0, 2**32))
def test_distances_and_moments_agree_to_the_bit(values: list[Any], seed: int) -> None:
    """They decide who is picked: a last bit apart, two workers could pick two clients."""
    rng = np.random.default_rng(seed)
    centre, along = rng.normal(size=(2, values[0].size))
    _same(COMPILED.squared_distances(values), REFERENCE.squared_distances(values))
    for bases in (None, values[::-1]):
        for around, towards in ((None, along), (centre, along), (centre, None)):
            _same(
                COMPILED.moments(values, bases, around, towards),
                REFERENCE.moments(values, bases, around, towards),
            )


@pytest.mark.parametrize("dtype", [np.float16, BF16], ids=str)
def test_every_half_precision_value_is_read_exactly(dtype: Any) -> None:
    """All 65,536 of them, infinities, NaN and subnormal ones included: numba itself knows neither type."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    read = COMPILED.weighted_sum([every], None, [1.0], every.size)
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.testing.assert_array_equal(read, every.astype(np.float64))


@pytest.mark.parametrize("kernels", [COMPILED, REFERENCE], ids=["numba", "numpy"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_rank_of_values_that_are_not_finite_is_not_a_number(kernels: Any, dtype: Any) -> None:
    """A median would hide an infinity among finite values: the engine must see it to name the update."""
    values = [np.array(row, dtype) for row in ([1, 2, np.nan, 4], [5, np.inf, 7, -8], [9, 1, 2, 3])]
    expected = [5.0, np.nan, np.nan, 3.0]
    np.testing.assert_array_equal(kernels.sorted_mean(values, 1, 2), expected)
    np.testing.assert_array_equal(kernels.mean_near_median(values, 1), expected)


@pytest.mark.parametrize("kernels", [COMPILED, REFERENCE], ids=["numba", "numpy"])
def test_by_hand_each_kernel_gives_what_its_name_says(kernels: Any) -> None:
    values: Sequence[Any] = [np.array(row, np.float32) for row in ([1, 10], [2, 20], [6, 90])]
    assert kernels.weighted_sum(values, None, [1.0, 1.0, 0.5], 2).tolist() == [6.0, 75.0]
    assert kernels.weighted_sum(values, [values[0]] * 3, [5.0, 1.0, 1.0], 2).tolist() == [6.0, 90.0]
    assert kernels.sorted_mean(values, 1, 3).tolist() == [4.0, 55.0]
    assert kernels.mean_near_median(values, 2).tolist() == [1.5, 15.0]
    assert kernels.squared_distances(values).tolist() == [1 + 100, 25 + 6400, 16 + 4900]
    along = np.array([1.0, 2.0])
    assert kernels.moments(values, [values[0]] * 3, None, along).tolist() == [[0, 0], [101, 21], [6425, 165]]
    assert kernels.moments(values[:1], None, along, along).tolist() == [[64, 16]]


def test_the_sum_follows_lanes_halves_and_tiles() -> None:
    """2**53 + 1 is no double: which ones are lost shows who was added to whom."""
    big = 2.0**53
    products = np.zeros(TILE + 1)
    products[[0, LANES, 1]] = big, 1.0, 1.0
    assert sum_in_order(products) == big  # each 1 met the 2**53 alone
    products[[LANES, 1, TILE]] = 0.0, 1.0, 1.0
    assert sum_in_order(products) == big
    products[[1, 17, TILE]] = 1.0, 1.0, 0.0
    assert sum_in_order(products) == big + 2  # lanes 1 and 17 are each other's halves, and met first


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 12])
def test_a_sorting_network_sorts_every_row_of_zeros_and_ones(rows: int) -> None:
    """A network that sorts those sorts everything (Knuth 5.3.4, theorem Z)."""
    every = (np.arange(1 << rows)[None, :] >> np.arange(rows)[:, None]) & 1
    for low, high in [(0, rows), ((rows - 1) // 2, rows // 2 + 1), (rows - 1, rows)]:
        columns = every.copy()
        for i, j in comparators(rows, low, high):
            columns[[i, j]] = np.minimum(columns[i], columns[j]), np.maximum(columns[i], columns[j])
        np.testing.assert_array_equal(columns[low:high], np.sort(every, axis=0)[low:high])


def test_a_selection_compares_less_than_a_sort() -> None:
    assert len(comparators(20, 9, 11)) < len(comparators(20, 0, 20)) == 97
