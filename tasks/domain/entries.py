"""Entries of feeds and points of metrics as they will be kept, from an event or from a message of their own."""

from __future__ import annotations

from connectors.records import NewLog, NewMetric
from fedqueue.messages.events import FLEvent, MetricPoint
from fedqueue.messages.feed import LogMessage, MetricMessage
from tasks.domain.attribution import Sender


def new_log(message: FLEvent | LogMessage, model_id: int, sender: Sender, log: str | None) -> NewLog:
    """The entry; `log` is its text, which may say more than the message's own."""
    return NewLog(
        model_id=model_id,
        event_id=message.event_id,
        run_id=message.run_id,
        event_type=message.event_type,
        log=log,
        success=message.success,
        trust_id=sender.trust,
        fl_client_name=sender.fl_client_name,
        global_round=message.global_round,
        details=message.details,
    )


def new_metric(
    message: FLEvent | MetricMessage, point: MetricPoint | MetricMessage, model_id: int, sender: Sender
) -> NewMetric:
    """The point: of an event its `metric`, else the message itself."""
    # It has a place on its axis, or it was refused.
    x_value = float(message.global_round or 0) if point.x_value is None else point.x_value
    return NewMetric(
        model_id=model_id,
        event_id=message.event_id,
        run_id=message.run_id,
        trust_id=sender.trust,
        fl_client_name=sender.fl_client_name,
        label=point.label,
        x_label=point.x_label,
        x_value=x_value,
        result=point.result,
        global_round=message.global_round or 0,
    )
