"""Server optimizers, by hand for two rounds, and against plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import (
    NothingToStartFrom,
    StateUnusable,
    UpdateArrays,
    combine,
    combine_streams,
    find_aggregator,
    state_tensors,
)
from tasks.aggregation.arrays import ArraySink, ArraySource
from tasks.aggregation.starting import StartFrom
from tasks.aggregation.streams import UpdateStream

FAMILY = ["fedavgm", "fedadagrad", "fedadam", "fedyogi"]


def _updates(*values: Any, weights: tuple[float, ...] | None = None) -> list[UpdateArrays]:
    return [
        UpdateArrays({"w": np.array(value, np.float64)}, num_examples=weight)
        for value, weight in zip(values, weights or (1.0,) * len(values), strict=True)
    ]


def _w(value: float) -> dict[str, Any]:
    return {"w": np.array([value])}


def test_fedavgm_without_momentum_is_fedavg() -> None:
    combined = combine("fedavgm", {}, _updates([2.0], [6.0], weights=(1, 3)), current=_w(1.0))
    assert combined.arrays["w"].tolist() == [5.0]


def test_fedavgm_keeps_rolling() -> None:
    """Round 1: m = 2, w = 0 + 2. Round 2, nobody moves: m = .5 × 2, w = 2 + 1."""
    params = {"server_momentum": 0.5}
    first = combine("fedavgm", params, _updates([2.0]), current=_w(0.0))
    second = combine("fedavgm", params, _updates([2.0]), current=first.arrays, state=first.state)
    assert (first.arrays["w"].tolist(), second.arrays["w"].tolist()) == ([2.0], [3.0])


def test_fedadagrad_sums_the_squares() -> None:
    """v starts at 0. Round 1: v = 9, w = 0 + .1 × 3 / (3 + .001). Round 2: delta 4, v = 25, .1 × 4 / (5 + .001)."""
    first = combine("fedadagrad", {}, _updates([3.0]), current=_w(0.0))
    assert first.arrays["w"][0] == pytest.approx(0.3 / 3.001, rel=1e-15)
    second = combine("fedadagrad", {}, _updates([4.0]), current=_w(0.0), state=first.state)
    assert second.arrays["w"][0] == pytest.approx(0.4 / 5.001, rel=1e-15)
    assert second.state is not None
    assert second.state["v/w"].tolist() == [25.0]


def test_fedadam_as_reddi_wrote_it() -> None:
    """m = .1 × 2, v = .01 × 4: w = 1 + .1 × .2 / (.2 + .001)."""
    combined = combine("fedadam", {}, _updates([2.0], [4.0]), current=_w(1.0))
    assert combined.arrays["w"][0] == pytest.approx(1 + 0.1 * 0.2 / 0.201, rel=1e-14)
    assert combined.state is not None
    np.testing.assert_allclose(combined.state["m/w"], [0.2], rtol=1e-15)
    np.testing.assert_allclose(combined.state["v/w"], [0.04], rtol=1e-15)
    assert combined.state["t"] == 1


def test_fedadam_with_kingmas_correction_takes_a_whole_first_step() -> None:
    """Both moments corrected, t from 1: m = delta, v = delta², so the step is eta × delta / (|delta| + tau)."""
    params = {"bias_correction": "kingma"}
    first = combine("fedadam", params, _updates([3.0]), current=_w(1.0))
    assert first.arrays["w"][0] == pytest.approx(1 + 0.1 * 2 / 2.001, rel=1e-14)
    # Round 2, delta 0: m = .9 × .2, v = .99 × .04, over 1 - .81 and 1 - .9801.
    second = combine("fedadam", params, _updates([1.0]), current=_w(1.0), state=first.state)
    step = 0.1 * (0.18 / 0.19) / ((0.0396 / 0.0199) ** 0.5 + 0.001)
    assert second.arrays["w"][0] == pytest.approx(1 + step, rel=1e-12)
    assert second.state is not None
    assert second.state["t"] == 2


def test_fedyogi_adds_by_the_sign() -> None:
    """v = 0 - .01 × 4 × sign(0 - 4) = .04; then delta 0: the sign of .04 - 0 is 1, but of 0² nothing goes off."""
    first = combine("fedyogi", {}, _updates([2.0]), current=_w(0.0))
    assert first.state is not None
    np.testing.assert_allclose(first.state["v/w"], [0.04], rtol=1e-15)
    assert first.arrays["w"][0] == pytest.approx(0.01 * 0.2 / 0.201, rel=1e-14)
    second = combine("fedyogi", {}, _updates([0.1]), current=_w(0.0), state=first.state)
    assert second.state is not None
    np.testing.assert_allclose(second.state["v/w"], [0.04 - 0.01 * 0.01], rtol=1e-14)


@pytest.mark.parametrize("aggregator", FAMILY)
def test_deltas_are_weighted_by_examples_and_taken_from_each_updates_own_base(aggregator: str) -> None:
    """Against the current model instead of its base, a late update would undo what others did since."""
    updates = [
        UpdateArrays(_w(5.0), num_examples=1, base=_w(1.0)),  # + 4
        UpdateArrays(_w(10.0), num_examples=3),  # + 0
    ]
    same = combine(aggregator, {}, [UpdateArrays(_w(11.0))], current=_w(10.0))  # + 1
    assert combine(aggregator, {}, updates, current=_w(10.0)).arrays["w"] == same.arrays["w"]


@pytest.mark.parametrize("aggregator", FAMILY)
def test_without_a_model_to_start_from_deltas_are_refused(aggregator: str) -> None:
    with pytest.raises(NothingToStartFrom, match=f"{aggregator} works on deltas"):
        combine(aggregator, {}, _updates([1.0]))


def test_a_base_alone_is_enough() -> None:
    updates = [UpdateArrays(_w(3.0), base=_w(1.0)), UpdateArrays(_w(5.0), base=_w(1.0))]
    assert combine("fedavgm", {}, updates).arrays["w"].tolist() == [4.0]


def test_a_hubs_first_round_without_a_model_is_the_weighted_mean() -> None:
    """And leaves no state: the second round is the optimizer's first."""
    streams = [UpdateStream(ArraySource(_w(v), 0), num_examples=n) for v, n in ((2.0, 1), (6.0, 3))]
    sink, state_sink = ArraySink(), ArraySink()
    report = combine_streams("fedadam", {}, streams, sink, state_sink=state_sink, without_model=StartFrom.MEAN)
    assert sink.arrays(report.tensors)["w"].tolist() == [5.0]
    assert (report.state, state_sink.arrays([]), report.facts) == ((), {}, {"started_from": "the weighted mean"})
    assert report.aggregator == "fedadam"


def test_state_looks_as_was_told_before() -> None:
    """So a store can lay out its file before the first chunk is combined."""
    tensors = [("w", (2, 3), "F16"), ("n", (4,), "I64"), ("b", (), "BF16")]
    assert state_tensors("fedadam", {}, tensors) == (
        ("m/w", (2, 3), "F64"),
        ("m/b", (), "F64"),
        ("v/w", (2, 3), "F64"),
        ("v/b", (), "F64"),
        ("t", (), "F64"),
    )
    assert state_tensors("fedavg", {}, tensors) == ()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"m/w": np.zeros(1)}, "lacks"),
        ({"m/w": np.zeros(2), "v/w": np.zeros(1), "t": np.array(1.0)}, r"has 'm/w' of \(\(2,\), 'F64'\)"),
        ({"m/w": np.zeros(1), "v/w": np.zeros(1), "t": np.array(1.0), "c/w": np.zeros(1)}, "not its own"),
    ],
)
def test_another_models_state_is_refused(state: dict[str, Any], says: str) -> None:
    with pytest.raises(StateUnusable, match=says):
        combine("fedadam", {}, _updates([1.0]), current=_w(0.0), state=state)


def test_of_many_faults_of_a_state_the_same_is_named_every_time() -> None:
    """The first that it lacks, else the first that is not its own: a set's order changes with every process."""
    strangers = {f"stranger {number}": np.zeros(1) for number in range(20)}
    with pytest.raises(StateUnusable) as caught:
        combine("fedadam", {}, _updates([1.0]), current=_w(0.0), state=strangers)
    assert caught.value.reason == "lacks 'm/w'"
    own = {"m/w": np.zeros(1), "v/w": np.zeros(1), "t": np.array(1.0)}
    with pytest.raises(StateUnusable) as caught:
        combine("fedadam", {}, _updates([1.0]), current=_w(0.0), state=strangers | own)
    assert caught.value.reason == "has 'stranger 0', which is not its own"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(FAMILY), st.integers(1, 4), st.booleans())
def test_three_rounds_agree_with_the_formulas(seed: int, aggregator: str, count: int, kingma: bool) -> None:
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = {"bias_correction": "kingma"} if kingma and aggregator == "fedadam" else {}
    settled: Any = find_aggregator(aggregator).params(**params)
    current, state = {"w": rng.normal(size=5)}, None
    x, m, v = current["w"].copy(), np.zeros(5), np.zeros(5)
    for t in range(1, 4):
        values, weights = rng.normal(size=(count, 5)), rng.integers(1, 50, count).astype(float)
        updates = [UpdateArrays({"w": value}, num_examples=w) for value, w in zip(values, weights, strict=True)]
        combined = combine(aggregator, params, updates, current=current, state=state)
        delta = np.average(values, axis=0, weights=weights) - x
        match aggregator:
            case "fedavgm":
                m = settled.server_momentum * m + delta
                x = x + settled.server_learning_rate * m
            case "fedadagrad":
                v = v + delta**2
                x = x + settled.eta * delta / (np.sqrt(v) + settled.tau)
            case _:
                m = settled.beta_1 * m + (1 - settled.beta_1) * delta
                if aggregator == "fedadam":
                    v = settled.beta_2 * v + (1 - settled.beta_2) * delta**2
                else:
                    v = v - (1 - settled.beta_2) * delta**2 * np.sign(v - delta**2)
                corrected = (m / (1 - 0.9**t), v / (1 - 0.99**t)) if params else (m, v)
                x = x + settled.eta * corrected[0] / (np.sqrt(corrected[1]) + settled.tau)
        np.testing.assert_allclose(combined.arrays["w"], x, rtol=1e-9, atol=1e-12)
        current, state = combined.arrays, combined.state
