"""Bulyan: its picks and its last step, by hand and by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import TooFewUpdates, UpdateArrays, combine
from tasks.aggregation.kernels.compiled import load
from tasks.aggregation.kernels.reference import REFERENCE

COMPILED = load()


def _updates(*values: Any) -> list[UpdateArrays]:
    return [UpdateArrays({"w": np.array(value, np.float64)}) for value in values]


def test_bulyan_picks_one_at_a_time_by_krum_on_what_is_left() -> None:
    """n = 7, f = 1. Neighbours 4: 2 and 3 score 10, the earlier wins. Then 3 (9), 1 (10), 4 (1), 0 (25).

    Of the picks 0 … 4 the three nearest the median 2 are 1, 2, 3.
    """
    combined = combine("bulyan", {"num_byzantine": 1}, _updates([0], [1], [2], [3], [4], [5], [1000]))
    assert combined.report.facts == {"picked": [2, 3, 1, 4, 0]}
    assert combined.arrays["w"].tolist() == [2.0]


def test_of_values_as_near_to_the_median_the_lower_stays() -> None:
    """Of 0, 1, 2, 3, 4 … 1 and 3 lie as near to 2: with one place left, 1 has it."""
    for kernels in (REFERENCE, COMPILED):
        values = [np.array([float(v)]) for v in (3, 0, 1, 4, 2)]
        assert kernels.mean_near_median(values, 2).tolist() == [1.5]


def test_without_byzantine_clients_bulyan_is_the_plain_mean() -> None:
    assert combine("bulyan", {"num_byzantine": 0}, _updates([1], [2], [6])).arrays["w"].tolist() == [3.0]


def test_a_coordinate_that_one_bad_update_bends_is_bent_back() -> None:
    """Krum alone can be led astray in one of many coordinates: Bulyan's last step is what holds there."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(6, 50))
    bad = honest.mean(axis=0)
    bad[7] = 5.0
    combined = combine("bulyan", {"num_byzantine": 1}, _updates(bad, *honest))
    assert combined.arrays["w"][7] < honest[:, 7].max()


def test_too_few_updates_for_the_guarantee_are_refused() -> None:
    with pytest.raises(TooFewUpdates, match="bulyan needs 7 updates"):
        combine("bulyan", {"num_byzantine": 1}, _updates(*[[i] for i in range(6)]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2), st.integers(1, 6), st.integers(0, 3))
def test_bulyan_agrees_with_the_definition(seed: int, byzantine: int, size: int, more: int) -> None:
    count = 4 * byzantine + 3 + more
    values = np.random.default_rng(seed).normal(size=(count, size))
    left = list(range(count))
    picked: list[int] = []
    while len(picked) < count - 2 * byzantine:
        scores = []
        for i in left:
            near = sorted(float(((values[i] - values[j]) ** 2).sum()) for j in left if j != i)
            scores.append(sum(near[: max(1, len(left) - byzantine - 2)]))
        picked.append(left.pop(int(np.argmin(scores))))
    combined = combine("bulyan", {"num_byzantine": byzantine}, _updates(*values))
    assert combined.report.facts == {"picked": picked}
    chosen = values[picked]
    keep = len(picked) - 2 * byzantine
    for k in range(size):
        column = chosen[:, k]
        distances = np.sort(np.abs(column - np.median(column)))
        if keep < len(column) and distances[keep] - distances[keep - 1] < 1e-9:
            continue  # as near on both sides: which one stays is the test above's
        nearest = column[np.argsort(np.abs(column - np.median(column)))[:keep]]
        assert combined.arrays["w"][k] == pytest.approx(nearest.mean(), rel=1e-9, abs=1e-12)
