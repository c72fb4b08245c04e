"""The client's calls that read what a run has told: its feed, its metrics, how far it is."""

from __future__ import annotations

from collections.abc import Iterator

from fedqueue.arguments import Id
from fedqueue.calls import Calls
from fedqueue.messages import (
    GetMetrics,
    GetProgress,
    ListLogs,
    LogsView,
    LogView,
    MetricsView,
    ProgressView,
)
from fedqueue.messages import names as wire


class ReadingCalls(Calls):
    """Logs, metrics and progress of a model."""

    def logs(
        self,
        model_id: Id,
        *,
        run_id: Id | None = None,
        after_id: int = 0,
        limit: int = 100,
        timeout: float | None = None,
    ) -> LogsView:
        """A page of the model's feed, the oldest entries first: up to `limit` (1,000 at most) after `after_id`.

        Long entries make it shorter. Where its `next_after_id` is not None, that is the `after_id` of the next page.
        `run_id`: of this run alone.
        """
        return self._ask_of(
            wire.LOGS_LIST, LogsView, model_id, timeout, ListLogs, run_id=run_id, after_id=after_id, limit=limit
        )

    def iter_logs(
        self,
        model_id: Id,
        *,
        run_id: Id | None = None,
        after_id: int = 0,
        page: int = 500,
        timeout: float | None = None,
    ) -> Iterator[LogView]:
        """Every entry of the model's feed after `after_id`, asked for page by page; `timeout` is of each page.

        Who calls again with the last id it saw gets what has been written since, and misses none.
        """
        next_after: int | None = after_id
        while next_after is not None:
            view = self.logs(model_id, run_id=run_id, after_id=next_after, limit=page, timeout=timeout)
            yield from view.entries
            next_after = view.next_after_id

    def metrics(self, model_id: Id, *, run_id: Id | None = None, timeout: float | None = None) -> MetricsView:
        """The model's plots: one for each label and x, in it one series for each trust and run.

        `run_id`: of this run alone.
        """
        return self._ask_of(wire.METRICS_GET, MetricsView, model_id, timeout, GetMetrics, run_id=run_id)

    def progress(self, model_id: Id, *, timeout: float | None = None) -> ProgressView:
        """How far the model's present run has come, who takes part, and how long it will take."""
        return self._ask_of(wire.MODELS_PROGRESS, ProgressView, model_id, timeout, GetProgress)
