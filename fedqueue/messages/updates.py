"""Messages about what clients send: updates and scores; and about the rounds that use them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, JsonValue, model_validator

from fedqueue.messages.envelope import Count, InlineData, Message, RowId, View
from fedqueue.messages.models import Digest


class SubmitModelUpdate(Message):
    """fedqueue.updates.submit. The same submission_id sent again is answered as the first time, and counts once."""

    submission_id: UUID = Field(description="The sender's, new for each update and kept for every repeat.")
    model_id: UUID
    client_id: UUID
    num_examples: float = Field(default=1.0, description="Training examples behind the update: its weight.")
    num_steps: Count | None = Field(default=None, description="Local optimizer steps; fednova and scaffold need it.")
    loss: float | None = Field(default=None, description="At the model trained from; qfedavg needs it.")
    base_aggregate: RowId | None = Field(
        default=None, description="Id of the aggregate it was trained from; null: none."
    )
    data: InlineData = Field(default=None, description="FMA's lists inline, for a JSON model, up to 256 KiB.")
    data_uri: str | None = Field(default=None, max_length=2000)
    digest: Digest | None = None
    metrics: dict[Annotated[str, Field(max_length=100)], float] = Field(default_factory=dict, max_length=100)

    @model_validator(mode="after")
    def _one_source(self) -> SubmitModelUpdate:
        if (self.data is None) == (self.data_uri is None):
            raise ValueError("give exactly one of data and data_uri")
        if self.data_uri is not None and self.digest is None:
            raise ValueError("data_uri needs the digest of what lies there")
        return self


class UpdateView(View):
    """What became of a submission."""

    update_id: int
    submission_id: UUID
    status: str
    reason_code: str | None = None
    reason: str | None = None
    repeated: bool = Field(default=False, description="Whether this submission id had been answered before.")


class AggregateRound(Message):
    """fedqueue.rounds.aggregate: look whether this model's round can be posted, and do it."""

    model_id: RowId | UUID


class PollRounds(Message):
    """fedqueue.rounds.poll: find every model with something to do. Carries nothing."""


class RoundView(View):
    """What an aggregate task found or did."""

    aggregate_id: int | None = None
    outcome: str = Field(description="posted, or why nothing was: waiting, claimed, idle, paused, …")
    reason: str = ""


class AddScore(Message):
    """fedqueue.scores.add: one a client and aggregate; a newer one replaces it."""

    model_id: UUID
    aggregate_id: RowId
    client_id: UUID
    num_examples: float = Field(default=1.0, gt=0, le=1e15, description="Validation examples: the score's weight.")
    validation_results: dict[str, JsonValue] = Field(description="Checked by the model's client_agg_results_schema.")


class ScoreView(View):
    """A score as recorded."""

    aggregate_id: int
    client_id: UUID
    validation_results: dict[str, JsonValue]
    validation_score: float | None = Field(default=None, description="What all clients' scores come to so far.")
    is_best: bool = Field(default=False, description="Whether this is the model's best aggregate now.")
