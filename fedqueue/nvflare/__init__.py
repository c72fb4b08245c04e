"""NVIDIA FLARE (`nvflare`) on a hub: FLARE asks the sites and collects, the hub aggregates and remembers.

    from fedqueue.nvflare import HubAnalyticsReceiver, HubFedAvg, HubModelAggregator, HubReporter

    job.to_server(HubFedAvg(aggregator=HubModelAggregator(model_id=MODEL), model=initial, num_rounds=20, num_clients=3))
    job.to_server(HubReporter(model_id=MODEL))
    job.to_server(HubAnalyticsReceiver(model_id=MODEL))

A job whose server was killed and that is submitted again goes on at the round it was in, with the hub's newest
aggregate.
docs/nvflare.md has the whole of it. Needs nvflare, which this package does not bring.
"""

from __future__ import annotations

from fedqueue.nvflare.aggregator import HubModelAggregator
from fedqueue.nvflare.analytics import HubAnalyticsReceiver
from fedqueue.nvflare.controller import HubFedAvg
from fedqueue.nvflare.reporter import HubReporter

__all__ = ["HubAnalyticsReceiver", "HubFedAvg", "HubModelAggregator", "HubReporter"]
