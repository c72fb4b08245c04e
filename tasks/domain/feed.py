"""Writing feeds and metrics: entries of any models, in one transaction with the dead letters of those refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog

from connectors.records import Kept, NewLog, NewMetric
from fedqueue.messages import names
from fedqueue.messages.feed import AddedView, AddLogs, AddMetrics, LogMessage, MetricMessage
from tasks.domain.attribution import Sender, Senders, unattributed
from tasks.domain.entries import new_log, new_metric
from tasks.domain.errors import AttributionFailed, EventReused, UnknownModel
from tasks.domain.judging import Batch, Entry, keep_refused, places
from tasks.hub import Hub

M = TypeVar("M", LogMessage, MetricMessage)
N = TypeVar("N", NewLog, NewMetric)

_log = structlog.get_logger(__name__)


def write_logs(hub: Hub, messages: Sequence[AddLogs]) -> list[AddedView]:
    """Add the messages' entries to their models' feeds, each judged by itself; what became of each message's.

    A report of failure whose sender is not known is kept at its model's level.
    """
    batch = Batch(LogMessage, (each for i, m in enumerate(messages) for each in places(i, "entries", m.entries)))

    def make(entry: LogMessage, model_id: int, senders: Senders) -> NewLog:
        try:
            return new_log(entry, model_id, senders.find(entry), entry.log)
        except AttributionFailed:
            if entry.log is None or entry.success:
                raise
            name = entry.fl_client_name or f"trust {entry.trust_id}"
            return new_log(entry, model_id, Sender(), unattributed(entry.log, name))

    return _write(hub, names.LOGS_ADD, batch, make, hub.metadata.add_logs, len(messages))


def write_metrics(hub: Hub, messages: Sequence[AddMetrics]) -> list[AddedView]:
    """Add the messages' points to their models' metrics, each judged by itself; what became of each message's."""
    batch = Batch(MetricMessage, (each for i, m in enumerate(messages) for each in places(i, "points", m.points)))

    def make(point: MetricMessage, model_id: int, senders: Senders) -> NewMetric:
        return new_metric(point, point, model_id, senders.find(point))

    return _write(hub, names.METRICS_ADD, batch, make, hub.metadata.add_metrics, len(messages))


def _write(
    hub: Hub,
    task: str,
    batch: Batch[M],
    make: Callable[[M, int, Senders], N],
    add: Callable[[Sequence[N]], list[Kept]],
    messages: int,
) -> list[AddedView]:
    batch.set_repeats_aside()
    models = batch.find_models(hub)
    senders = Senders(hub, models, (entry.message for entry in batch))
    made: list[tuple[Entry[M], N]] = []
    for entry in batch:
        try:
            made.append((entry, make(entry.message, models[entry.message.model_id].id, senders)))
        except AttributionFailed as failed:
            batch.refuse(entry, failed)

    def write(_: Any) -> tuple[list[Kept], Batch[M]]:
        # Run again from the start if the database asks for it: what it finds out stays in here until it is committed.
        found = batch.copy()
        kept = add([new for _, new in made]) if made else []
        for (entry, _), became in zip(made, kept, strict=True):
            if became is Kept.CONFLICT:
                found.refuse(entry, EventReused(entry.message.event_id))
            elif became is Kept.DELETED:
                found.refuse(entry, UnknownModel(entry.message.model_id))
        keep_refused(hub, task, found.refused)
        return kept, found

    kept, batch = hub.metadata.transact(write)
    became = Counter((entry.place.message, each) for (entry, _), each in zip(made, kept, strict=True))
    became.update((place.message, Kept.REPEATED) for place in batch.repeated)
    views = [
        AddedView(added=became[i, Kept.NEW], repeated=became[i, Kept.REPEATED], refused=refused)
        for i, refused in enumerate(batch.refusals(messages))
    ]
    added, repeated = sum(view.added for view in views), sum(view.repeated for view in views)
    if repeated or batch.refused:
        _log.info("feed.written", task=task, added=added, repeated=repeated, refused=len(batch.refused))
    return views
