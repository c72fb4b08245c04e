"""Partial sets of tensors, as adapters have them: refused, or combined by those who sent each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.aggregation import (
    InvalidParameter,
    TensorMissing,
    UpdateArrays,
    UpdateStream,
    UpdateUnusable,
    combine,
    combine_streams,
)
from tasks.aggregation.arrays import ArraySink, ArraySource

BOTH = {"a": np.array([1.0]), "b": np.array([10.0])}
ONE = {"a": np.array([5.0])}
PER_TENSOR = {"keys": "per_tensor"}


def test_a_partial_set_is_refused_unless_declared() -> None:
    """Truncated silently elsewhere: a whole layer vanishes from everybody's model."""
    with pytest.raises(UpdateUnusable, match="tensor 'b' is missing") as caught:
        combine("fedavg", {}, [UpdateArrays(BOTH), UpdateArrays(BOTH), UpdateArrays(ONE)])
    assert (caught.value.index, caught.value.reason_code) == (2, "SCHEMA")


def test_each_tensor_is_the_mean_over_those_who_sent_it() -> None:
    updates = [UpdateArrays(BOTH, num_examples=1), UpdateArrays(ONE, num_examples=3)]
    arrays = combine("fedavg", PER_TENSOR, updates).arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [4.0], "b": [10.0]}


def test_it_does_not_matter_who_comes_first() -> None:
    arrays = combine("fedavg", PER_TENSOR, [UpdateArrays(ONE), UpdateArrays(BOTH)]).arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {"a": [3.0], "b": [10.0]}


def test_integers_follow_the_same_senders() -> None:
    updates = [UpdateArrays({"a": np.ones(1), "n": np.array([4])}), UpdateArrays({"a": np.ones(1)})]
    assert combine("fedavg", PER_TENSOR | {"integers": "latest"}, updates).arrays["n"].tolist() == [4]


def test_what_nobody_sent_stays_as_it_is_with_its_state() -> None:
    first = combine("fedavgm", PER_TENSOR, [UpdateArrays(BOTH)], current={"a": np.zeros(1), "b": np.zeros(1)})
    second = combine("fedavgm", PER_TENSOR, [UpdateArrays(ONE)], current=first.arrays, state=first.state)
    assert second.arrays["b"].tolist() == [10.0]
    assert first.state is not None
    assert second.state is not None
    assert second.state["m/b"].tolist() == first.state["m/b"].tolist() == [10.0]


def test_what_nobody_sent_and_no_model_has_is_an_error() -> None:
    with pytest.raises(TensorMissing, match="'b'"):
        combine_streams(
            "fedavg",
            PER_TENSOR,
            [UpdateStream(ArraySource(ONE, 0))],
            ArraySink(),
            expected=[("a", (1,), "F64"), ("b", (1,), "F64")],
        )


def test_a_tensor_that_the_model_does_not_have_is_still_refused() -> None:
    with pytest.raises(UpdateUnusable, match="'b' is not part of the model"):
        combine("fedavg", PER_TENSOR, [UpdateArrays(BOTH)], current=ONE)


@pytest.mark.parametrize(
    ("aggregator", "params"),
    [("krum", {"num_byzantine": 0}), ("geometric_median", {}), ("norm_clipping", {"tau": 1}), ("trimmed_mean", {})],
)
def test_who_compares_whole_updates_needs_them_whole(aggregator: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="keys"):
        combine(aggregator, params | PER_TENSOR, [UpdateArrays(BOTH)] * 3)


def test_the_median_goes_by_tensor_too() -> None:
    updates = [UpdateArrays({"a": np.array([v])} | ({"b": np.array([v])} if v > 1 else {})) for v in (1.0, 2.0, 6.0)]
    arrays = combine("median", PER_TENSOR, updates).arrays
    assert (arrays["a"].tolist(), arrays["b"].tolist()) == ([2.0], [4.0])


def test_one_odd_mask_is_blamed_wherever_it_stands() -> None:
    """The first update is no better than the others: it must not get all of them thrown out."""
    good, odd = ({"w": np.ones(1), "mask": np.array([True, value])} for value in (True, False))
    for place in range(3):
        updates = [UpdateArrays(odd if index == place else good) for index in range(3)]
        with pytest.raises(UpdateUnusable, match=r"mask\[1\]") as caught:
            combine("fedavg", {}, updates)
        assert caught.value.index == place
