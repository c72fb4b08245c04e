"""What an FL server tells of a run: statuses, rounds, free text and metrics, one fact an event."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, JsonValue, field_validator, model_validator

from fedqueue.messages.envelope import Message, View

STATUS_EVENTS: Final = frozenset(
    {
        "INITIATED",
        "PREPARED",
        "TRAINING_STARTED",  # read as RUNNING
        "RUNNING",
        "RESULTS_UPLOADED",
        "RESULTS_UPLOAD_FAILED",
        "ERROR",
        "STOPPED",
    }
)
ROUND_EVENTS: Final = frozenset({"ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "ROUND_AGGREGATED"})
HUBS_OWN_EVENTS: Final = frozenset({"QUEUE_POSITION"})  # refused from outside

MAX_DETAILS_BYTES: Final = 8 * 1024  # of `details` as compact JSON in UTF-8
MAX_LOG_CHARACTERS: Final = 65_536
MAX_EVENTS: Final = 1_000  # a message
DEFAULT_X_LABEL: Final = "Global Rounds"

Round = Annotated[int, Field(ge=0, le=2**31 - 1)]
ClientName = Annotated[str, Field(min_length=1, max_length=200)]


class MetricPoint(Message):
    """One point of one series."""

    label: str = Field(min_length=1, max_length=200, description="Of the plot, e.g. accuracy.")
    result: float
    x_value: float | None = Field(default=None, description="null: the global round.")
    x_label: str = Field(default=DEFAULT_X_LABEL, min_length=1, max_length=64)


class FLEvent(Message):
    """One fact of a run: a typed event, a line of free text, or a point of a metric. Sent twice, it counts once."""

    event_id: UUID = Field(description="The sender's, new for each event and kept for every repeat.")
    model_id: UUID
    run_id: UUID | None = Field(default=None, description="The training attempt; null: the model's current one.")
    event_type: str | None = Field(default=None, min_length=1, max_length=100, pattern=r"^[A-Z][A-Z0-9_]*$")
    log: str | None = Field(default=None, min_length=1, max_length=MAX_LOG_CHARACTERS)
    metric: MetricPoint | None = None
    fl_client_name: ClientName | None = Field(default=None, description="The FL kit slot it is about; null: none.")
    success: bool = True
    global_round: Round | None = Field(default=None, description="From 1; of metrics from 0.")
    details: dict[str, JsonValue] = Field(default_factory=dict, description="Up to 8 KiB of JSON.")

    @field_validator("details")
    @classmethod
    def _small(cls, details: dict[str, Any]) -> dict[str, Any]:
        return check_details(details)

    @model_validator(mode="after")
    def _one_fact(self) -> FLEvent:
        if sum(fact is not None for fact in (self.event_type, self.log, self.metric)) != 1:
            raise ValueError("give exactly one of event_type, log and metric")
        return self


class IngestEvents(Message):
    """fedqueue.events.ingest: a batch of events, or one FLEvent by itself in its place.

    Each is judged by itself: what is wrong with one is answered and kept as a dead letter, the others go on.
    """

    events: list[JsonValue] = Field(min_length=1, max_length=MAX_EVENTS)

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, payload: Any) -> Any:
        if isinstance(payload, dict) and "events" not in payload and "event_id" in payload:
            return {"events": [payload]}
        return payload


class EventRefusal(View):
    """Why one event of a message was refused."""

    index: int
    event_id: str | None = None
    kind: str
    field: str | None = None
    reason: str


class IngestView(View):
    """What became of a message's events."""

    accepted: int
    refused: list[EventRefusal] = Field(default_factory=list)


def check_details(details: dict[str, Any]) -> dict[str, Any]:
    """The same, if it is small and finite. Raises: ValueError."""
    try:
        size = len(json.dumps(details, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise ValueError("details holds a number that is not finite, or text that is not Unicode") from error
    if size > MAX_DETAILS_BYTES:
        raise ValueError(f"details takes {size} bytes as JSON, the limit is {MAX_DETAILS_BYTES}")
    return details
