"""Median and trimmed mean, by numbers that one can check by hand and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tasks.aggregation import InvalidParameter, UpdateArrays, UpdateUnusable, combine


def _updates(*values: Any, dtype: Any = np.float64) -> list[UpdateArrays]:
    return [UpdateArrays({"w": np.array(value, dtype)}, num_examples=1 + 9 * i) for i, value in enumerate(values)]


def _combine(aggregator: str, updates: list[UpdateArrays], **params: Any) -> Any:
    return combine(aggregator, params, updates).arrays["w"].tolist()


def test_the_median_of_an_odd_number_is_the_middle_value() -> None:
    assert _combine("median", _updates([1, 5], [2, -3], [100, 7])) == [2.0, 5.0]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert _combine("median", _updates([1], [2], [4], [1000])) == [3.0]


def test_num_examples_have_no_say_in_a_median() -> None:
    """A client can claim as many as it likes."""
    updates = [
        UpdateArrays({"w": np.array([value])}, num_examples=weight)
        for value, weight in ((1.0, 1), (2.0, 1), (9.0, 1e9))
    ]
    assert _combine("median", updates) == [2.0]


def test_one_update_alone_is_the_median() -> None:
    assert _combine("median", _updates([1.5, -2])) == [1.5, -2.0]


def test_the_trimmed_mean_drops_as_many_at_each_end() -> None:
    updates = _updates([0], [1], [2], [3], [1000])
    assert _combine("trimmed_mean", updates) == [2.0]  # floor(.2 × 5) = 1: the mean of 1, 2, 3
    assert _combine("trimmed_mean", updates, beta=0.4) == [2.0]  # 2 at each end: 2 alone
    assert _combine("trimmed_mean", _updates(*[[i] for i in (5, 1, 2, 9, 4, 3, 8, 7, 6)]), beta=0.25) == [5.0]


def test_a_trim_of_zero_is_refused() -> None:
    """n = 4, beta = .2 is a plain mean that looks robust; elsewhere it passes silently."""
    with pytest.raises(InvalidParameter, match=r"0.2 of 4 updates drops none .* give 0.25 or more"):
        _combine("trimmed_mean", _updates([0], [1], [2], [1000]))
    assert _combine("trimmed_mean", _updates([0], [1], [2], [1000]), beta=0.25) == [1.5]


@pytest.mark.parametrize("beta", [0, 0.5, -0.1, 1])
def test_a_share_that_leaves_nothing_is_refused(beta: float) -> None:
    with pytest.raises(InvalidParameter, match="beta"):
        _combine("trimmed_mean", _updates([0], [1], [2]), beta=beta)


@pytest.mark.parametrize(("aggregator", "params"), [("median", {}), ("trimmed_mean", {"beta": 0.34})])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_infinity_is_blamed_though_a_rank_would_hide_it(aggregator: str, params: dict[str, Any], bad: float) -> None:
    with pytest.raises(UpdateUnusable, match=r"w\[1\]") as caught:
        _combine(aggregator, _updates([1, 2], [3, bad], [5, 6]), **params)
    assert (caught.value.index, caught.value.reason_code) == (1, "NOT_FINITE")


@settings(max_examples=60, deadline=None)
@given(
    nps.arrays(
        np.float32,
        nps.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.floats(0.01, 0.49),
)
def test_both_agree_with_numpy_sorting_everything(values: Any, beta: float) -> None:
    updates = _updates(*values, dtype=np.float32)
    expected = np.median(values.astype(np.float64), axis=0).astype(np.float32)
    np.testing.assert_array_equal(_combine("median", updates), expected)
    trim = int(beta * len(values))
    if trim:
        kept = np.sort(values.astype(np.float64), axis=0)[trim : len(values) - trim]
        np.testing.assert_allclose(
            _combine("trimmed_mean", updates, beta=beta), kept.mean(axis=0), rtol=1e-6, atol=1e-30
        )


def test_integers_follow_the_policy_not_the_rank() -> None:
    updates = [UpdateArrays({"w": np.array([v]), "n": np.array([v], np.int64)}, num_examples=9) for v in (1, 2, 6)]
    assert combine("median", {}, updates).arrays["n"].tolist() == [3]
    assert combine("median", {"integers": "max"}, updates).arrays["n"].tolist() == [6]
