"""The same rounds by several aggregators: the same devices, picked in the same order, training in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from examples.heterogeneous.devices import Device
from examples.heterogeneous.regression import accuracy_of, loss_of, new_model, train
from tasks.aggregation import UpdateArrays, combine

PER_ROUND: Final = 10  # devices, as in the paper


@dataclass(frozen=True)
class Contender:
    """An aggregator, and the rates that suit it."""

    aggregator: str
    local_rate: float
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """How one contender fared: element r is after r rounds, 0 before the first."""

    contender: Contender
    losses: list[float]  # over all devices' training data
    accuracies: list[float]  # over all devices' test data


def run(
    contender: Contender, devices: Sequence[Device], rounds: int, seed: int, on_round: Callable[[], None] | None = None
) -> Course:
    """Its course over so many rounds; what the aggregator keeps between rounds is handed on."""
    pick = np.random.default_rng([seed, 1])
    features, labels = _all(devices, "features"), _all(devices, "labels")
    test_features, test_labels = _all(devices, "test_features"), _all(devices, "test_labels")
    current: Mapping[str, Any] = new_model()
    state: Mapping[str, Any] | None = None
    losses, accuracies = [], []
    for number in range(rounds + 1):
        losses.append(loss_of(current, features, labels))
        accuracies.append(accuracy_of(current, test_features, test_labels))
        if number == rounds:
            break
        updates = []
        for index in sorted(pick.choice(len(devices), min(PER_ROUND, len(devices)), replace=False).tolist()):
            arrays, steps = train(current, devices[index], contender.local_rate, [seed, 2, number, index])
            updates.append(UpdateArrays(arrays, devices[index].num_examples, num_steps=steps))
        combined = combine(contender.aggregator, contender.params, updates, current=current, state=state)
        current, state = combined.arrays, combined.state
        if on_round is not None:
            on_round()
    return Course(contender, losses, accuracies)


def _all(devices: Sequence[Device], name: str) -> Any:
    return np.concatenate([getattr(device, name) for device in devices])
