"""Events of FL servers (DESIGN 8): each judged by itself, and turned into what the three tasks behind it take.

What is emitted carries the event's own id, so that it may be sent twice and counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.records import LogEntry, Metric
from connectors.repeats import is_same_log, is_same_metric, is_same_run
from connectors.run_states import as_status
from fedqueue.messages import names
from fedqueue.messages.events import MAX_EVENTS, STATUS_EVENTS, FLEvent, IngestEvents, IngestView
from tasks.domain.attribution import Sender, Senders, unattributed
from tasks.domain.entries import new_log, new_metric
from tasks.domain.errors import AttributionFailed, EventReused
from tasks.domain.judging import Batch, RefusedEntry, places
from tasks.hub import Hub

# A message of entries is held to about this many characters of free text: brokers and workers take them whole.
_MOST_TEXT: Final = 1 << 20


@dataclass
class Ingested:
    """What comes of some messages of events: statuses in their order, entries of feeds, points of metrics."""

    statuses: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    refused: list[RefusedEntry] = field(default_factory=list)
    views: list[IngestView] = field(default_factory=list)  # one a message

    def emissions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task, message) of everything to be sent: statuses first, for they may begin the run of the rest."""
        of_models: dict[str, list[dict[str, Any]]] = {}
        for status in self.statuses:
            of_models.setdefault(status["model_id"], []).append(status)
        for statuses in of_models.values():
            # In one message: workers would carry out several in any order, and what is overtaken changes nothing.
            for start in range(0, len(statuses), MAX_EVENTS):
                some = statuses[start : start + MAX_EVENTS]
                if len(some) == 1:
                    yield names.MODELS_UPDATE_STATUS, some[0]
                else:
                    yield names.MODELS_UPDATE_STATUSES, {"statuses": some}
        for entries in _chunks(self.logs):
            yield names.LOGS_ADD, {"entries": entries}
        for points in _chunks(self.points):
            yield names.METRICS_ADD, {"points": points}


def ingest_events(hub: Hub, messages: Sequence[IngestEvents], *, is_awaited: bool = False) -> Ingested:
    """Judge every event of the messages: known model, known sender, one payload an id. Writes nothing.

    `is_awaited`: somebody waits for the answer, and is told of ids that stand for something else already. Otherwise
    that is found out when the event is written.
    """
    batch = Batch(FLEvent, (each for i, m in enumerate(messages) for each in places(i, m.place, m.events)))
    batch.set_repeats_aside()
    models = batch.find_models(hub)
    senders = Senders(hub, models, (entry.message for entry in batch))
    there = hub.metadata.pull_entries({entry.message.event_id for entry in batch}) if is_awaited else {}
    ingested = Ingested()
    for entry in batch:
        event = entry.message
        log = event.log
        try:
            sender = senders.find(event)
        except AttributionFailed as failed:
            if event.event_type in STATUS_EVENTS:
                # Where a run has come to is true whoever says it.
                sender = Sender(fl_client_name=event.fl_client_name)
            elif log is None or event.success or event.fl_client_name is None:
                batch.refuse(entry, failed)
                continue
            else:
                # A failure is worth more than its form.
                sender, log = Sender(), unattributed(log, event.fl_client_name)
        standing = there.get(event.event_id)
        if standing is not None and not _is_repeat(event, models[event.model_id].id, log, sender, standing):
            batch.refuse(entry, EventReused(event.event_id))
            continue
        _fan_out(ingested, event, log, sender)
    ingested.refused = batch.refused
    for message, refused in zip(messages, batch.refusals(len(messages)), strict=True):
        ingested.views.append(IngestView(accepted=len(message.events) - len(refused), refused=refused))
    return ingested


def _is_repeat(event: FLEvent, model_id: int, log: str | None, sender: Sender, standing: LogEntry | Metric) -> bool:
    """Whether what stands under the event's id is the event itself, told before."""
    if event.metric is not None:
        metric = new_metric(event, event.metric, model_id, sender)
        return isinstance(standing, Metric) and is_same_metric(metric, standing)
    if not isinstance(standing, LogEntry):
        return False
    if event.event_type in STATUS_EVENTS:
        told = (standing.model_id, standing.event_type) == (model_id, as_status(event.event_type))
        return told and is_same_run(event.run_id, standing.run_id)
    return is_same_log(new_log(event, model_id, sender, log), standing)


def _fan_out(ingested: Ingested, event: FLEvent, log: str | None, sender: Sender) -> None:
    message: dict[str, Any] = {"event_id": str(event.event_id), "model_id": str(event.model_id)}
    if event.run_id is not None:
        message["run_id"] = str(event.run_id)
    if event.details:
        message["details"] = event.details
    if sender.trust_id is not None:
        message["trust_id"] = str(sender.trust_id)
    if sender.fl_client_name is not None:
        message["fl_client_name"] = sender.fl_client_name
    if event.global_round is not None:
        message["global_round"] = event.global_round
    if event.event_type in STATUS_EVENTS:
        ingested.statuses.append(message | {"status": event.event_type})
        return
    if event.metric is not None:
        ingested.points.append(message | event.metric.model_dump(mode="json", exclude={"v"}, exclude_none=True))
        return
    message |= {"event_type": event.event_type} if log is None else {"log": log}
    if not event.success:
        message["success"] = False
    ingested.logs.append(message)


def _chunks(entries: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The entries in messages of a bounded number and size."""
    rest = iter(entries)
    chunk: list[dict[str, Any]] = []
    text = 0
    for entry in rest:
        chunk.append(entry)
        text += len(entry.get("log", ""))
        if len(chunk) == MAX_EVENTS or text >= _MOST_TEXT:
            yield chunk
            chunk, text = [], 0
    if chunk:
        yield chunk
