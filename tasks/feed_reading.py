"""Tasks that read what a run has told: its feed, its metrics, how far it is. They change nothing."""

from __future__ import annotations

from fedqueue.messages import GetMetrics, GetProgress, ListLogs, LogsView, MetricsView, ProgressView, names
from tasks.base import hub_task
from tasks.domain.feed_views import view_logs, view_metrics, view_progress
from tasks.domain.models import find_model
from tasks.hub import Hub


@hub_task(names.LOGS_LIST, ListLogs, asks=True)
def list_logs(hub: Hub, message: ListLogs) -> LogsView:
    """A page of the model's feed, in words."""
    model = find_model(hub, message.model_id)
    return view_logs(hub.metadata, model, message.run_id, message.after_id, message.limit)


@hub_task(names.METRICS_GET, GetMetrics, asks=True)
def get_metrics(hub: Hub, message: GetMetrics) -> MetricsView:
    """The model's plots, runs told apart."""
    return view_metrics(hub.metadata, find_model(hub, message.model_id), message.run_id)


@hub_task(names.MODELS_PROGRESS, GetProgress, asks=True)
def progress(hub: Hub, message: GetProgress) -> ProgressView:
    """How far the model's present run has come."""
    return view_progress(hub.metadata, find_model(hub, message.model_id))
