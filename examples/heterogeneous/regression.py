"""Multinomial logistic regression in plain numpy: what every device learns with, and what all of them are judged by.

Knows nothing of fedqueue: arrays by name go in and come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from examples.heterogeneous.devices import CLASSES, FEATURES, Device, Floats, Labels

Model = dict[str, Floats]

BATCH: Final = 10


def new_model() -> Model:
    """One that has learnt nothing: every class is as likely, a loss of ln 10 = 2.303."""
    return {"weight": np.zeros((FEATURES, CLASSES)), "bias": np.zeros(CLASSES)}


def train(start: Mapping[str, NDArray[Any]], device: Device, rate: float, seed: Sequence[int]) -> tuple[Model, int]:
    """(the model after the device's epochs of minibatch gradient descent, how many steps that were)."""
    draw = np.random.default_rng(seed)
    weight, bias = np.array(start["weight"]), np.array(start["bias"])
    steps = 0
    for _ in range(device.epochs):
        order = draw.permutation(device.num_examples)
        features, labels = device.features[order], device.labels[order]
        for begin in range(0, device.num_examples, BATCH):
            seen = features[begin : begin + BATCH]
            error = _likelihoods(seen @ weight + bias)
            error[np.arange(len(seen)), labels[begin : begin + BATCH]] -= 1
            error *= rate / len(seen)
            weight -= seen.T @ error
            bias -= error.sum(axis=0)
            steps += 1
    return {"weight": weight, "bias": bias}, steps


def loss_of(model: Mapping[str, NDArray[Any]], features: Floats, labels: Labels) -> float:
    """Mean cross-entropy, in nats."""
    scores = features @ model["weight"] + model["bias"]
    scores -= scores.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]).mean())


def accuracy_of(model: Mapping[str, NDArray[Any]], features: Floats, labels: Labels) -> float:
    """The share of examples whose likeliest class is the right one."""
    return float(((features @ model["weight"] + model["bias"]).argmax(axis=1) == labels).mean())


def _likelihoods(scores: Floats) -> Floats:
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores
