"""Messages about a model's feed, metrics, status and progress: what is written there, and how it is read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fedqueue.messages.envelope import Message, View
from fedqueue.messages.events import (
    DEFAULT_X_LABEL,
    MAX_CLIENT_NAME,
    MAX_EVENTS,
    MAX_LOG_CHARACTERS,
    STATUS_EVENTS,
    ClientName,
    EventRefusal,
    EventType,
    Round,
    check_details,
    check_event_type,
    check_metric_round,
    check_round,
)

UserId = Annotated[str, Field(max_length=200)]

# A report whose sender is not known is kept with "[its name] " before the text.
_WITH_A_NAME = MAX_LOG_CHARACTERS + MAX_CLIENT_NAME + 3


class LogMessage(Message):
    """One entry of a feed: a typed event or free text."""

    event_id: UUID
    model_id: UUID
    run_id: UUID | None = None
    event_type: EventType | None = None
    log: str | None = Field(default=None, min_length=1, max_length=_WITH_A_NAME)
    success: bool = True
    trust_id: UUID | None = Field(default=None, description="The trust it is about; null: found by fl_client_name.")
    fl_client_name: ClientName | None = None
    global_round: Round | None = Field(default=None, validate_default=True)
    details: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("event_type")
    @classmethod
    def _no_status(cls, event_type: str | None) -> str | None:
        if event_type in STATUS_EVENTS:
            # Written here it would be a line about a change that never happened.
            raise PydanticCustomError(
                "status", "{type} is a status: send it to fedqueue.events.ingest", {"type": event_type}
            )
        return check_event_type(event_type)

    @field_validator("global_round")
    @classmethod
    def _of_its_kind(cls, global_round: int | None, info: ValidationInfo) -> int | None:
        return check_round(global_round, info.data.get("event_type"))

    @field_validator("details")
    @classmethod
    def _small(cls, details: dict[str, Any]) -> dict[str, Any]:
        return check_details(details)

    @model_validator(mode="after")
    def _typed_or_text(self) -> LogMessage:
        if (self.event_type is None) == (self.log is None):
            raise ValueError("give exactly one of event_type and log")
        return self


class AddLogs(Message):
    """fedqueue.logs.add: entries of any models' feeds; each is judged by itself."""

    # Not read here: one that is none must not spoil the others.
    entries: list[Any] = Field(min_length=1, max_length=MAX_EVENTS, description="LogMessages.")


class MetricMessage(Message):
    """One point of one series of one plot."""

    event_id: UUID
    model_id: UUID
    run_id: UUID | None = None
    trust_id: UUID | None = Field(default=None, description="The trust it is of; null: found by fl_client_name.")
    fl_client_name: ClientName | None = None
    label: str = Field(min_length=1, max_length=200)
    result: float
    x_value: float | None = Field(default=None, description="null: the global round.")
    x_label: str = Field(default=DEFAULT_X_LABEL, min_length=1, max_length=64)
    global_round: Round | None = Field(default=None, validate_default=True)

    @field_validator("global_round")
    @classmethod
    def _placed(cls, global_round: int | None, info: ValidationInfo) -> int | None:
        return check_metric_round(global_round, info.data.get("x_value"))


class AddMetrics(Message):
    """fedqueue.metrics.add: points of any models' metrics; each is judged by itself."""

    points: list[Any] = Field(min_length=1, max_length=MAX_EVENTS, description="MetricMessages.")


class AddedView(View):
    """What became of a message's entries."""

    added: int
    repeated: int = 0
    refused: list[EventRefusal] = Field(default_factory=list)


class UpdateStatus(Message):
    """fedqueue.models.update_status: where a run has come to. Late, repeated and backward ones change nothing."""

    model_id: UUID
    status: str | None = Field(default=None, max_length=30, description="null: only ask.")
    run_id: UUID | None = Field(default=None, description="The training attempt; null: the model's current one.")
    user_id: UserId | None = Field(default=None, description="Who asks for it; null: the FL server.")
    event_id: UUID | None = None
    trust_id: UUID | None = Field(default=None, description="The trust it is about; null: found by fl_client_name.")
    fl_client_name: ClientName | None = Field(default=None, description="Kept whether or not it is anybody's.")
    global_round: Round | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict, description="What is to be read of it in the feed.")

    @field_validator("global_round")
    @classmethod
    def _from_one(cls, global_round: int | None) -> int | None:
        return check_round(global_round, None)

    @field_validator("details")
    @classmethod
    def _small(cls, details: dict[str, Any]) -> dict[str, Any]:
        return check_details(details)


class StatusView(View):
    """The status that stands, and whether this message changed it."""

    model_id: UUID
    status: str
    run_id: UUID | None = None
    changed: bool = False
    reason: str = ""


class UpdateStatuses(Message):
    """fedqueue.models.update_statuses: several in their order, in one transaction, each judged by itself."""

    # Not read here: one that is none must not spoil the others.
    statuses: list[Any] = Field(
        min_length=1, max_length=MAX_EVENTS, description="UpdateStatus messages, of any models."
    )


class StatusesView(View):
    """What became of each, in the message's order."""

    statuses: list[StatusView | None] = Field(description="null: refused.")
    refused: list[EventRefusal] = Field(default_factory=list)


class ListLogs(Message):
    """fedqueue.logs.list: a model's feed, oldest first, page by page."""

    model_id: UUID
    run_id: UUID | None = Field(default=None, description="Of this run alone; null: of all.")
    after_id: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


class LogView(View):
    """One entry, its text as people read it."""

    id: int
    created_at: datetime | None = None
    text: str
    event_type: str | None = None
    success: bool = True
    global_round: int | None = None
    sender: str | None = Field(default=None, description="Whom it is about, as people say it; null: the model.")
    trust: str | None = Field(default=None, description="The trust's code, else its name.")
    fl_client_name: str | None = None
    run_id: UUID | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class LogsView(View):
    """A page of a feed. `next_after_id`: where the next page begins; null: this was the last for now."""

    model_id: UUID
    entries: list[LogView]
    next_after_id: int | None = None


class GetMetrics(Message):
    """fedqueue.metrics.get: a model's plots."""

    model_id: UUID
    run_id: UUID | None = Field(default=None, description="Of this run alone; null: of all, told apart.")


class PointView(View):
    """One point; `global_round` beside it, whatever x counts."""

    x_value: float
    result: float
    global_round: int = 0
    created_at: datetime | None = Field(default=None, description="When the hub took it in.")


class SeriesView(View):
    """One trust's points in one run, ascending by x, of equals in order of arrival."""

    sender: str | None = Field(default=None, description="Whose they are, as people say it; null: the model's own.")
    trust: str | None = Field(default=None, description="The trust's code, else its name; null: no trust's.")
    trust_id: UUID | None = None
    fl_client_name: str | None = Field(default=None, description="The client whose they are, if no trust's.")
    run_id: UUID | None = None
    points: list[PointView]


class PlotView(View):
    """All series of one label over one x."""

    label: str
    x_label: str
    series: list[SeriesView]


class MetricsView(View):
    """A model's plots, by label."""

    model_id: UUID
    plots: list[PlotView]


class GetProgress(Message):
    """fedqueue.models.progress: how far the model's run has come."""

    model_id: UUID


class ParticipantView(View):
    """Where one participant of the run stands."""

    name: str
    trust_id: UUID | None = None
    state: str = Field(
        description="training; returned (its result of this round is there); dropped (it failed since its last "
        "result); waiting (nothing is asked of it: between rounds, or left out of them)."
    )
    last_round: int = Field(default=0, description="The newest round it returned a result in.")


class ProgressView(View):
    """How far a run has come. Rounds count from 1."""

    model_id: UUID
    status: str
    run_id: UUID | None = None
    current_round: int = 0
    completed_rounds: int = 0
    total_rounds: int | None = None
    participants: list[ParticipantView] = Field(default_factory=list)
    last_event_at: datetime | None = None
    eta_seconds: float | None = Field(
        default=None, description="Until the last round is aggregated; null: not known, or the run is over."
    )
    next_aggregate: str = Field(
        default="",
        description="due; claimed (under way); waiting (for more updates, or their requirement); idle (no update is "
        "there); resting (updates rest after a fault); paused; over; misconfigured; empty: the hub is too old to say.",
    )
    waits_for: str = Field(default="", description="Why the next aggregate is not due, in words.")


class DeleteProject(Message):
    """fedqueue.models.delete_for_project: all models of a project, or none."""

    project_id: str = Field(min_length=1, max_length=200)
    user_id: UserId | None = None


class DeletedView(View):
    """How many models were deleted now; those that had been before are not counted."""

    deleted: int
