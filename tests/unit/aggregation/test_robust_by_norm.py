"""Clipping, the geometric median and FLTrust, by vectors whose lengths one knows."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.aggregation import InvalidParameter, ReferenceMissing, UpdateArrays, combine, combine_streams
from tasks.aggregation.arrays import ArraySink, ArraySource
from tasks.aggregation.streams import UpdateStream


def _w(*values: float) -> dict[str, Any]:
    return {"w": np.array(values, np.float64)}


def _update(*values: float, **known: Any) -> UpdateArrays:
    return UpdateArrays(_w(*values), **known)


ORIGIN = _w(0.0, 0.0)


# --- clipping ---------------------------------------------------------------------------------------------------------


def test_a_long_delta_is_shortened_and_a_short_one_is_not() -> None:
    """(3, 4) becomes (.6, .8), weight 1; (0, .5) stays, weight 3."""
    updates = [_update(3, 4, num_examples=1), _update(0, 0.5, num_examples=3)]
    combined = combine("norm_clipping", {"tau": 1}, updates, current=ORIGIN)
    np.testing.assert_allclose(combined.arrays["w"], [0.15, 0.575], rtol=1e-15)
    assert combined.report.facts == {"norms": [5.0, 0.5], "clipped": 1}


def test_a_delta_is_measured_over_the_whole_model_and_from_its_own_base() -> None:
    update = UpdateArrays({"a": np.array([4.0]), "b": np.array([[5.0]])}, base={"a": np.ones(1), "b": np.ones((1, 1))})
    combined = combine("norm_clipping", {"tau": 2.5}, [update], current={"a": np.zeros(1), "b": np.zeros((1, 1))})
    assert (combined.arrays["a"].tolist(), combined.arrays["b"].tolist()) == ([1.5], [[2.0]])


def test_clipping_that_clips_nothing_is_fedavg() -> None:
    updates = [_update(2, 0, num_examples=1), _update(6, 0, num_examples=3)]
    assert combine("norm_clipping", {"tau": 100}, updates, current=ORIGIN).arrays["w"].tolist() == [5.0, 0.0]


def test_centered_clipping_clips_around_what_it_last_did() -> None:
    """v = (1 + .5) / 2. Then deltas 10 and .5 lie 9.25 and -.25 from v: v + (1 - .25) / 2."""
    first = combine("centered_clipping", {"tau": 1}, [_update(10), _update(0.5)], current=_w(0.0))
    assert first.arrays["w"].tolist() == [0.75]
    second = combine(
        "centered_clipping", {"tau": 1}, [_update(10.75), _update(1.25)], current=first.arrays, state=first.state
    )
    np.testing.assert_allclose(second.arrays["w"], [1.875], rtol=1e-15)
    assert second.state is not None
    np.testing.assert_allclose(second.state["v/w"], [1.125], rtol=1e-15)


@pytest.mark.parametrize("aggregator", ["norm_clipping", "centered_clipping"])
@pytest.mark.parametrize("tau", [0, -1, float("nan"), None])
def test_a_bound_that_bounds_nothing_is_refused(aggregator: str, tau: Any) -> None:
    with pytest.raises(InvalidParameter, match="tau"):
        combine(aggregator, {"tau": tau}, [_update(1)], current=_w(0.0))


def test_an_endless_delta_is_clipped_to_nothing() -> None:
    """1e200 squared is infinite: the round goes on, the update has no say."""
    combined = combine("norm_clipping", {"tau": 1}, [_update(1e200), _update(0.5)], current=_w(0.0))
    assert combined.arrays["w"].tolist() == [0.25]


# --- geometric median -------------------------------------------------------------------------------------------------


def test_the_geometric_median_of_a_right_angle_is_its_fermat_point() -> None:
    combined = combine("geometric_median", {}, [_update(0, 0), _update(1, 0), _update(0, 1)])
    np.testing.assert_allclose(combined.arrays["w"], [(3 - sqrt(3)) / 6] * 2, rtol=1e-4)


def test_more_than_half_of_the_examples_in_one_place_hold_the_geometric_median_there() -> None:
    updates = [_update(0, num_examples=30), _update(1, num_examples=10), _update(1000, num_examples=10)]
    np.testing.assert_allclose(combine("geometric_median", {}, updates).arrays["w"], [0.0], atol=1e-3)


def test_one_update_far_out_hardly_moves_the_geometric_median() -> None:
    updates = [_update(0, 1), _update(0, -1), _update(1, 0), _update(-1, 0), _update(1e9, 1e9)]
    assert np.abs(combine("geometric_median", {}, updates).arrays["w"]).max() < 1


def test_equal_updates_are_their_own_geometric_median_after_two_passes() -> None:
    combined = combine("geometric_median", {}, [_update(3, -2)] * 4)
    assert combined.arrays["w"].tolist() == [3.0, -2.0]
    assert combined.report.facts == {"passes": 2}


def test_the_geometric_median_stops_at_its_limit_of_passes() -> None:
    updates = [_update(0, 0), _update(1, 0), _update(0, 1)]
    assert combine("geometric_median", {"max_iter": 3}, updates).report.facts == {"passes": 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 8))
@example(799881, 3)  # weights of 6, 2 and 4: 1.00011 times as long after 1000 passes
def test_no_update_lies_better_than_the_geometric_median(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(count, 4)), rng.integers(1, 9, count).astype(float)
    updates = [UpdateArrays({"w": v}, num_examples=w) for v, w in zip(values, weights, strict=True)]
    median = combine("geometric_median", {"max_iter": 1000}, updates).arrays["w"]

    def cost(place: Any) -> float:
        return float((weights * np.linalg.norm(values - place, axis=1)).sum())

    # Where one update weighs as much as all others, what is left falls no faster than the passes grow in number.
    assert cost(median) <= min(cost(place) for place in [*values, np.average(values, axis=0, weights=weights)]) * 1.001


# --- fltrust ----------------------------------------------------------------------------------------------------------


def test_fltrust_follows_those_who_point_where_the_root_points() -> None:
    """(2, 0): trust 1, cut to (1, 0). (-1, 0): none. (3, 4): trust .6, cut to (.6, .8). Over 1.6."""
    updates = [_update(2, 0, num_examples=1), _update(-1, 0, num_examples=1e6), _update(3, 4)]
    combined = combine("fltrust", {"root_update": _w(1, 0)}, updates, current=ORIGIN)
    np.testing.assert_allclose(combined.arrays["w"], [0.85, 0.3], rtol=1e-15)
    assert combined.report.facts == {"trust_scores": [1.0, 0.0, 0.6]}


@pytest.mark.parametrize("value", [-5.0, 0.0])
def test_where_nobody_is_trusted_the_model_stays(value: float) -> None:
    updates = [UpdateArrays({"w": np.array([value]), "n": np.array([4])})] * 2
    combined = combine(
        "fltrust",
        {"root_update": {"w": np.array([1.0]), "n": np.array([9])}},
        updates,
        current={"w": np.array([0.0]), "n": np.array([1])},
    )
    assert (combined.arrays["w"].tolist(), combined.arrays["n"].tolist()) == ([0.0], [4])


def test_a_root_that_did_not_move_trusts_nobody() -> None:
    assert combine("fltrust", {"root_update": _w(0.0)}, [_update(5)], current=_w(0.0)).arrays["w"].tolist() == [0.0]


def test_streams_name_the_root_and_give_it_beside() -> None:
    stream = UpdateStream(ArraySource(_w(2.0, 0.0), 0))
    given: dict[str, Any] = {"current": ArraySource(ORIGIN, None)}
    with pytest.raises(ReferenceMissing, match="'root_update'"):
        combine_streams("fltrust", {"root_update": "ward 7"}, [stream], ArraySink(), **given)
    sink = ArraySink()
    report = combine_streams(
        "fltrust",
        {"root_update": "ward 7"},
        [stream],
        sink,
        references={"root_update": ArraySource(_w(1.0, 0.0), None)},
        **given,
    )
    assert sink.arrays(report.tensors)["w"].tolist() == [1.0, 0.0]
    assert report.params["root_update"] == "ward 7"
