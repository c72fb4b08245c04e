"""Tasks about events of FL servers."""

from __future__ import annotations

from collections.abc import Sequence

from celery import current_task

from fedqueue.messages import IngestEvents, IngestView, names
from tasks.base import emit
from tasks.batching import batch_task
from tasks.domain.events import ingest_events
from tasks.domain.judging import keep_refused
from tasks.hub import Hub


@batch_task(names.EVENTS_INGEST, IngestEvents)
def ingest(hub: Hub, messages: Sequence[IngestEvents]) -> Sequence[IngestView]:
    """Every event on its way to status, feed or metrics, or refused and kept; one that is wrong spoils no other."""
    # What is taken along while it waits in the queue is nobody's who waits for an answer.
    is_awaited = current_task.request.ignore_result is not True
    ingested = ingest_events(hub, messages, is_awaited=is_awaited)
    for task, message in ingested.emissions():
        emit(hub, task, message)
    if ingested.refused:
        # Last: until all is sent this task may come back, and would keep them twice.
        hub.metadata.transact(lambda _: keep_refused(hub, names.EVENTS_INGEST, ingested.refused))
    return ingested.views
