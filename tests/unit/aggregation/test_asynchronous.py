"""fedasync and fedbuff: what came late counts less, and from where it started."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.aggregation import UpdateArrays, UpdateUnusable, combine


def _w(value: float) -> dict[str, Any]:
    return {"w": np.array([value], np.float64)}


def _update(value: float, **known: Any) -> UpdateArrays:
    return UpdateArrays(_w(value), **known)


def test_fedasync_mixes_in_one_update_after_another() -> None:
    """0 → 2 → 5; the other way around it would be 0 → 4 → 4."""
    updates = [_update(4), _update(8)]
    assert combine("fedasync", {"alpha": 0.5}, updates, current=_w(0.0)).arrays["w"].tolist() == [5.0]
    assert combine("fedasync", {"alpha": 0.5}, updates[::-1], current=_w(0.0)).arrays["w"].tolist() == [4.0]


def test_fedasync_mixes_models_not_deltas() -> None:
    """A late update is pulled towards as it is; its own base has no part in it."""
    update = _update(4, base=_w(3.0), staleness=2)
    assert combine("fedasync", {"alpha": 0.5}, [update], current=_w(8.0)).arrays["w"].tolist() == [6.0]


@pytest.mark.parametrize(
    ("params", "staleness", "factor"),
    [
        ({}, 9, 1),
        ({"staleness_function": "polynomial"}, 0, 1),
        ({"staleness_function": "polynomial"}, 3, 1 / 2),
        ({"staleness_function": "polynomial", "polynomial_a": 2}, 3, 1 / 16),
        ({"staleness_function": "hinge"}, 4, 1),
        ({"staleness_function": "hinge"}, 6, 1 / 21),
        ({"staleness_function": "hinge", "hinge_a": 2, "hinge_b": 1}, 6, 1 / 11),
    ],
)
def test_staleness_lowers_the_mixing(params: dict[str, Any], staleness: int, factor: float) -> None:
    combined = combine("fedasync", {"alpha": 0.5, **params}, [_update(2, staleness=staleness)], current=_w(0.0))
    assert combined.arrays["w"][0] == pytest.approx(factor, rel=1e-15)


def test_equal_models_stay_what_they_are() -> None:
    """No rounding error creeps in where nothing is to be mixed."""
    assert combine("fedasync", {"alpha": 0.3}, [_update(0.1)] * 7, current=_w(0.1)).arrays["w"].tolist() == [0.1]


def test_a_fresh_update_counts_whole_in_fedbuff() -> None:
    """Elsewhere a fresh one weighs one half: 1 / (1 + 1)."""
    assert combine("fedbuff", {"buffer_size": 1}, [_update(3)], current=_w(1.0)).arrays["w"].tolist() == [3.0]


def test_fedbuff_takes_each_delta_from_its_own_base_and_divides_by_their_number() -> None:
    """(5 - 1) / √4 = 2 and 12 - 10 = 2: 10 + .5 × 4 / 2."""
    updates = [_update(5, base=_w(1.0), staleness=3, num_examples=1000), _update(12)]
    combined = combine("fedbuff", {"buffer_size": 2, "eta": 0.5}, updates, current=_w(10.0))
    assert combined.arrays["w"].tolist() == [11.0]


@pytest.mark.parametrize(("aggregator", "params"), [("fedasync", {}), ("fedbuff", {"buffer_size": 1})])
def test_an_update_from_the_future_is_refused(aggregator: str, params: dict[str, Any]) -> None:
    with pytest.raises(UpdateUnusable, match="staleness is -1"):
        combine(aggregator, params, [_update(1, staleness=-1)], current=_w(0.0))
