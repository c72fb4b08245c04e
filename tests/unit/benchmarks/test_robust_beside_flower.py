"""Picks and clips beside Flower's own: multi-Krum, Bulyan, a fixed clip, one that adapts.

Where Flower does otherwise than the paper, a test says so by a case worked out by hand: docs/benchmarks.md tells the
same in words.
"""

from __future__ import annotations

from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contestants import Contestant
from tasks.aggregation import combine
from tasks.aggregation.noise import normal_deviates
from tests.unit.benchmarks.beside import HALF_ULP, Arrays, Rounds, asked_of, farthest, one_round, random_rounds

BOTH_APIS = ["", "server.strategy."]
SEEDS = range(5)
# The adaptive clip's count has noise whatever the multiplier; this one leaves next to none on the model.
ADAPTIVE: dict[str, Any] = {"clip": 0.4, "target_quantile": 0.7, "clip_learning_rate": 0.2}
OURS_ALONE = {"noise_multiplier": 1e-12, "delta": 1e-5}


def weighted(rounds: Rounds, params: dict[str, Any], aggregator: str) -> Arrays:
    return combine(aggregator, params, rounds.given(0), current=rounds.current).arrays


# --- multi-Krum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["MultiKrum", "server.strategy.Krum"])
@pytest.mark.parametrize("seed", SEEDS)
def test_multi_krum_of_as_many_examples_is_flowers(flower: Contestant, tmp_path: Path, method: str, seed: int) -> None:
    """Other picks would show: the updates lie .03 and more apart."""
    rounds, params = random_rounds(seed, 1, 9, alike=True), {"num_byzantine": 2, "m": 4}
    [theirs], _answer = asked_of(flower, method, rounds, params, tmp_path)
    assert farthest(weighted(rounds, params, "multi_krum"), theirs) <= rounds.mean_error


@pytest.mark.parametrize("method", ["MultiKrum", "server.strategy.Krum"])
def test_flowers_multi_krum_lets_a_client_claim_its_weight(flower: Contestant, tmp_path: Path, method: str) -> None:
    """Scores 10: 1 + 9, 11: 1 + 4, 13: 4 + 9. The mean of 10 and 11 is 10.5, theirs (10 + 3 × 11) / 4."""
    rounds = one_round(0.0, 0.0, 10.0, 11.0, 13.0, 1000.0, num_examples=[1, 1, 3, 1, 1])
    params = {"num_byzantine": 1, "m": 2}
    [theirs], _answer = asked_of(flower, method, rounds, params, tmp_path)
    assert (weighted(rounds, params, "multi_krum")["w"].tolist(), theirs["w"].tolist()) == ([10.5], [10.75])


# --- Bulyan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_bulyan_is_that_of_flowers_older_api(flower: Contestant, tmp_path: Path, seed: int) -> None:
    rounds, params = random_rounds(seed, 1, 11), {"num_byzantine": 2}
    [theirs], _answer = asked_of(flower, "server.strategy.Bulyan", rounds, params, tmp_path)
    assert farthest(weighted(rounds, params, "bulyan"), theirs) <= rounds.mean_error


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("seed", SEEDS)
def test_bulyan_is_flowers_where_it_is_plain_whom_to_pick(
    flower: Contestant, tmp_path: Path, api: str, seed: int
) -> None:
    """Two of seven lie far off, on either side: what is left is the last step, element by element."""
    rounds, params = random_rounds(seed, 1, 7), {"num_byzantine": 1}
    for update, way in zip(rounds.updates[0][-2:], (100.0, -100.0), strict=True):
        for array in update.values():
            array += way
    [theirs], _answer = asked_of(flower, api + "Bulyan", rounds, params, tmp_path)
    combined = combine("bulyan", params, rounds.given(0))
    assert sorted(combined.report.facts["picked"]) == [0, 1, 2, 3, 4]
    assert farthest(combined.arrays, theirs) <= rounds.mean_error


def test_the_bulyan_of_flowers_messages_picks_all_at_once(flower: Contestant, tmp_path: Path) -> None:
    """0 … 5 and 8 … 12, two of them byzantine: seven are picked, the three nearest their median averaged.

    The paper picks by Krum, takes what was picked away, and picks again from the rest (El Mhamdi et al., ICML 2018).
    """
    rounds = one_round(0.0, *range(6), *range(8, 13))
    params = {"num_byzantine": 2}
    [at_once], _answer = asked_of(flower, "Bulyan", rounds, params, tmp_path)
    [one_by_one], _answer = asked_of(flower, "server.strategy.Bulyan", rounds, params, tmp_path)
    assert weighted(rounds, params, "bulyan")["w"].tolist() == one_by_one["w"].tolist() == [3.0]
    assert at_once["w"].tolist() == [4.0]


def test_the_bulyan_of_flowers_older_api_needs_an_argument_that_its_defaults_lack(
    flower: Contestant, tmp_path: Path
) -> None:
    params = {"num_byzantine": 1}
    _none, answer = asked_of(flower, "server.strategy.Bulyan(defaults)", random_rounds(1, 1, 7), params, tmp_path)
    assert answer.error == "TypeError: aggregate_krum() missing 1 required positional argument: 'to_keep'"


# --- a fixed clip -------------------------------------------------------------------------------------------------


def clip_error(rounds: Rounds) -> float:
    """As of a mean, and of a norm over 15 elements in each clipped delta; the errors of rounds add up."""
    return len(rounds.updates) * (rounds.mean_error + 2 * (15 + 4) * HALF_ULP * rounds.largest)


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("seed", SEEDS)
def test_norm_clipping_is_flowers_fixed_clip_without_noise(
    flower: Contestant, tmp_path: Path, api: str, seed: int
) -> None:
    rounds = random_rounds(seed, scalar=False)
    theirs, _answer = asked_of(flower, api + "FixedClipping", rounds, {"clip": 0.4}, tmp_path)
    current, clipped = rounds.current, []
    for index, other in enumerate(theirs):
        combined = combine("norm_clipping", {"tau": 0.4}, rounds.given(index), current=current)
        clipped.append(combined.report.facts["clipped"])
        current = combined.arrays
        assert farthest(current, other) <= clip_error(rounds)
    assert 0 < clipped[0] < 6, "some are clipped, and some are not"


@pytest.mark.parametrize("api", BOTH_APIS)
def test_dp_fedavg_is_flowers_fixed_clip_of_as_many_examples(flower: Contestant, tmp_path: Path, api: str) -> None:
    """The noise is at most 7 standard deviations of 1e-12 × .4 / 6."""
    rounds = random_rounds(1, scalar=False, alike=True)
    theirs, _answer = asked_of(flower, api + "FixedClipping", rounds, {"clip": 0.4}, tmp_path)
    current, state = rounds.current, None
    for index, other in enumerate(theirs):
        combined = combine("dp_fedavg", OURS_ALONE | {"clip": 0.4}, rounds.given(index), current=current, state=state)
        current, state = combined.arrays, combined.state
        assert farthest(current, other) <= clip_error(rounds) + 3 * 7 * 1e-12 * 0.4 / 6


@pytest.mark.parametrize("api", BOTH_APIS)
def test_flowers_noise_is_as_strong_as_ours(flower: Contestant, tmp_path: Path, api: str) -> None:
    """2 × .5 on the sum of four, in 40,000 elements: six standard deviations of a deviation are 2 %."""
    zeros, nearly = {"w": np.zeros(40_000)}, {"w": np.full(40_000, 1e-9)}
    rounds, params = Rounds(zeros, [[nearly] * 4], [[1] * 4]), {"clip": 0.5, "noise_multiplier": 2.0}
    [theirs], _answer = asked_of(flower, api + "FixedClipping", rounds, params, tmp_path)
    facts = combine("dp_fedavg", params | {"delta": 1e-5}, rounds.given(0), current=zeros).report.facts
    assert theirs["w"].std() == pytest.approx(facts["noise_std"], rel=0.022)


@pytest.mark.parametrize("api", BOTH_APIS)
def test_who_claims_more_examples_moves_flowers_private_mean_farther_than_its_noise_allows_for(
    flower: Contestant, tmp_path: Path, api: str
) -> None:
    """Deltas 4, clipped to 1, of 3 examples and .5 of 1: theirs is (3 + .5) / 4; its noise is for (1 + .5) / 2."""
    rounds = one_round(0.0, 4.0, 0.5, num_examples=[3, 1])
    [theirs], _answer = asked_of(flower, api + "FixedClipping", rounds, {"clip": 1.0}, tmp_path)
    ours = weighted(rounds, OURS_ALONE | {"clip": 1.0}, "dp_fedavg")
    assert theirs["w"].tolist() == [0.875]
    assert ours["w"].tolist() == [pytest.approx(0.75, abs=7e-12)]


@pytest.mark.parametrize("api", BOTH_APIS)
def test_a_tensor_without_dimensions_is_never_clipped_by_flower(flower: Contestant, tmp_path: Path, api: str) -> None:
    """Delta (3, 4) of norm 5: the 3 becomes 3 / 5, the 4 should become 4 / 5."""
    zeros = {"w": np.zeros(1), "scale": np.zeros(())}
    moved = {"w": np.array([3.0]), "scale": np.array(4.0)}
    rounds = Rounds(zeros, [[moved] * 2], [[1, 1]])
    [theirs], _answer = asked_of(flower, api + "FixedClipping", rounds, {"clip": 1.0}, tmp_path)
    ours = weighted(rounds, {"tau": 1.0}, "norm_clipping")
    assert (ours["w"].item(), ours["scale"].item()) == pytest.approx((0.6, 0.8), rel=1e-12)
    assert (theirs["w"].item(), theirs["scale"].item()) == pytest.approx((0.6, 4.0), rel=1e-12)


@pytest.mark.parametrize("api", BOTH_APIS)
def test_an_update_that_did_not_move_ends_flowers_round(flower: Contestant, tmp_path: Path, api: str) -> None:
    rounds = one_round(1.0, 1.0, 3.0)
    _none, answer = asked_of(flower, api + "FixedClipping", rounds, {"clip": 1.0}, tmp_path)
    assert answer.error == "ZeroDivisionError: float division by zero"
    assert weighted(rounds, {"tau": 1.0}, "norm_clipping")["w"].tolist() == [1.5]


# --- a clip that adapts -------------------------------------------------------------------------------------------


def test_the_adaptive_clip_is_that_of_flowers_deprecated_wrapper(flower: Contestant, tmp_path: Path) -> None:
    """Each round at Flower's clip, the noise of our count taken out again: its generator and its seed are known."""
    rounds, seed = random_rounds(2, count=10, scalar=False, alike=True), bytes(range(32))
    theirs, answer = asked_of(flower, "server.strategy.DPFedAvgAdaptive", rounds, ADAPTIVE, tmp_path)
    # 10 / 20 on the count of 10.
    without_noise = exp(ADAPTIVE["clip_learning_rate"] * float(normal_deviates(seed, 0, 0, 1)[0]) / 20)
    params = ADAPTIVE | OURS_ALONE | {"adaptive_clip": True}
    current, state, clip = rounds.current, None, ADAPTIVE["clip"]
    for index, (other, next_clip) in enumerate(zip(theirs, answer.facts["next_clips"], strict=True)):
        if state is not None:
            state |= {"clip": np.array(clip)}
        combined = combine("dp_fedavg", params, rounds.given(index), current=current, state=state, noise_seed=seed)
        current, state = combined.arrays, combined.state
        assert state is not None
        assert combined.report.facts["clip"] == clip
        assert farthest(current, other) <= clip_error(rounds) + 3 * 7 * 1e-12 * clip / 10
        assert float(state["clip"]) * without_noise == pytest.approx(next_clip, rel=1e-12)
        assert abs(next_clip / clip - 1) > 0.01, "it moved"
        clip = next_clip


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("length", [4.0, 0.25])
def test_flowers_adaptive_clip_runs_away_from_its_quantile(
    flower: Contestant, tmp_path: Path, api: str, length: float
) -> None:
    """All are clipped at 1: half should not be, so it should grow by e^(.2 × .5). Theirs shrinks by as much.

    None is clipped: it should shrink, and theirs grows (Andrew et al., NeurIPS 2021, Algorithm 1: C × e^-.2(b - .5),
    b the share that is not clipped; theirs takes the share that is).
    """
    rounds = one_round(0.0, *[length] * 4)
    params = ADAPTIVE | {"clip": 1.0, "target_quantile": 0.5}
    _models, right = asked_of(flower, "server.strategy.DPFedAvgAdaptive", rounds, params, tmp_path)
    _models, wrong = asked_of(flower, api + "AdaptiveClipping", rounds, params, tmp_path)
    grown = 0.1 if length > 1 else -0.1
    assert right.facts["next_clips"] == [pytest.approx(exp(grown), rel=1e-12)]
    assert wrong.facts["next_clips"] == [pytest.approx(exp(-grown), rel=1e-12)]


@pytest.mark.parametrize("api", BOTH_APIS)
def test_flowers_noise_beside_an_adaptive_clip_is_for_the_next_rounds_clip(
    flower: Contestant, tmp_path: Path, api: str
) -> None:
    """40 deltas clipped at 1, noise 1: ours is 1 / √(15/16) of 1 / 40, theirs of the clip after it has shrunk."""
    zeros, moved = {"w": np.zeros(20_000)}, {"w": np.ones(20_000)}
    rounds = Rounds(zeros, [[moved] * 40], [[1] * 40])
    params = ADAPTIVE | {"clip": 1.0, "target_quantile": 0.5, "noise_multiplier": 1.0}
    [theirs], answer = asked_of(flower, api + "AdaptiveClipping", rounds, params, tmp_path)
    [next_clip] = answer.facts["next_clips"]
    private = params | {"delta": 1e-5, "adaptive_clip": True}
    facts = combine("dp_fedavg", private, rounds.given(0), current=zeros).report.facts
    assert facts["noise_std"] == pytest.approx(1 / sqrt(15 / 16) / 40, rel=1e-12)
    # e^-.1 and five standard deviations of the count's noise, 2 of 40; the deviation's own are .5 %.
    assert next_clip == pytest.approx(exp(-0.1), rel=0.2 * 5 * 2 / 40)
    assert theirs["w"].std() == pytest.approx(facts["noise_std"] * next_clip, rel=0.03)
