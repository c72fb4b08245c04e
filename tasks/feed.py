"""Tasks that write feeds and metrics."""

from __future__ import annotations

from collections.abc import Sequence

from fedqueue.messages import AddedView, AddLogs, AddMetrics, names
from tasks.batching import batch_task
from tasks.domain.feed import write_logs, write_metrics
from tasks.hub import Hub


@batch_task(names.LOGS_ADD, AddLogs)
def add_logs(hub: Hub, messages: Sequence[AddLogs]) -> Sequence[AddedView]:
    """Entries of any models' feeds, written once each however often they come."""
    return write_logs(hub, messages)


@batch_task(names.METRICS_ADD, AddMetrics)
def add_metrics(hub: Hub, messages: Sequence[AddMetrics]) -> Sequence[AddedView]:
    """Points of any models' metrics, written once each however often they come."""
    return write_metrics(hub, messages)
