"""fednova, scaffold, feddyn and qfedavg by hand, and fednova by the example that it was made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.aggregation import InvalidParameter, UpdateArrays, UpdateUnusable, combine


def _w(value: float) -> dict[str, Any]:
    return {"w": np.array([value], np.float64)}


def _update(value: float, **known: Any) -> UpdateArrays:
    return UpdateArrays(_w(value), **known)


def test_fednova_takes_each_delta_per_step() -> None:
    """Per step 1 and 2, of steps 2 on average: 0 + 2 × 1.5. fedavg would be led to 3.5 by the longer run."""
    updates = [_update(1.0, num_steps=1), _update(6.0, num_steps=3)]
    combined = combine("fednova", {}, updates, current=_w(0.0))
    assert combined.arrays["w"].tolist() == [3.0]
    assert combined.report.facts == {"effective_steps": 2.0}


def test_fednova_with_equal_steps_is_fedavg() -> None:
    updates = [_update(2.0, num_steps=5, num_examples=1), _update(6.0, num_steps=5, num_examples=3)]
    assert combine("fednova", {}, updates, current=_w(1.0)).arrays["w"].tolist() == [5.0]


def _train(aggregator: str, rate: float = 0.01, rounds: int = 400) -> float:
    """Where rounds lead when clients minimise (x - 0)² / 2 in 1 step and (x - 1)² / 2 in 9, by gradient descent."""
    current = _w(0.3)
    for _ in range(rounds):
        x = float(current["w"][0])
        updates = [
            _update(goal + (x - goal) * (1 - rate) ** steps, num_steps=steps) for goal, steps in ((0.0, 1), (1.0, 9))
        ]
        current = combine(aggregator, {}, updates, current=current).arrays
    return float(current["w"][0])


def test_fedavg_converges_to_the_optimum_weighted_by_steps_and_fednova_to_the_true_one() -> None:
    """In closed form: a client moves by 1 - .99^steps of its way. True is .5; nine steps pull fedavg to .9."""
    one, nine = 1 - 0.99, 1 - 0.99**9
    assert _train("fedavg") == pytest.approx(nine / (one + nine), abs=1e-6)
    assert _train("fedavg") == pytest.approx(0.9, abs=0.01)
    assert _train("fednova") == pytest.approx(nine / 9 / (one + nine / 9), abs=1e-6)
    assert _train("fednova") == pytest.approx(0.5, abs=0.02)


def test_scaffold_moves_its_control_variate_by_the_clients_gradients() -> None:
    """2 of 4 clients, 2 steps of .5: gradients 1 and 3, so c = (1 + 3) / 4. Then nobody moves: c - 2 × 1 / 4."""
    params = {"local_learning_rate": 0.5, "num_clients": 4}
    first = combine("scaffold", params, [_update(-1.0, num_steps=2), _update(-3.0, num_steps=2)], current=_w(0.0))
    assert first.arrays["w"].tolist() == [-2.0]
    assert first.state is not None
    assert first.state["c/w"].tolist() == [1.0]
    still = [_update(-2.0, num_steps=2)] * 2
    second = combine("scaffold", params, still, current=first.arrays, state=first.state)
    assert second.arrays["w"].tolist() == [-2.0]
    assert second.state is not None
    assert second.state["c/w"].tolist() == [0.5]


def test_scaffolds_server_takes_steps_of_its_own_length() -> None:
    params = {"local_learning_rate": 0.5, "num_clients": 1, "server_learning_rate": 0.5}
    assert combine("scaffold", params, [_update(4.0, num_steps=1)], current=_w(2.0)).arrays["w"].tolist() == [3.0]


def test_feddyn_corrects_the_mean_by_h() -> None:
    """h = 0 - .5 / 4 × (1 + 3); mean 2 - h / .5. Then deltas of 0: h stays, 3 - (-.5) / .5."""
    params = {"alpha": 0.5, "num_clients": 4}
    first = combine("feddyn", params, [_update(1.0), _update(3.0)], current=_w(0.0))
    assert first.arrays["w"].tolist() == [3.0]
    assert first.state is not None
    assert first.state["h/w"].tolist() == [-0.5]
    second = combine("feddyn", params, [_update(3.0)], current=first.arrays, state=first.state)
    assert second.arrays["w"].tolist() == [4.0]


def test_qfedavg_weighs_by_loss() -> None:
    """q = 1: 2 × 1 + 1 × 3 over h = (1² + 2) + (3² + 1)."""
    updates = [_update(1.0, loss=2.0), _update(3.0, loss=1.0)]
    combined = combine("qfedavg", {"q": 1}, updates, current=_w(0.0))
    assert combined.arrays["w"][0] == pytest.approx(5 / 13, rel=1e-15)


def test_qfedavg_with_q_of_zero_is_the_plain_mean() -> None:
    updates = [_update(1.0, loss=2.0, num_examples=9), _update(3.0, loss=0.0)]
    assert combine("qfedavg", {"q": 0}, updates, current=_w(0.0)).arrays["w"].tolist() == [2.0]


def test_qfedavg_takes_one_over_the_clients_learning_rate() -> None:
    """L = 2: 2 × (2 × 1 + 1 × 3) over h = (4 × 1 + 2 × 2) + (4 × 9 + 2 × 1)."""
    updates = [_update(1.0, loss=2.0), _update(3.0, loss=1.0)]
    combined = combine("qfedavg", {"q": 1, "lipschitz": 2}, updates, current=_w(0.0))
    assert combined.arrays["w"][0] == pytest.approx(10 / 46, rel=1e-15)


@pytest.mark.parametrize(
    ("aggregator", "params", "says"),
    [
        ("fednova", {}, "num_steps is None"),
        ("scaffold", {"local_learning_rate": 0.1, "num_clients": 5}, "num_steps is None"),
        ("qfedavg", {}, "its loss is None"),
    ],
)
def test_what_an_aggregator_must_know_of_an_update_is_asked_of_that_update(
    aggregator: str, params: dict[str, Any], says: str
) -> None:
    updates = [_update(1.0, num_steps=1, loss=1.0), _update(2.0)]
    with pytest.raises(UpdateUnusable, match=says) as caught:
        combine(aggregator, params, updates, current=_w(0.0))
    assert (caught.value.index, caught.value.reason_code) == (1, "WEIGHT")


@pytest.mark.parametrize("loss", [-1.0, float("nan"), float("inf")])
def test_a_loss_that_is_none_is_refused(loss: float) -> None:
    with pytest.raises(UpdateUnusable, match="loss"):
        combine("qfedavg", {}, [_update(1.0, loss=loss)], current=_w(0.0))


@pytest.mark.parametrize(
    ("aggregator", "params"),
    [("scaffold", {"local_learning_rate": 0.1, "num_clients": 1}), ("feddyn", {"alpha": 0.1, "num_clients": 1})],
)
def test_more_updates_than_clients_in_all_are_refused(aggregator: str, params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="1 clients in all, but 2 updates"):
        combine(aggregator, params, [_update(1.0, num_steps=1)] * 2, current=_w(0.0))
