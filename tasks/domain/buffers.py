"""Asynchronous rounds: clients that wait for nobody, and the buffer that gathers what they send.

Sources: Xie, Koyejo and Gupta, 2019 (fedasync); Nguyen et al., AISTATS 2022 (fedbuff).
"""

from __future__ import annotations

from connectors.records import FederatedModel

_ASYNCHRONOUS = frozenset({"fedasync", "fedbuff"})


def is_asynchronous(aggregator: str) -> bool:
    """Whether updates count as they come: repeats allowed, and no requirement unless one is asked for."""
    return aggregator in _ASYNCHRONOUS


def buffer_size_of(model: FederatedModel) -> int | None:
    """How many updates make a round of the model, oldest first; None if its requirement says so instead."""
    if model.aggregator != "fedbuff" or model.requirement:
        return None
    return int(model.aggregator_params["buffer_size"])
