"""The digits' model as FMA's JSON: a list of layers, on both sides of the API."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from worker.demo.learning import Parameters

_LAYERS: Final = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")


def to_layers(parameters: Parameters) -> list[Any]:
    """The layers in order, as lists of numbers."""
    return [parameters[name].astype(float).tolist() for name in _LAYERS]


def from_layers(layers: list[Any]) -> Parameters:
    """What `to_layers` made."""
    return {name: np.array(layer, np.float32) for name, layer in zip(_LAYERS, layers, strict=True)}
