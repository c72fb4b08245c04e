"""Flower (`flwr`, its message API) on a hub: the ServerApp keeps its strategy, the hub aggregates and remembers.

    from fedqueue.flower import HubStrategy

    strategy = HubStrategy(FedAvg(fraction_train=0.5), model_id=MODEL, aggregator="fedadam")
    result = strategy.start(grid, initial_arrays, num_rounds=20)

A ServerApp that was killed and is started again goes on at the round it was in, with the hub's newest aggregate.
docs/flower.md has the whole of it. Needs flwr, which this package does not bring.
"""

from __future__ import annotations

from fedqueue.flower.strategy import HubStrategy

__all__ = ["HubStrategy"]
