"""Objective inconsistency, by the quadratics that it was found on (Wang et al., NeurIPS 2020, section 3 and appendix).

Client i minimises F_i(x) = ½ xᵀH_i x - e_iᵀx by τ_i steps of gradient descent of length η, so that it moves the
model by K_i (e_i - H_i x), with K_i = (I - (I - ηH_i)^τ_i) H_i⁻¹. A server that adds up these deltas with coefficients
w_i stands still where Σ w_i K_i (e_i - H_i x) = 0:

    x = (Σ w_i K_i H_i)⁻¹ Σ w_i K_i e_i      fedavg: w_i = p_i      fednova: w_i = p_i / τ_i

For small steps K_i is ητ_i I. What is left then is the optimum of Σ p_i τ_i F_i for fedavg, which nobody asked for, and
that of Σ p_i F_i, the true one, for fednova.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.aggregation import UpdateArrays, combine

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """One client."""

    num_examples: float
    num_steps: int
    curvature: Floats  # H
    pull: Floats  # e

    def train(self, x: Floats, rate: float) -> Floats:
        """Its local steps, taken one by one."""
        for _ in range(self.num_steps):
            x = x - rate * (self.curvature @ x - self.pull)
        return x


def _number(num_examples: float, num_steps: int, curvature: float, optimum: float) -> Quadratic:
    """½ curvature × (x - optimum)², less a constant."""
    return Quadratic(num_examples, num_steps, np.array([[curvature]]), np.array([curvature * optimum]))


# Σ p h = 10 + 60 + 30 = 100 and Σ p h x = 0 + 240 + 300, so the true optimum is 5.4.
# With steps: Σ p τ h = 10 + 300 + 600 = 910 and Σ p τ h x = 0 + 1200 + 6000, so the step-weighted one is 7200 / 910.
NUMBERS = (_number(10, 1, 1.0, 0.0), _number(30, 5, 2.0, 4.0), _number(60, 20, 0.5, 10.0))
TRUE = 5.4
STEP_WEIGHTED = 7200 / 910


def _run(aggregator: str, clients: Sequence[Quadratic], start: Floats, rate: float, rounds: int) -> Floats:
    current: dict[str, Any] = {"x": start}
    for _ in range(rounds):
        updates = [
            UpdateArrays({"x": c.train(current["x"], rate)}, c.num_examples, num_steps=c.num_steps) for c in clients
        ]
        current = combine(aggregator, {}, updates, current=current).arrays
    found: Floats = current["x"]
    return found


def _optimum(clients: Sequence[Quadratic], weights: Sequence[float]) -> Floats:
    """Of Σ weight × F_i."""
    curvature = sum(w * c.curvature for w, c in zip(weights, clients, strict=True))
    return _solve(curvature, sum(w * c.pull for w, c in zip(weights, clients, strict=True)))


def _limit(aggregator: str, clients: Sequence[Quadratic], rate: float) -> Floats:
    """Where the rounds must lead, by the docstring's formula."""
    left, right = np.zeros_like(clients[0].curvature), np.zeros_like(clients[0].pull)
    for c in clients:
        identity = np.eye(len(c.pull))
        shrunk = np.linalg.matrix_power(identity - rate * c.curvature, c.num_steps)
        k = (identity - shrunk) @ np.linalg.inv(c.curvature)
        weight = c.num_examples / (c.num_steps if aggregator == "fednova" else 1)
        left += weight * k @ c.curvature
        right += weight * k @ c.pull
    return _solve(left, right)


def _solve(left: Any, right: Any) -> Floats:
    return np.asarray(np.linalg.solve(left, right), np.float64)


def test_the_optima_are_those_worked_out_by_hand() -> None:
    assert _optimum(NUMBERS, [c.num_examples for c in NUMBERS]) == pytest.approx([TRUE])
    assert _optimum(NUMBERS, [c.num_examples * c.num_steps for c in NUMBERS]) == pytest.approx([STEP_WEIGHTED])


def test_one_step_by_hand() -> None:
    """From 0 with steps of ½: client 1 (h 1, optimum 0) stays; client 2 (h 2, optimum 4) is there after one step.

    Weights 1 and 3 of 4, steps 1 and 3, 2.5 on average. fedavg: ¾ × 4. fednova: 2.5 × ¾ × 4 / 3.
    """
    clients = (_number(1, 1, 1.0, 0.0), _number(3, 3, 2.0, 4.0))
    assert _run("fedavg", clients, np.zeros(1), 0.5, 1).tolist() == [3.0]
    assert _run("fednova", clients, np.zeros(1), 0.5, 1).tolist() == [2.5]


@pytest.mark.parametrize("start", [-100.0, 100.0])
@pytest.mark.parametrize("aggregator", ["fedavg", "fednova"])
def test_rounds_lead_to_the_closed_form_from_anywhere(aggregator: str, start: float) -> None:
    found = _run(aggregator, NUMBERS, np.array([start]), 0.02, 400)
    assert found == pytest.approx(_limit(aggregator, NUMBERS, 0.02), abs=1e-9)


def test_fedavg_nears_the_step_weighted_optimum_and_fednova_the_true_one() -> None:
    """Half the step, half the distance: in the limit nothing is left of it."""
    for aggregator, optimum, other in (("fedavg", STEP_WEIGHTED, TRUE), ("fednova", TRUE, STEP_WEIGHTED)):
        coarse, fine = (
            float(_run(aggregator, NUMBERS, np.array([optimum]), rate, rounds)[0])
            for rate, rounds in ((0.004, 700), (0.002, 1400))
        )
        assert abs(fine - optimum) < 0.03 < 2 < abs(fine - other)
        assert abs(coarse - optimum) / abs(fine - optimum) == pytest.approx(2, rel=0.05)


def test_the_same_holds_of_many_dimensions_and_of_curvatures_that_share_no_axes() -> None:
    draw = np.random.default_rng(5)
    clients = []
    for num_examples, num_steps in ((5, 2), (20, 9), (40, 30), (3, 60)):
        factor = draw.normal(size=(6, 6))
        curvature = factor @ factor.T / 6 + 0.2 * np.eye(6)
        clients.append(Quadratic(num_examples, num_steps, curvature, draw.normal(size=6)))
    true = _optimum(clients, [c.num_examples for c in clients])
    step_weighted = _optimum(clients, [c.num_examples * c.num_steps for c in clients])
    rate = 0.001
    found = {name: _run(name, clients, np.zeros(6), rate, 2000) for name in ("fedavg", "fednova")}
    for name, x in found.items():
        assert x == pytest.approx(_limit(name, clients, rate), abs=1e-6)
    between = float(np.linalg.norm(true - step_weighted))
    assert np.linalg.norm(found["fedavg"] - step_weighted) < 0.05 * between
    assert np.linalg.norm(found["fednova"] - true) < 0.05 * between
