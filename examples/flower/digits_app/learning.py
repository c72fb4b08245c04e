"""The participants' data and what they learn with."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Parameters = dict[str, NDArray[Any]]
_HELD_BACK = 360  # of 1,797 examples, for the test
_RATE, _BATCH = 0.2, 16


@cache
def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (features[order] / 16).astype(np.float32), labels[order]


def examples_of(partition: int, num_partitions: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A participant's share."""
    features, labels = _digits()
    return features[_HELD_BACK:][partition::num_partitions], labels[_HELD_BACK:][partition::num_partitions]


def test_examples() -> tuple[NDArray[Any], NDArray[Any]]:
    """What nobody trains with."""
    features, labels = _digits()
    return features[:_HELD_BACK], labels[:_HELD_BACK]


def new_parameters(hidden: int) -> Parameters:
    """A network of so many hidden units that has learnt nothing yet: 75 × hidden + 10 parameters."""
    draw = np.random.default_rng(1)
    return {
        "hidden.weight": (draw.standard_normal((64, hidden)) * np.sqrt(2 / 64)).astype(np.float32),
        "hidden.bias": np.zeros(hidden, np.float32),
        "output.weight": (draw.standard_normal((hidden, 10)) * np.sqrt(1 / hidden)).astype(np.float32),
        "output.bias": np.zeros(10, np.float32),
    }


def train(
    start: Parameters, features: NDArray[Any], labels: NDArray[Any], epochs: int, seed: int
) -> tuple[Parameters, float]:
    """The parameters after so many passes, and the last pass's mean loss."""
    parameters = {name: np.array(values) for name, values in start.items()}
    draw, loss = np.random.default_rng(seed), float("nan")
    for _ in range(epochs):
        order, losses = draw.permutation(len(labels)), 0.0
        for batch in np.array_split(order, max(1, len(order) // _BATCH)):
            losses += _descend(parameters, features[batch], labels[batch]) * len(batch)
        loss = losses / len(labels)
    return parameters, loss


def accuracy(parameters: Parameters, features: NDArray[Any], labels: NDArray[Any]) -> float:
    """The share of examples that are told right."""
    return float((_scores(parameters, features)[1].argmax(axis=1) == labels).mean())


def _scores(parameters: Parameters, features: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    hidden = np.maximum(features @ parameters["hidden.weight"] + parameters["hidden.bias"], 0)
    return hidden, hidden @ parameters["output.weight"] + parameters["output.bias"]


def _descend(parameters: Parameters, features: NDArray[Any], labels: NDArray[Any]) -> float:
    hidden, scores = _scores(parameters, features)
    likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
    likelihoods /= likelihoods.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(np.maximum(likelihoods[rows, labels], 1e-12)).mean())
    error = likelihoods
    error[rows, labels] -= 1
    error /= len(labels)
    backwards = (error @ parameters["output.weight"].T) * (hidden > 0)
    for name, gradient in (
        ("output.weight", hidden.T @ error),
        ("output.bias", error.sum(axis=0)),
        ("hidden.weight", features.T @ backwards),
        ("hidden.bias", backwards.sum(axis=0)),
    ):
        parameters[name] -= (_RATE * gradient).astype(np.float32)
    return loss
