"""What keeps a state between rounds, beside Flower's and NVIDIA FLARE's own, over three rounds.

Where a peer does otherwise than the paper, a test says by how much: docs/benchmarks.md tells the same in words.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contestants import Contestant
from tasks.aggregation import UpdateArrays, combine
from tests.unit.benchmarks.beside import Arrays, Rounds, asked_of, farthest, one_round, random_rounds

BOTH_APIS = ["", "server.strategy."]
# Of eta and tau: the paper's, and larger steps that are smoothed more.
ADAPTIVE: list[dict[str, Any]] = [{"eta": 0.01, "tau": 1e-3}, {"eta": 0.1, "tau": 0.1}]
MOMENTS: list[dict[str, Any]] = [{"beta_1": 0.9, "beta_2": 0.99}, {"beta_1": 0.5, "beta_2": 0.9}]


def check(rounds: Rounds, ours: list[Arrays], theirs: list[Arrays], growth: float) -> None:
    """Equal but for rounding; `growth`: how many times a delta's error comes back in the step taken from it.

    What the model of the round before was off by adds to the delta's error, and to the outcome as it is.
    """
    assert len(ours) == len(theirs) == 3
    allowed, before = 0.0, rounds.current
    for mine, other in zip(ours, theirs, strict=True):
        allowed += growth * (allowed + rounds.mean_error) + rounds.mean_error
        assert farthest(mine, other) <= allowed
        assert farthest(mine, before) > 1e5 * allowed, "it moved so far that another formula would show"
        before = mine


def steps_of(aggregator: str, rounds: Rounds, params: list[dict[str, Any]]) -> list[Arrays]:
    """Our model after each round, with that round's parameters."""
    current, state, models = rounds.current, None, []
    for index, its_params in enumerate(params):
        combined = combine(aggregator, its_params, rounds.given(index), current=current, state=state)
        current, state = combined.arrays, combined.state
        models.append(current)
    return models


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.5, 0.5), (1.0, 0.0)])
def test_fedavgm_is_flowers(flower: Contestant, tmp_path: Path, api: str, rate: float, momentum: float) -> None:
    """m is a sum of at most three deltas, so the step has at most three times a delta's error."""
    rounds = random_rounds(1)
    params = {"server_learning_rate": rate, "server_momentum": momentum}
    theirs, _answer = asked_of(flower, api + "FedAvgM", rounds, params, tmp_path)
    check(rounds, steps_of("fedavgm", rounds, [params] * 3), theirs, 3 * rate)


def adaptive_growth(params: dict[str, Any]) -> float:
    """How many times a delta's error comes back in eta × m / (√v + tau).

    An error e in each delta is at most e in m and 2 e in √v (Cauchy and Schwarz), and |m| / √v is at most 3.4 in three
    rounds: |m| <= (1 - beta_1) × sum of beta_1^k |delta|, every |delta| <= √v / √(beta_2^k × (1 - beta_2)). So it comes
    back at most (1 + 2 × 3.4) / tau times.
    """
    return 8 * float(params["eta"]) / float(params["tau"])


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("params", ADAPTIVE)
def test_fedadagrad_is_flowers(flower: Contestant, tmp_path: Path, api: str, params: dict[str, Any]) -> None:
    rounds = random_rounds(2)
    theirs, _answer = asked_of(flower, api + "FedAdagrad", rounds, params, tmp_path)
    check(rounds, steps_of("fedadagrad", rounds, [params] * 3), theirs, adaptive_growth(params))


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("params", ADAPTIVE)
def test_fedyogi_is_flowers(
    flower: Contestant, tmp_path: Path, api: str, params: dict[str, Any], moments: dict[str, Any]
) -> None:
    rounds, params = random_rounds(3), params | moments
    theirs, _answer = asked_of(flower, api + "FedYogi", rounds, params, tmp_path)
    check(rounds, steps_of("fedyogi", rounds, [params] * 3), theirs, adaptive_growth(params))


@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("params", ADAPTIVE)
def test_fedadam_is_flowers_but_for_the_length_of_a_step(
    flower: Contestant, tmp_path: Path, api: str, params: dict[str, Any], moments: dict[str, Any]
) -> None:
    """Moments and direction are equal; in round t Flower's eta is multiplied by Kingma's factor of round t + 1."""
    rounds, params = random_rounds(4), params | moments
    theirs, _answer = asked_of(flower, api + "FedAdam", rounds, params, tmp_path)
    factors = [kingmas_factor(t + 1, **moments) for t in (1, 2, 3)]
    ours = steps_of("fedadam", rounds, [params | {"eta": params["eta"] * factor} for factor in factors])
    check(rounds, ours, theirs, adaptive_growth(params) * max(1.0, *factors))


def kingmas_factor(t: int, beta_1: float, beta_2: float) -> float:
    """What corrects both moments at once, in step t from 1: Kingma and Ba, ICLR 2015, end of section 2."""
    return sqrt(1 - beta_2**t) / (1 - beta_1**t)


@pytest.mark.parametrize("api", BOTH_APIS)
def test_flowers_first_step_of_fedadam_is_neither_papers(flower: Contestant, tmp_path: Path, api: str) -> None:
    """Delta 2 from 0: m = √v = .2. Reddi: .1 × .2 / .201. Kingma: .1 × 2 / 2.001. Flower: Reddi's × √.0199 / .19."""
    rounds, params = one_round(0.0, 2.0), {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    [theirs], _answer = asked_of(flower, api + "FedAdam", rounds, params, tmp_path)
    [reddi] = steps_of("fedadam", rounds, [params])
    [kingma] = steps_of("fedadam", rounds, [params | {"bias_correction": "kingma"}])
    assert reddi["w"].tolist() == pytest.approx([0.02 / 0.201], rel=1e-12)
    assert kingma["w"].tolist() == pytest.approx([0.2 / 2.001], rel=1e-12)
    assert theirs["w"].tolist() == pytest.approx([0.02 / 0.201 * sqrt(0.0199) / 0.19], rel=1e-12)


def fedbuff_steps(rounds: Rounds, staleness: list[int], etas: list[float]) -> list[Arrays]:
    """Our model after each round, whose updates all started so many models before the newest one."""
    models = [rounds.current]
    for index, (late, eta) in enumerate(zip(staleness, etas, strict=True)):
        base = models[len(models) - 1 - late]
        updates = [UpdateArrays(arrays, base=base, staleness=late) for arrays in rounds.updates[index]]
        params = {"buffer_size": len(updates), "eta": eta}
        models.append(combine("fedbuff", params, updates, current=models[-1]).arrays)
    return models[1:]


def test_fedbuff_of_fresh_updates_is_nvflares_without_its_weights(nvflare: Contestant, tmp_path: Path) -> None:
    rounds = random_rounds(5)
    params = {"eta": 0.7, "staleness_weight": False}
    theirs, _answer = asked_of(nvflare, "BuffModelManager", rounds, params, tmp_path, staleness=[0] * 18)
    check(rounds, fedbuff_steps(rounds, [0, 0, 0], [0.7] * 3), theirs, 0.7)


def test_nvflares_fedbuff_weighs_by_another_formula_than_the_papers(nvflare: Contestant, tmp_path: Path) -> None:
    """Fresh, one late, two late: 1 / (1 + √(1 + late)) where the paper has 1 / √(1 + late). All else is equal."""
    rounds, late = random_rounds(6), [0, 1, 2]
    params = {"eta": 0.7, "staleness_weight": True}
    staleness = [one for one in late for _ in range(6)]
    theirs, _answer = asked_of(nvflare, "BuffModelManager", rounds, params, tmp_path, staleness=staleness)
    etas = [0.7 * sqrt(1 + one) / (1 + sqrt(1 + one)) for one in late]
    check(rounds, fedbuff_steps(rounds, late, etas), theirs, 0.7)


def test_a_fresh_update_counts_half_in_nvflares_fedbuff(nvflare: Contestant, tmp_path: Path) -> None:
    rounds, params = one_round(0.0, 2.0), {"eta": 1.0, "staleness_weight": True}
    [theirs], _answer = asked_of(nvflare, "BuffModelManager", rounds, params, tmp_path, staleness=[0])
    [ours] = fedbuff_steps(rounds, [0], [1.0])
    assert (ours["w"].tolist(), theirs["w"].tolist()) == ([2.0], [1.0])


def test_scaffold_is_nvflares_where_all_clients_take_as_many_steps(nvflare: Contestant, tmp_path: Path) -> None:
    """A delta over 4 × .25 is as long as it was, so c may be off by no more than the model."""
    rounds = random_rounds(7)
    params = {"local_learning_rate": 0.25, "num_clients": 6}
    theirs, _answer = asked_of(nvflare, "Scaffold", rounds, params, tmp_path, num_steps=[4] * 18)
    current, state, models = rounds.current, None, []
    for updates in rounds.updates:
        given = [UpdateArrays(arrays, num_steps=4) for arrays in updates]
        combined = combine("scaffold", params, given, current=current, state=state)
        current, state = combined.arrays, combined.state
        assert state is not None
        models.append(current | state)
    zeros = {f"c/{name}": np.zeros_like(array) for name, array in rounds.current.items()}
    check(Rounds(rounds.current | zeros, rounds.updates, rounds.num_examples), models, theirs, 3)


def test_nvflares_scaffold_weighs_by_steps_and_forgets_who_stayed_away(nvflare: Contestant, tmp_path: Path) -> None:
    """2 of 4 clients, 1 and 3 steps of .5, deltas 1 and 4. Paper: (1 + 4) / 2, c = -(2 + 8 / 3) / 4.

    NVFLARE: (1 × 1 + 3 × 4) / 4, c = -(1 × 2 + 3 × 8 / 3) / 4: weighted by steps, and as if the two were all.
    """
    rounds = one_round(0.0, 1.0, 4.0)
    params = {"local_learning_rate": 0.5, "num_clients": 4}
    [theirs], _answer = asked_of(nvflare, "Scaffold", rounds, params, tmp_path, num_steps=[1, 3])
    given = [UpdateArrays(arrays, num_steps=taken) for arrays, taken in zip(rounds.updates[0], (1, 3), strict=True)]
    ours = combine("scaffold", params, given, current=rounds.current)
    assert ours.state is not None
    assert (ours.arrays["w"].tolist(), ours.state["c/w"].tolist()) == ([2.5], [pytest.approx(-7 / 6, rel=1e-12)])
    assert (theirs["w"].tolist(), theirs["c/w"].tolist()) == ([3.25], [-2.5])
