"""Integers and booleans: exact by the declared policy, never zeros, fractions or wrapped sums."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import UpdateArrays, UpdateUnusable, combine


def _combine(values: list[Any], dtype: Any, weights: list[float] | None = None, **params: Any) -> Any:
    updates = [
        UpdateArrays({"n": np.array(value, dtype)}, num_examples=weight)
        for value, weight in zip(values, weights or [1.0] * len(values), strict=True)
    ]
    return combine("fedavg", params, updates).arrays["n"]


def test_integers_are_not_averaged_into_zeros_or_fractions() -> None:
    """Weights below one, cast to the tensor's dtype first, made every counter zero elsewhere."""
    mean = _combine([[10, 7], [20, 8]], np.int64, [1, 3])
    assert mean.dtype == np.int64
    assert mean.tolist() == [18, 8]  # 17.5 to even, 7.75


def test_halves_round_to_even() -> None:
    assert _combine([[0, 1, 2, -1, -2], [1, 2, 3, 0, -1]], np.int8).tolist() == [0, 2, 2, 0, -2]


def test_narrow_integers_do_not_wrap() -> None:
    assert _combine([[100, -128]] * 3, np.int8).tolist() == [100, -128]
    assert _combine([[255], [255]], np.uint8).tolist() == [255]


def test_the_largest_integers_keep_every_digit() -> None:
    """float64 has 53 bits: it would answer 2**63, which no int64 is."""
    top = 2**63 - 1
    assert _combine([[top, -(2**63)], [top, -(2**63)], [top - 3, -(2**63)]], np.int64).tolist() == [top - 1, -(2**63)]
    assert _combine([[2**64 - 1], [2**64 - 3]], np.uint64).tolist() == [2**64 - 2]


def test_nanosecond_times_are_averaged_to_the_nanosecond() -> None:
    start = 1_763_000_000_000_000_001
    assert _combine([[start], [start + 2], [start + 4]], np.int64, [100, 100, 100]).tolist() == [start + 2]


def test_the_largest_of_all_is_taken_if_declared() -> None:
    assert _combine([[1, 9], [5, 2]], np.int32, integers="max").tolist() == [5, 9]


def test_the_last_in_the_order_given_is_taken_if_declared() -> None:
    assert _combine([[1, 9], [5, 2]], np.int32, [100, 1], integers="latest").tolist() == [5, 2]


def test_equal_booleans_stay_as_they_are() -> None:
    assert _combine([[True, False]] * 2, np.bool_).tolist() == [True, False]


def test_a_boolean_that_differs_is_refused() -> None:
    with pytest.raises(UpdateUnusable, match=r"n\[1\] differs") as caught:
        _combine([[True, False], [True, False], [True, True]], np.bool_)
    assert (caught.value.index, caught.value.reason_code) == (2, "SCHEMA")


_DTYPES: list[Any] = [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_mean_is_the_exact_one_rounded_half_to_even(data: st.DataObject) -> None:
    """For any integers and any weights, whichever of the three ways decides a value."""
    dtype = data.draw(st.sampled_from(_DTYPES))
    bounds = np.iinfo(dtype)
    near_zero = st.integers(max(int(bounds.min), -3), 3)
    value = st.one_of(near_zero, st.integers(int(bounds.min), int(bounds.max)))
    weight = st.one_of(
        st.integers(1, 1000).map(float),
        st.floats(1e-3, 1e3),
        st.integers(2**26, 2**31).map(float),
        st.sampled_from([0.1, 0.5, 1e-300, 1e300, 5e-324]),
    )
    count = data.draw(st.integers(1, 5))
    size = data.draw(st.integers(1, 6))
    weights = data.draw(st.lists(weight, min_size=count, max_size=count))
    values = data.draw(st.lists(st.lists(value, min_size=size, max_size=size), min_size=count, max_size=count))
    total = sum(map(Fraction, weights))
    exact = [
        round(sum(Fraction(w) * v for w, v in zip(weights, column, strict=True)) / total)
        for column in zip(*values, strict=True)
    ]
    assert _combine(values, dtype, weights).tolist() == exact
