"""fedavg and FMA's means, by numbers that one can check by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tasks.aggregation import (
    CurrentUnusable,
    NoUpdates,
    ResultNotFinite,
    StateUnexpected,
    UpdateArrays,
    UpdateUnusable,
    combine,
)
from tasks.aggregation.dtypes import cast_once

BF16 = np.dtype(ml_dtypes.bfloat16)


def _updates(*values: Any, weights: tuple[float, ...] | None = None, dtype: Any = None) -> list[UpdateArrays]:
    return [
        UpdateArrays({"w": np.array(value, dtype)}, num_examples=weight)
        for value, weight in zip(values, weights or (1.0,) * len(values), strict=True)
    ]


def _mean(updates: list[UpdateArrays], aggregator: str = "fedavg", **params: Any) -> Any:
    return combine(aggregator, params, updates).arrays["w"]


# --- FMA's published cases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregator", ["avg_values_if_data", "average_layers", "fedavg"])
def test_fmas_flat_lists_average_by_value(aggregator: str) -> None:
    combined = combine(
        aggregator,
        [],
        [UpdateArrays({"values": np.array([1.0, 2, 4])}), UpdateArrays({"values": np.array([5.0, 2, 3])})],
    )
    assert combined.arrays["values"].tolist() == [3.0, 2.0, 3.5]


def test_fmas_ragged_layers_average_layer_by_layer() -> None:
    first = {"0": np.array([1.0, 2]), "1": np.array([4.0]), "2": np.array([[1.0, 1], [0, 0]]), "3": np.array(2.0)}
    second = {"0": np.array([3.0, 2]), "1": np.array([5.0]), "2": np.array([[0.0, 1], [0, 1]]), "3": np.array(5.0)}
    arrays = combine("average_layers", [], [UpdateArrays(first), UpdateArrays(second)]).arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "0": [2.0, 2.0],
        "1": [4.5],
        "2": [[0.5, 1.0], [0.0, 0.5]],
        "3": 3.5,
    }


@pytest.mark.parametrize("aggregator", ["avg_values_if_data", "average_layers"])
def test_fmas_means_do_not_weigh(aggregator: str) -> None:
    assert _mean(_updates([0.0], [4.0], weights=(1, 3)), aggregator).tolist() == [2.0]


# --- fedavg -----------------------------------------------------------------------------------------------------------


def test_fedavg_weighs_by_examples() -> None:
    assert _mean(_updates([0.0, 1.0], [4.0, 1.0], weights=(1, 3))).tolist() == [3.0, 1.0]


def test_fedavg_weighs_all_alike_when_told_so() -> None:
    assert _mean(_updates([0.0], [4.0], weights=(1, 3)), weighting="uniform").tolist() == [2.0]


def test_one_update_alone_comes_back_as_it_is() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert _mean(_updates(values, weights=(7,))).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, BF16, np.float32, np.float64], ids=str)
def test_a_float_model_keeps_its_dtype(dtype: Any) -> None:
    mean = _mean(_updates([1.0, 2.0], [2.0, 4.0], dtype=dtype))
    assert mean.dtype == dtype
    assert mean.tolist() == [1.5, 3.0]


def test_half_precision_times_examples_does_not_overflow() -> None:
    """60,000 × 10 is far beyond float16's 65,504; the mean is not."""
    assert _mean(_updates([60_000.0], [60_000.0], weights=(10, 10), dtype=np.float16)).tolist() == [60_000.0]


def test_small_contributions_are_not_lost_in_half_precision() -> None:
    """In float16, 2048 + 1 is 2048: a sum kept there would answer 1 for the mean of one 2048 and 2047 ones."""
    updates = _updates([2048.0], *[[1.0]] * 2047, dtype=np.float16)
    assert _mean(updates).tolist() == [2.0]  # 4095 / 2048, to float16


def test_it_is_cast_once_to_the_nearest_bfloat16() -> None:
    """By way of float32 the tie 1 + 2**-8 would hide the 2**-40 that decides it."""
    values = np.array([1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40, -1 - 2**-8 - 2**-40, 1 + 2**-8, 1e300, 0.0, math.inf])
    assert cast_once(values, BF16).tolist() == [1 + 2**-7, 1.0, -1 - 2**-7, 1.0, math.inf, 0.0, math.inf]


def test_casting_to_bfloat16_agrees_with_exact_rounding_everywhere() -> None:
    """Against the definition: of the two neighbours the nearer, the even one on a tie."""
    rng = np.random.default_rng(1)
    grid = np.sort(np.abs(rng.integers(1, 0x7F00, 20_000).astype(np.uint16).view(BF16).astype(np.float64)))
    above = (grid.astype(BF16).view(np.uint16) + np.uint16(1)).view(BF16).astype(np.float64)
    middle = (grid + above) / 2
    nudge = (above - grid) * 2.0**-30
    even = np.where(grid.astype(BF16).view(np.uint16) % 2 == 0, grid, above)
    assert np.array_equal(cast_once(middle - nudge, BF16).astype(np.float64), grid)
    assert np.array_equal(cast_once(middle + nudge, BF16).astype(np.float64), above)
    assert np.array_equal(cast_once(middle, BF16).astype(np.float64), even)
    assert np.array_equal(cast_once(-middle - nudge, BF16).astype(np.float64), -above)


def test_whole_numbers_with_whole_weights_give_their_exact_mean() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(-1000, 1000, size=(7, 500))
    weights = tuple(float(weight) for weight in rng.integers(1, 1000, size=7))
    exact = [
        sum(int(w) * int(v) for w, v in zip(weights, column, strict=True)) / int(sum(weights)) for column in values.T
    ]
    assert _mean(_updates(*values.astype(float), weights=weights)).tolist() == exact


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1.0, 1e300], ids=str)
def test_only_the_proportion_of_weights_matters(scale: float) -> None:
    mean = _mean(_updates([1.0], [5.0], weights=(scale, 3 * scale)))
    assert mean.tolist() == pytest.approx([4.0], rel=1e-3 if scale < 1e-310 else 1e-15)


def test_values_are_added_in_the_order_given() -> None:
    """1 + 1e16 - 1e16 is 0 in float64; from the other end it would be 1, and the mean a third."""
    assert _mean(_updates([1.0], [1e16], [-1e16])).tolist() == [0.0]


def test_values_near_the_largest_float64_do_not_overflow() -> None:
    assert _mean(_updates([1e308], [1e308], [1e308])).tolist() == pytest.approx([1e308])


def test_empty_tensors_and_scalars_are_tensors_like_any_other() -> None:
    arrays = {"none": np.zeros((0, 3), np.float32), "one": np.array(2.0), "count": np.array(3, np.int64)}
    combined = combine("fedavg", {}, [UpdateArrays(arrays), UpdateArrays(arrays)])
    assert combined.arrays["none"].shape == (0, 3)
    assert combined.arrays["none"].dtype == np.float32
    assert combined.arrays["one"].shape == ()
    assert combined.arrays["one"].item() == 2.0
    assert combined.arrays["count"].item() == 3


def test_arrays_of_any_layout_are_read_right() -> None:
    wide = np.arange(6.0).reshape(2, 3)
    updates = [UpdateArrays({"w": wide.T.copy().T}), UpdateArrays({"w": wide.astype(">f8")})]
    assert np.array_equal(_mean(updates), wide)


def test_the_outcome_shares_nothing_with_its_inputs() -> None:
    arrays = {"w": np.array([1.0]), "n": np.array([1]), "mask": np.array([True])}
    given = copy.deepcopy(arrays)
    combined = combine("fedavg", {"integers": "latest"}, [UpdateArrays(arrays)])
    for array in combined.arrays.values():
        array[...] = 0
    assert all(np.array_equal(arrays[name], given[name]) for name in arrays)


def test_the_report_says_what_was_done() -> None:
    report = combine("fedavg", {}, _updates([1.0, 2.0], [3.0, 4.0], weights=(10, 30))).report
    assert report.as_json() == {
        "aggregator": "fedavg",
        "params": {"integers": "rounded_mean", "keys": "strict", "weighting": "num_examples"},
        "num_updates": 2,
        "num_examples": 40.0,
        "weights": [10.0, 30.0],
        "tensors": [["w", [2], "F64"]],
        "bytes_read": 32,
        "state": [],
        "facts": {},
    }


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0, -1, -0.0, math.nan, math.inf])
def test_a_weight_that_can_not_weigh_is_refused(weight: float) -> None:
    """Zero gave NaN elsewhere, and a negative one turned a client's learning around."""
    with pytest.raises(UpdateUnusable, match="num_examples") as caught:
        _mean(_updates([1.0], [2.0], weights=(1, weight)))
    assert (caught.value.index, caught.value.reason_code) == (1, "WEIGHT")


def test_weights_too_large_to_add_up_are_refused() -> None:
    with pytest.raises(UpdateUnusable) as caught:
        _mean(_updates([1.0], [2.0], [3.0], weights=(1e308, 1.7e308, 1.0)))
    assert (caught.value.index, caught.value.reason_code) == (1, "WEIGHT")


def test_no_updates_are_no_mean() -> None:
    with pytest.raises(NoUpdates):
        combine("fedavg", {}, [])


def test_a_vector_never_broadcasts_into_a_matrix() -> None:
    good = {"w": np.ones((3, 3))}
    with pytest.raises(UpdateUnusable, match=r"'w' has shape \[3\] where \[3, 3\] is expected") as caught:
        combine("fedavg", {}, [UpdateArrays(good), UpdateArrays({"w": np.ones(3)}), UpdateArrays(good)])
    assert (caught.value.index, caught.value.reason_code) == (1, "SHAPE")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_odd_one_out_is_blamed_wherever_it_stands(place: int) -> None:
    updates = _updates([1.0] * 10, [3.0] * 10)
    updates.insert(place, UpdateArrays({"w": np.ones(1000)}))
    with pytest.raises(UpdateUnusable) as caught:
        combine("fedavg", {}, updates)
    assert caught.value.index == place


def test_the_good_ones_average_once_the_bad_one_is_left_out() -> None:
    """good(10), bad shape(1000), good(10): elsewhere the failed add left the sum half changed, .0098 for .5."""
    updates = _updates([0.0] * 10, [9.0] * 1000, [1.0] * 10)
    with pytest.raises(UpdateUnusable) as caught:
        combine("fedavg", {}, updates)
    del updates[caught.value.index]
    assert _mean(updates).tolist() == [0.5] * 10


@pytest.mark.parametrize(
    ("arrays", "code", "says"),
    [
        ({"w": np.ones(2)}, "SCHEMA", "'b' is missing"),
        ({"w": np.ones(2), "b": np.ones(1), "c": np.ones(1), "d": np.ones(1)}, "SCHEMA", "'c' is not part.*1 more"),
        ({"w": np.ones(2), "b": np.ones(1, np.float32)}, "DTYPE", "'b' is of dtype F32 where F64"),
        ({"w": np.ones(2), "b": np.array(1.0)}, "SHAPE", r"\[\] where \[1\]"),
        ({}, "SCHEMA", "no tensors"),
        ({"w": np.ones(2), "b": np.array(["text"])}, "DTYPE", "<U4"),
        ({"w": np.ones(2), "b": np.array([1j])}, "DTYPE", "complex128"),
        ({"w": np.ones(2), "b": np.array([None])}, "DTYPE", "object"),
    ],
)
def test_another_structure_is_refused_not_truncated(arrays: dict[str, Any], code: str, says: str) -> None:
    good = {"w": np.ones(2), "b": np.ones(1)}
    with pytest.raises(UpdateUnusable, match=says) as caught:
        combine("fedavg", {}, [UpdateArrays(good), UpdateArrays(arrays), UpdateArrays(good)])
    assert (caught.value.index, caught.value.reason_code) == (1, code)


def test_the_order_of_names_does_not_matter() -> None:
    first = UpdateArrays({"a": np.array([1.0]), "b": np.array([2.0])})
    second = UpdateArrays({"b": np.array([4.0]), "a": np.array([3.0])})
    arrays = combine("fedavg", {}, [first, second]).arrays
    assert {name: array.item() for name, array in arrays.items()} == {"a": 2.0, "b": 3.0}


def test_the_current_model_says_what_updates_must_look_like() -> None:
    """Even a majority of strangers is refused."""
    with pytest.raises(UpdateUnusable) as caught:
        combine("fedavg", {}, _updates([1.0], [1.0, 2.0], [1.0, 2.0]), current={"w": np.ones(1)})
    assert caught.value.index == 1


def test_a_current_model_that_is_none_blames_no_update() -> None:
    with pytest.raises(CurrentUnusable, match="dtype object"):
        combine("fedavg", {}, _updates([1.0]), current={"w": np.array([None])})


def test_state_for_an_aggregator_that_keeps_none_is_refused() -> None:
    with pytest.raises(StateUnexpected, match="fedavg"):
        combine("fedavg", {}, _updates([1.0]), state={"m": np.ones(1)})
    assert combine("fedavg", {}, _updates([1.0]), state={}).state is None


@pytest.mark.parametrize("dtype", [np.float16, BF16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_blamed_on_its_update(dtype: Any, bad: float) -> None:
    with pytest.raises(UpdateUnusable, match=r"w\[1\] is (nan|-?inf)") as caught:
        _mean(_updates([1.0, 2.0], [1.0, bad], [math.inf, 0.0], dtype=dtype)[:2])
    assert (caught.value.index, caught.value.reason_code) == (1, "NOT_FINITE")


def test_infinities_that_cancel_are_not_missed() -> None:
    with pytest.raises(UpdateUnusable) as caught:
        _mean(_updates([math.inf], [-math.inf]))
    assert caught.value.index == 0


def test_a_result_beyond_the_dtype_is_an_error_of_its_own() -> None:
    """Every value is finite, so no update may be thrown out for it."""
    from tasks.aggregation import (  # only here: an aggregator of the test's own
        Aggregator,
        AggregatorParams,
        Needs,
        registry,
    )

    def needs(params: AggregatorParams, inputs: Any) -> Needs:
        return Needs((1.0,) * len(inputs.updates), arrays=2)

    def total(params: AggregatorParams, needs: Needs, chunk: Any) -> Any:
        return sum(values.copy() for values in chunk.floats())

    registry.register(Aggregator("total", AggregatorParams, needs, total))
    try:
        with pytest.raises(ResultNotFinite, match=r"w\[1\] is beyond what F16 can hold") as caught:
            _mean(_updates([1.0, 60_000.0], [1.0, 60_000.0], dtype=np.float16), "total")
        assert (caught.value.tensor, caught.value.element, caught.value.dtype) == ("w", 1, "F16")
        assert _mean(_updates([1.0], [2.0]), "total").tolist() == [3.0]
    finally:
        del registry._aggregators["total"]
