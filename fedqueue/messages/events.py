"""What an FL server tells of a run: statuses, rounds, free text and metrics, one fact an event."""

from __future__ import annotations

import json
import operator
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

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
# Refused from outside: what the hub alone can know, and where a model stands before anybody has told of it.
HUBS_OWN_EVENTS: Final = frozenset({"QUEUE_POSITION", "PENDING"})

MAX_DETAILS_BYTES: Final = 8 * 1024  # of `details` as compact JSON in UTF-8
MAX_LOG_CHARACTERS: Final = 65_536
MAX_CLIENT_NAME: Final = 200
MAX_EVENTS: Final = 1_000  # a message
DEFAULT_X_LABEL: Final = "Global Rounds"


def _whole_number(value: Any) -> int:
    # Not pydantic's strict mode: numpy's integers, which a training loop counts in, are whole numbers too.
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer, not true or false")
    try:
        return operator.index(value)
    except TypeError as error:
        raise PydanticCustomError("int_type", "Input should be a valid integer") from error


# The bounds before the validator: after it they would be lost on the way into a JSON Schema.
Round = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_whole_number)]
ClientName = Annotated[str, Field(min_length=1, max_length=MAX_CLIENT_NAME)]
EventType = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Z][A-Z0-9_]*$")]


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
    event_type: EventType | None = None
    log: str | None = Field(default=None, min_length=1, max_length=MAX_LOG_CHARACTERS)
    metric: MetricPoint | None = None
    fl_client_name: ClientName | None = Field(default=None, description="The FL kit slot it is about; null: none.")
    success: bool = True
    global_round: Round | None = Field(
        default=None, validate_default=True, description="From 1; of metrics from 0. Round events need one."
    )
    details: dict[str, JsonValue] = Field(default_factory=dict, description="Up to 8 KiB of JSON.")

    @field_validator("event_type")
    @classmethod
    def _not_the_hubs(cls, event_type: str | None) -> str | None:
        return check_event_type(event_type)

    # The round's rules hang on the fields before it, and are told under its own name.
    @field_validator("global_round")
    @classmethod
    def _of_its_kind(cls, global_round: int | None, info: ValidationInfo) -> int | None:
        point = info.data.get("metric")
        if point is not None:
            return check_metric_round(global_round, point.x_value)
        return check_round(global_round, info.data.get("event_type"))

    @field_validator("details")
    @classmethod
    def _small(cls, details: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if details and info.data.get("metric") is not None:
            raise PydanticCustomError("details", "a point has no room for details: send them as an event of their own")
        return check_details(details)

    @model_validator(mode="after")
    def _one_fact(self) -> FLEvent:
        if (self.event_type is None) + (self.log is None) + (self.metric is None) != 2:
            raise ValueError("give exactly one of event_type, log and metric")
        return self


class IngestEvents(Message):
    """fedqueue.events.ingest: a batch of events, or one FLEvent by itself in its place.

    Each is judged by itself: what is wrong with one is answered and kept as a dead letter, the others go on.
    """

    # Not read here: one that is no event must not spoil the others.
    events: list[Any] = Field(min_length=1, max_length=MAX_EVENTS, description="FLEvents.")
    _is_single: bool = PrivateAttr(default=False)

    @property
    def place(self) -> str:
        """Where the events lie in the payload, dotted; empty if it is one event itself."""
        return "" if self._is_single else "events"

    @model_validator(mode="wrap")
    @classmethod
    def _one_or_many(cls, payload: Any, read: ModelWrapValidatorHandler[IngestEvents]) -> IngestEvents:
        is_single = isinstance(payload, dict) and "events" not in payload and "event_id" in payload
        message = read({"events": [payload]} if is_single else payload)
        message._is_single = is_single
        return message


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


def check_event_type(event_type: str | None) -> str | None:
    """The same, if those outside the hub may say it. Raises: PydanticCustomError."""
    if event_type in HUBS_OWN_EVENTS:
        raise PydanticCustomError(
            "hubs_own", "{type} is the hub's own event and not taken from outside", {"type": event_type}
        )
    return event_type


def check_round(global_round: int | None, event_type: str | None) -> int | None:
    """The same, if an event of that type (None: free text) may be about it. Raises: PydanticCustomError."""
    if global_round == 0:
        raise PydanticCustomError("round", "rounds count from 1, of metrics alone from 0")
    if global_round is None and event_type in ROUND_EVENTS:
        raise PydanticCustomError("round", "{type} is about a round: say which", {"type": event_type})
    return global_round


def check_metric_round(global_round: int | None, x_value: float | None) -> int | None:
    """The same, if a point can be placed by it. Raises: PydanticCustomError."""
    if global_round is None and x_value is None:
        raise PydanticCustomError("round", "a metric needs its global_round, or an x_value instead")
    return global_round


def check_details(details: dict[str, Any]) -> dict[str, Any]:
    """The same, if it is small and finite. Raises: ValueError."""
    try:
        size = len(json.dumps(details, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise ValueError("details holds a number that is not finite, or text that is not Unicode") from error
    if size > MAX_DETAILS_BYTES:
        raise ValueError(f"details takes {size} bytes as JSON, the limit is {MAX_DETAILS_BYTES}")
    return details
