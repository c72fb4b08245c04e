"""Krum and multi-Krum, by distances that one can work out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import InvalidParameter, OutOfBudget, TooFewUpdates, UpdateArrays, UpdateUnusable, combine


def _updates(*values: Any, dtype: Any = np.float64) -> list[UpdateArrays]:
    return [UpdateArrays({"w": np.array(value, dtype)}, num_examples=1 + 9 * i) for i, value in enumerate(values)]


def test_krum_picks_the_update_nearest_to_its_neighbours() -> None:
    """n = 5, f = 1: two neighbours count. Scores: 1 + 1.21, .01 + .04, .01 + .01, .01 + .04, far."""
    combined = combine("krum", {"num_byzantine": 1}, _updates([0.0], [1.0], [1.1], [1.2], [100.0]))
    assert combined.arrays["w"].tolist() == [1.1]
    assert combined.report.facts == {"picked": [2]}
    assert combined.report.weights == (0.0, 0.0, 1.0, 0.0, 0.0)


def test_multi_krum_takes_the_plain_mean_of_its_picks() -> None:
    """Unweighted: a client's claim of many examples must not count here."""
    combined = combine("multi_krum", {"num_byzantine": 1, "m": 2}, _updates([0], [4], [6], [7], [100]))
    # Neighbours: 0: 16+36, 4: 4+9, 6: 1+4, 7: 1+9.
    assert combined.report.facts == {"picked": [2, 3]}
    assert combined.arrays["w"].tolist() == [6.5]


def test_of_equal_scores_the_earlier_update_wins() -> None:
    combined = combine("krum", {"num_byzantine": 0}, _updates([1.0], [2.0], [3.0], [4.0]))
    assert combined.report.facts == {"picked": [1]}


def test_distances_run_over_all_tensors_of_a_model() -> None:
    updates = [
        UpdateArrays({"a": np.array([float(a)]), "b": np.array([[float(b)]])}) for a, b in ((0, 9), (0, 1), (0, 2))
    ]
    assert combine("krum", {"num_byzantine": 0}, updates).report.facts == {"picked": [1]}


def test_small_differences_between_large_values_count() -> None:
    """The norm expansion |a|² + |b|² - 2ab in float32 gives negative distances here, and picks the wrong client."""
    values = [[4096.0 + d] for d in (0.0, 0.5, 0.75, 0.875, 2.0)]
    assert combine("krum", {"num_byzantine": 1}, _updates(*values, dtype=np.float32)).report.facts == {"picked": [2]}


def test_too_few_updates_for_the_guarantee_are_refused() -> None:
    with pytest.raises(TooFewUpdates, match=r"krum needs 5 updates or more .*, not 4") as caught:
        combine("krum", {"num_byzantine": 1}, _updates([0], [1], [2], [3]))
    assert (caught.value.given, caught.value.needed) == (4, 5)


def test_more_picks_than_trustworthy_updates_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="at most n - num_byzantine - 2 = 2"):
        combine("multi_krum", {"num_byzantine": 1, "m": 3}, _updates([0], [1], [2], [3], [4]))


@pytest.mark.parametrize("params", [{}, {"num_byzantine": -1}])
def test_the_number_of_byzantine_clients_must_be_told(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="num_byzantine"):
        combine("krum", params, _updates([0], [1], [2]))


def test_a_value_that_is_not_finite_is_blamed_while_measuring() -> None:
    with pytest.raises(UpdateUnusable, match=r"w\[0\] is nan") as caught:
        combine("krum", {"num_byzantine": 0}, _updates([0.0], [np.nan], [1.0]))
    assert (caught.value.index, caught.value.reason_code) == (1, "NOT_FINITE")


def test_values_too_far_to_measure_are_just_not_picked() -> None:
    """One client's 1e200 must not stop the round of the others: its squared distance is infinite, and so its score."""
    combined = combine("krum", {"num_byzantine": 1}, _updates([0.0], [1.0], [1.1], [1.2], [1e200]))
    assert combined.arrays["w"].tolist() == [1.1]


def test_integers_are_those_of_the_picked() -> None:
    updates = [UpdateArrays({"w": np.array([float(v)]), "n": np.array([v], np.int64)}) for v in (5, 6, 7, 100, 0)]
    for policy in ("rounded_mean", "max", "latest"):
        assert combine("krum", {"num_byzantine": 1, "integers": policy}, updates).arrays["n"].tolist() == [6]


def test_more_pairs_than_the_budget_holds_are_refused_before_reading() -> None:
    updates = [UpdateArrays({"w": np.array([float(v)])}) for v in range(70)]
    with pytest.raises(OutOfBudget):
        combine("krum", {"num_byzantine": 1}, updates, budget_bytes=70 * 70 * 8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(1, 40), st.data())
def test_picks_agree_with_the_definition(seed: int, num_byzantine: int, size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2 * num_byzantine + 3, 12))
    picks = data.draw(st.integers(1, count - num_byzantine - 2))
    values = np.random.default_rng(seed).normal(size=(count, size))
    scores = []
    for i in range(count):
        to_others = sorted(float(((values[i] - values[j]) ** 2).sum()) for j in range(count) if j != i)
        scores.append(sum(to_others[: count - num_byzantine - 2]))
    expected = sorted(int(i) for i in np.argsort(scores)[:picks])
    combined = combine("multi_krum", {"num_byzantine": num_byzantine, "m": picks}, _updates(*values))
    assert combined.report.facts == {"picked": expected}
    np.testing.assert_allclose(combined.arrays["w"], values[expected].mean(axis=0), rtol=1e-12, atol=1e-15)
