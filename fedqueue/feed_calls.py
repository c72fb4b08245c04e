"""The client's calls that tell a hub of a run: events, lines of its feed, points of its metrics."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, overload
from uuid import UUID

from fedqueue.arguments import Id, as_message, as_uuid
from fedqueue.calls import Calls
from fedqueue.errors import EventsNotSent, InvalidArgument, Rejected, Unanswered
from fedqueue.event_buffer import EventBuffer, batches, wired
from fedqueue.messages import names as wire
from fedqueue.messages.events import (
    DEFAULT_X_LABEL,
    EventRefusal,
    FLEvent,
    IngestView,
)
from fedqueue.messages.feed import AddedView, LogMessage, MetricMessage


class FeedCalls(Calls):
    """Events, logs and metrics.

    Each carries an `event_id`, made here if none is given and kept through all repeats: sent twice it counts once. A
    call that does not wait returns as soon as the broker has the message; what the hub refuses afterwards lies in its
    dead letters. One that waits raises Rejected instead (`send_events` answers with the refusals). Whoever waits for an
    event hears of its ingestion: that it was judged, its `event_id` among those written before, and sent on. What is
    found out only when it is written lies in the dead letters; `add_log` and `log_metric` hear that too.
    """

    def send_event(
        self,
        model_id: Id,
        event_type: str | None = None,
        *,
        log: str | None = None,
        success: bool = True,
        fl_client_name: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
        run_id: Id | None = None,
        event_id: Id | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> UUID:
        """The event's id. It is a typed event (a status, a round, anything else) or free text, `log`.

        `fl_client_name` is whom it is about, `global_round` counts from 1, `details` take up to 8 KiB as JSON. `run_id`
        is the training attempt (None: the model's current one). Free text with `success` False that is over a limit is
        cut, not refused.
        """
        event = as_message(
            FLEvent,
            model_id=as_uuid(model_id, "model_id"),
            event_id=as_uuid(event_id or uuid.uuid4(), "event_id"),
            run_id=run_id,
            event_type=event_type,
            log=log,
            success=success,
            fl_client_name=fl_client_name,
            global_round=global_round,
            details=dict(details or {}),
        )
        self._send_one(wire.EVENTS_INGEST, wired(event), event.event_id, wait, timeout)
        return event.event_id

    @overload
    def send_events(
        self,
        events: Iterable[FLEvent | Mapping[str, Any]],
        *,
        wait: Literal[False] = ...,
        timeout: float | None = ...,
    ) -> list[UUID]: ...

    @overload
    def send_events(
        self, events: Iterable[FLEvent | Mapping[str, Any]], *, wait: Literal[True], timeout: float | None = ...
    ) -> IngestView: ...

    def send_events(
        self, events: Iterable[FLEvent | Mapping[str, Any]], *, wait: bool = False, timeout: float | None = None
    ) -> list[UUID] | IngestView:
        """The events' ids; with `wait` what became of each: how many were accepted, and why the others were not.

        Any number of them, sent in messages of up to 1,000: FLEvents, or mappings with their fields, which get an
        `event_id` here if they have none. `timeout` is of each message.
        Raises: EventsNotSent, which holds those not sent: sending them again is harmless.
        """
        whole = [_as_event(event, position) for position, event in enumerate(events)]
        accepted, refused, done = 0, list[EventRefusal](), 0
        for batch in batches(whole):
            message = {"events": [wired(event) for event in batch]}
            try:
                if wait:
                    view = self._ask(wire.EVENTS_INGEST, message, IngestView, {}, timeout)
                    accepted += view.accepted
                    refused += [_moved(refusal, done) for refusal in view.refused]
                else:
                    self._asking.post(wire.EVENTS_INGEST, message, self._timeout(timeout), {})
            except Unanswered as error:
                raise EventsNotSent(str(error), whole[done:]) from error
            done += len(batch)
        return IngestView(accepted=accepted, refused=refused) if wait else [event.event_id for event in whole]

    def events(
        self,
        model_id: Id,
        *,
        run_id: Id | None = None,
        size: int = 200,
        seconds: float = 0.5,
        most: int = 100_000,
        timeout: float | None = None,
    ) -> EventBuffer:
        """A buffer that sends the model's events in batches, from a thread of its own: `with hub.events(…) as run:`.

        A batch leaves when `size` events wait, or `seconds` after the first of them. It holds `most` at a time.
        """
        if not 1 <= size <= most:
            raise InvalidArgument("size", f"must be from 1 to {most}, not {size}")
        run = None if run_id is None else as_uuid(run_id, "run_id")

        def send(batch: Sequence[FLEvent], seconds: float) -> None:
            self._asking.post(wire.EVENTS_INGEST, {"events": [wired(event) for event in batch]}, seconds, {})

        return EventBuffer(
            send,
            as_uuid(model_id, "model_id"),
            run,
            size=size,
            seconds=seconds,
            most=most,
            timeout=self._timeout(timeout),
        )

    def add_log(
        self,
        model_id: Id,
        log: str,
        *,
        success: bool = True,
        fl_client_name: str | None = None,
        trust_id: Id | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
        run_id: Id | None = None,
        event_id: Id | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> UUID:
        """The id of the new line of free text in the model's feed; with `success` False it is cut to the limits."""
        entry = as_message(
            LogMessage,
            model_id=as_uuid(model_id, "model_id"),
            event_id=as_uuid(event_id or uuid.uuid4(), "event_id"),
            run_id=run_id,
            log=log,
            success=success,
            fl_client_name=fl_client_name,
            trust_id=trust_id,
            global_round=global_round,
            details=dict(details or {}),
        )
        message = {"entries": [entry.model_dump(mode="json", exclude_defaults=True)]}
        self._send_one(wire.LOGS_ADD, message, entry.event_id, wait, timeout)
        return entry.event_id

    def log_metric(
        self,
        model_id: Id,
        label: str,
        result: float,
        *,
        global_round: int | None = None,
        x_value: float | None = None,
        x_label: str = DEFAULT_X_LABEL,
        fl_client_name: str | None = None,
        trust_id: Id | None = None,
        run_id: Id | None = None,
        event_id: Id | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> UUID:
        """The id of the new point of the plot `label`, at `x_value` (None: at its round)."""
        point = as_message(
            MetricMessage,
            model_id=as_uuid(model_id, "model_id"),
            event_id=as_uuid(event_id or uuid.uuid4(), "event_id"),
            run_id=run_id,
            label=label,
            result=result,
            global_round=global_round,
            x_value=x_value,
            x_label=x_label,
            fl_client_name=fl_client_name,
            trust_id=trust_id,
        )
        message = {"points": [point.model_dump(mode="json", exclude_defaults=True)]}
        self._send_one(wire.METRICS_ADD, message, point.event_id, wait, timeout)
        return point.event_id

    def _send_one(
        self, task: str, message: Mapping[str, Any], event_id: UUID, wait: bool, timeout: float | None
    ) -> None:
        repeat_with = {"event_id": event_id}
        if not wait:
            self._asking.post(task, message, self._timeout(timeout), repeat_with)
            return
        view: type[IngestView | AddedView] = IngestView if task == wire.EVENTS_INGEST else AddedView
        for refusal in self._ask(task, message, view, repeat_with, timeout).refused:
            field = (refusal.field or "").removeprefix("entries.0").removeprefix("points.0").removeprefix(".")
            raise Rejected(refusal.kind, field or None, refusal.reason)


def _as_event(event: FLEvent | Mapping[str, Any], position: int) -> FLEvent:
    if isinstance(event, FLEvent):
        return event
    try:
        return as_message(FLEvent, **({"event_id": uuid.uuid4()} | dict(event)))
    except InvalidArgument as error:
        raise InvalidArgument(f"events.{position}.{error.field}", error.reason) from error


def _moved(refusal: EventRefusal, by: int) -> EventRefusal:
    """A refusal of one message's event, as one of all that were sent."""
    index = refusal.index + by
    field = refusal.field and refusal.field.replace(f"events.{refusal.index}", f"events.{index}", 1)
    return refusal.model_copy(update={"index": index, "field": field})
