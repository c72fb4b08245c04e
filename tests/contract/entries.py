"""Short ways to make entries of feeds and metrics, and to write them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, Kept, ModelStatus, NewLog, NewMetric, StatusChange


def status(
    connector: BaseMetadataConnector, model: FederatedModel, to: ModelStatus | None, **fields: Any
) -> StatusChange:
    """What that status did, in a transaction of its own."""
    with connector.transaction():
        return connector.update_model_status(model, to, **fields)


def log(model: FederatedModel, event_type: str | None = "JOB_WAITING_FOR_RESOURCES", **fields: Any) -> NewLog:
    """A typed entry of the model."""
    return NewLog(model.id, **({"event_id": uuid4(), "event_type": event_type} | fields))


def text(model: FederatedModel, words: str, **fields: Any) -> NewLog:
    """A line of free text."""
    return log(model, None, log=words, **fields)


def point(model: FederatedModel, **fields: Any) -> NewMetric:
    """A point of accuracy by rounds, unless told otherwise."""
    values: dict[str, Any] = {
        "event_id": uuid4(),
        "label": "accuracy",
        "x_label": "Global Rounds",
        "x_value": 1.0,
        "result": 0.5,
    }
    return NewMetric(model_id=model.id, **(values | fields))


def add(connector: BaseMetadataConnector, *entries: NewLog) -> list[Kept]:
    """What became of the entries, in a transaction of their own."""
    with connector.transaction():
        return connector.add_logs(entries)


def measure(connector: BaseMetadataConnector, *metrics: NewMetric) -> list[Kept]:
    """What became of the points, in a transaction of their own."""
    with connector.transaction():
        return connector.add_metrics(metrics)
