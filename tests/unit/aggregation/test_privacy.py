"""Differential privacy: the ledger's arithmetic, the noise's bits, and the mean between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tasks.aggregation import (
    InvalidParameter,
    NothingToStartFrom,
    StartFrom,
    UpdateArrays,
    UpdateStream,
    combine,
    combine_streams,
)
from tasks.aggregation.arrays import ArraySink, ArraySource
from tasks.aggregation.noise import chacha20_blocks, normal_deviates
from tasks.aggregation.privacy import ORDERS, epsilon, rdp_of_round

PARAMS = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
SEED = bytes(range(32))


def _updates(*values: Any) -> list[UpdateArrays]:
    return [UpdateArrays({"w": np.array(value, np.float64)}, num_examples=1 + 99 * i) for i, value in enumerate(values)]


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_ten_thousand_sampled_rounds_cost_what_the_literature_says() -> None:
    """q = .01, sigma = 4, delta = 1e-5: 1.26 by the moments accountant (Abadi et al., CCS 2016, section 3)."""
    assert epsilon(10_000 * rdp_of_round(0.01, 4.0), 1e-5) == pytest.approx(1.2586, abs=1e-4)


def test_without_sampling_a_round_costs_half_its_order_over_the_squared_noise() -> None:
    """The least of a / 2 + ln(1e5) / (a - 1) over whole orders is at a = 6."""
    np.testing.assert_allclose(rdp_of_round(1.0, 2.0), [order / 8 for order in ORDERS], rtol=1e-15)
    assert epsilon(rdp_of_round(1.0, 1.0), 1e-5) == pytest.approx(3 + math.log(1e5) / 5, rel=1e-12)


def test_order_two_agrees_with_its_closed_form() -> None:
    """log(1 + q² (exp(1 / sigma²) - 1)): Mironov et al., section 3.3, for order 2."""
    for q, sigma in ((0.1, 1.0), (0.5, 2.0), (0.01, 0.7)):
        expected = math.log1p(q**2 * math.expm1(1 / sigma**2))
        assert rdp_of_round(q, sigma)[0] == pytest.approx(expected, rel=1e-9)


def test_more_noise_and_rarer_clients_cost_less() -> None:
    costs = [epsilon(100 * rdp_of_round(q, sigma), 1e-5) for q, sigma in ((0.1, 1), (0.1, 2), (0.05, 2), (1e-9, 2))]
    assert costs == sorted(costs, reverse=True)
    assert math.isfinite(costs[0])
    assert epsilon(rdp_of_round(0.5, 1e-3), 1e-5) > 1000


# --- the noise --------------------------------------------------------------------------------------------------------


def test_the_key_stream_is_that_of_the_rfc() -> None:
    """RFC 8439, section 2.3.2."""
    nonce = np.frombuffer(bytes.fromhex("000000090000004a00000000"), "<u4")
    block = chacha20_blocks(np.frombuffer(SEED, "<u4"), nonce, 1, 1)
    assert block.astype("<u4").tobytes().hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_any_part_of_a_row_is_what_the_whole_row_has_there() -> None:
    whole = normal_deviates(SEED, 3, 0, 1000)
    for start, stop in ((0, 1), (7, 9), (8, 16), (13, 990), (999, 1000), (5, 5)):
        assert normal_deviates(SEED, 3, start, stop).tobytes() == whole[start:stop].tobytes()


def test_the_deviates_are_normal_and_rows_are_independent() -> None:
    """A million: mean within 5 / 1000, the variance, the fourth moment of 3, and the share beyond one and two."""
    row, other = normal_deviates(SEED, 1, 0, 1_000_000), normal_deviates(SEED, 2, 0, 1_000_000)
    assert abs(row.mean()) < 0.005
    assert row.std() == pytest.approx(1, abs=0.005)
    assert (row**4).mean() == pytest.approx(3, abs=0.05)
    assert (np.abs(row) < 1).mean() == pytest.approx(0.6827, abs=0.003)
    assert (np.abs(row) < 2).mean() == pytest.approx(0.9545, abs=0.002)
    assert abs((row * other).mean()) < 0.005
    assert abs((row[:-1] * row[1:]).mean()) < 0.005


def test_the_transform_agrees_with_the_mathematical_library() -> None:
    words = chacha20_blocks(np.frombuffer(SEED, "<u4"), np.array([3, 0, 0], np.uint32), 0, 1).reshape(-1, 2)
    first, second = ((int(high) << 32 | int(low)) >> 11 for low, high in words[:2].tolist())
    radius = math.sqrt(-2 * math.log((first + 1) * 2.0**-53))
    expected = [radius * math.cos(2 * math.pi * second * 2.0**-53), radius * math.sin(2 * math.pi * second * 2.0**-53)]
    np.testing.assert_allclose(normal_deviates(SEED, 3, 0, 2), expected, rtol=1e-13)


# --- the mean ---------------------------------------------------------------------------------------------------------


def test_with_next_to_no_noise_it_is_the_plain_mean_of_clipped_deltas() -> None:
    """(3, 4) becomes (.6, .8); (0, .5) stays. All count alike: examples are the client's own claim."""
    params = PARAMS | {"noise_multiplier": 1e-12}
    combined = combine("dp_fedavg", params, _updates([3, 4], [0, 0.5]), current={"w": np.zeros(2)})
    np.testing.assert_allclose(combined.arrays["w"], [0.3, 0.65], rtol=1e-9)


def test_the_noise_is_as_strong_as_was_told() -> None:
    """2 × .5 on the sum, so a quarter of it on the mean of four."""
    updates = [UpdateArrays({"w": np.zeros(40_000)})] * 4
    params = {"clip": 0.5, "noise_multiplier": 2, "delta": 1e-5}
    combined = combine("dp_fedavg", params, updates, current={"w": np.zeros(40_000)})
    assert combined.arrays["w"].std() == pytest.approx(0.25, rel=0.02)
    assert combined.report.facts["noise_std"] == 0.25


def test_noise_is_new_every_time_unless_a_seed_is_given() -> None:
    def run(**how: Any) -> bytes:
        return combine("dp_fedavg", PARAMS, _updates([1], [2]), current={"w": np.zeros(1)}, **how).arrays["w"].tobytes()

    assert run() != run()
    assert run(noise_seed=SEED) == run(noise_seed=SEED)


def test_the_seed_is_kept_only_if_asked_and_then_gives_the_same_bytes_again() -> None:
    current = {"w": np.zeros(3)}
    assert "noise_seed" not in combine("dp_fedavg", PARAMS, _updates([1, 2, 3]), current=current).report.facts
    params = PARAMS | {"keep_noise_seed": True}
    first = combine("dp_fedavg", params, _updates([1, 2, 3]), current=current)
    seed = bytes.fromhex(first.report.facts["noise_seed"])
    again = combine("dp_fedavg", params, _updates([1, 2, 3]), current=current, noise_seed=seed)
    assert again.arrays["w"].tobytes() == first.arrays["w"].tobytes()


def test_two_tensors_get_noise_of_their_own() -> None:
    zeros = {"a": np.zeros(8), "b": np.zeros(8)}
    arrays = combine("dp_fedavg", PARAMS, [UpdateArrays(zeros)], current=zeros).arrays
    assert not set(arrays["a"].tolist()) & set(arrays["b"].tolist())


def test_the_ledger_adds_up_over_rounds() -> None:
    params = PARAMS | {"sampling_rate": 0.1}
    current, state = {"w": np.zeros(1)}, None
    for rounds in range(1, 4):
        combined = combine("dp_fedavg", params, _updates([0.1]), current=current, state=state)
        current, state = combined.arrays, combined.state
        facts = combined.report.facts
        assert facts["rounds"] == rounds
        assert facts["epsilon"] == pytest.approx(epsilon(rounds * rdp_of_round(0.1, 1.0), 1e-5), rel=1e-12)


def test_a_clip_that_adapts_moves_towards_the_quantile() -> None:
    """All deltas are longer than the clip, so it grows; all are shorter, so it shrinks."""
    params = {"clip": 1.0, "noise_multiplier": 0.1, "delta": 1e-5, "adaptive_clip": True}
    for length, grows in ((50.0, True), (0.01, False)):
        updates = _updates(*[[length]] * 40)
        first = combine("dp_fedavg", params, updates, current={"w": np.zeros(1)}, noise_seed=SEED)
        assert first.state is not None
        assert (float(first.state["clip"]) > 1) is grows
        second = combine("dp_fedavg", params, updates, current={"w": np.zeros(1)}, state=first.state, noise_seed=SEED)
        assert second.report.facts["clip"] == float(first.state["clip"])
        # Half the way, e^(.2 × .5), give or take what the count's noise of 40 / 20 = 2 of 40 adds.
        assert abs(math.log(float(first.state["clip"]))) == pytest.approx(0.1, abs=0.2 * 2 * 4 / 40)


def test_the_next_clip_is_the_papers() -> None:
    """30 of 40 deltas are within the clip, half should be: 2 × e^-.3(.75 - .5), once the count's noise is taken out.

    Andrew et al., NeurIPS 2021, Algorithm 1. The noise is of 40 / 20 on the count.
    """
    params = {"clip": 2.0, "noise_multiplier": 0.1, "delta": 1e-5, "adaptive_clip": True, "clip_learning_rate": 0.3}
    updates = _updates(*[[1.0]] * 30, *[[3.0]] * 10)
    state = combine("dp_fedavg", params, updates, current={"w": np.zeros(1)}, noise_seed=SEED).state
    assert state is not None
    noise = 2 * float(normal_deviates(SEED, 0, 0, 1)[0])
    assert float(state["clip"]) * math.exp(0.3 * noise / 40) == pytest.approx(2 * math.exp(-0.075), rel=1e-12)


def test_an_adaptive_clip_spends_a_little_of_the_noise_on_its_count() -> None:
    """z for deltas is (z⁻² - (2 × n / 20)⁻²)^-½: with z = 1 and n = 40, 1 / √(1 - 1/16)."""
    params = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "adaptive_clip": True}
    facts = combine("dp_fedavg", params, _updates(*[[0.0]] * 40), current={"w": np.zeros(1)}).report.facts
    assert facts["noise_std"] == pytest.approx(1 / math.sqrt(15 / 16) / 40, rel=1e-12)
    with pytest.raises(InvalidParameter, match="more than an adaptive clip allows"):
        combine("dp_fedavg", params, _updates([0.0]), current={"w": np.zeros(1)})


def test_a_first_round_without_a_model_is_refused_even_where_a_mean_would_do() -> None:
    """A plain mean of models would show what no delta's clip bounds."""
    stream = UpdateStream(ArraySource({"w": np.ones(1)}, 0))
    with pytest.raises(NothingToStartFrom):
        combine_streams("dp_fedavg", PARAMS, [stream], ArraySink(), without_model=StartFrom.MEAN)


def test_integers_and_booleans_show_nothing_of_the_clients() -> None:
    current = {"w": np.zeros(1), "n": np.array([5]), "mask": np.array([True])}
    updates = [UpdateArrays({"w": np.ones(1), "n": np.array([n]), "mask": np.array([False])}) for n in (7, 9)]
    arrays = combine("dp_fedavg", PARAMS, updates, current=current).arrays
    assert (arrays["n"].tolist(), arrays["mask"].tolist()) == ([5], [True])
    with pytest.raises(InvalidParameter, match="left as the current model has them"):
        combine("dp_fedavg", PARAMS | {"integers": "max"}, updates, current=current)


@pytest.mark.parametrize(
    "wrong", [{"clip": 0}, {"noise_multiplier": 0}, {"delta": 0}, {"delta": 1}, {"sampling_rate": 2}]
)
def test_parameters_that_protect_nobody_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        combine("dp_fedavg", PARAMS | wrong, _updates([1]), current={"w": np.zeros(1)})
