"""Messages about a model: its policy, its clients, its versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from fedqueue.messages.envelope import Count, InlineData, Message, RowId, View

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="sha256 of the bytes, hexadecimal.")]


class Policy(Message):
    """How a model is aggregated: what create sets and edit may change."""

    name: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=10_000)
    aggregator: str = Field(default="fedavg", description="An aggregator's name, one of those in README.md.")
    aggregator_params: dict[str, JsonValue] | list[JsonValue] = Field(
        default_factory=dict, description="Its parameters by name, or FMA's positional list."
    )
    requirement: str | None = Field(default="all_clients", description="What gates a round; null: any update does.")
    requirement_args: dict[str, JsonValue] | list[JsonValue] | None = Field(
        default=None, description="Its arguments by name, or FMA's positional list."
    )
    furthest_base_agg: Count | None = Field(
        default=None, description="An update counts when its base is one of so many newest aggregates; null: any."
    )
    allow_repeats: bool | None = Field(
        default=None,
        description="Whether several updates of one client count in a round; null: as the aggregator needs.",
    )
    max_rounds: Count | None = Field(default=None, description="After so many aggregates the run is finished.")
    update_schema: dict[str, JsonValue] | None = Field(default=None, description="JSON Schema for JSON data.")
    client_agg_results_schema: dict[str, JsonValue] | None = Field(
        default=None, description="JSON Schema for the validation results that clients send."
    )
    score_metric: str | None = Field(
        default=None, max_length=100, description="The number in validation results that tells the best aggregate."
    )
    score_mode: Literal["max", "min"] = Field(default="max", description="Whether more of it is better.")
    patience: Count | None = Field(
        default=None, description="After so many scored aggregates without a better one, aggregation pauses."
    )
    max_norm: float | None = Field(default=None, gt=0, description="An update of a larger L2 norm is refused.")
    silence_timeout: float | None = Field(
        default=None,
        gt=0,
        description="A run that sends nothing for so many seconds is given up as ERROR; null: never.",
    )


class CreateModel(Policy):
    """fedqueue.models.create. Sent twice with one model_id it creates one model and answers it twice."""

    model_id: UUID
    data_format: Literal["safetensors", "json"] = "safetensors"
    initial: DataRef | None = Field(default=None, description="The model to start from.")
    initial_data: InlineData = Field(default=None, description="The same inline, for a JSON model, up to 256 KiB.")
    clients: list[UUID] = Field(default_factory=list, max_length=10_000)
    user_id: str | None = Field(default=None, max_length=200)
    project_id: str | None = Field(default=None, max_length=200)


class DataRef(Message):
    """Bytes in a store that the hub is configured to read."""

    uri: str = Field(min_length=1, max_length=2000)
    digest: Digest


class EditModel(Message):
    """fedqueue.models.edit: only the fields that `changes` names are changed."""

    model_id: UUID
    changes: Policy
    user_id: str | None = Field(default=None, max_length=200)


class ModelRef(Message):
    """fedqueue.models.get, pause, resume, delete: the model meant."""

    model_id: UUID
    user_id: str | None = Field(default=None, max_length=200)


class LatestModel(Message):
    """fedqueue.models.latest."""

    model_id: UUID
    include_data: bool = Field(default=False, description="Also the values, for a JSON model small enough to travel.")
    include_download_url: bool = Field(
        default=False, description="Also a URL to read the data by without credentials, where the store is a bucket."
    )


class SignUpload(Message):
    """fedqueue.models.upload_url: where a client without credentials may put model data."""

    size_bytes: int | None = Field(default=None, ge=0, description="What is to be put there; null: not known yet.")


class RegisterClient(Message):
    """fedqueue.models.register_client. Without a client_id the hub makes one; with one, a repeat is harmless."""

    model_id: UUID
    client_id: UUID | None = None
    name: str = Field(default="", max_length=200)


class PublishModel(Message):
    """fedqueue.models.publish: give an aggregate a version. A repeat of the same is harmless."""

    model_id: UUID
    version: str = Field(min_length=1, max_length=100)
    aggregate_id: RowId | None = Field(default=None, description="null: the latest.")
    final: bool = Field(default=False, description="Whether this ends the run.")
    user_id: str | None = Field(default=None, max_length=200)


class ArtifactView(View):
    """A published version."""

    model_id: UUID
    version: str
    aggregate_id: int | None
    uri: str
    digest: str


class ModelView(View):
    """A model as its owner sees it."""

    model_id: UUID
    name: str
    description: str
    aggregator: str
    aggregator_params: dict[str, Any]
    requirement: str | None
    requirement_args: dict[str, Any] | None
    furthest_base_agg: int | None
    allow_repeats: bool
    max_rounds: int | None
    score_metric: str | None = None
    score_mode: str = "max"
    patience: int | None = None
    silence_timeout: float | None = None
    best_aggregate: int | None = Field(default=None, description="Id of the aggregate with the best validation score.")
    data_format: str
    status: str
    allow_aggregation: bool
    aggregates: int = Field(description="How many aggregates it has: the newest one's number.")
    clients: int
    updates: dict[str, int] = Field(description="How many updates stand in each state.")
    published: list[ArtifactView] = Field(default_factory=list, description="Its published versions, oldest first.")
    created_at: datetime | None = None


class ClientView(View):
    """A registered client."""

    client_id: UUID
    name: str


class LatestView(View):
    """The newest model to train from: an aggregate, or the initial artifact (number 0), or nothing yet (no uri)."""

    model_id: UUID
    number: int
    aggregate_id: int | None = None
    parent_id: int | None = None
    uri: str | None = None
    digest: str | None = None
    data_format: str
    num_updates: int = 0
    num_examples: float = 0.0
    status: str
    data: JsonValue = None
    download_url: str | None = Field(default=None, repr=False, description="Whoever has it may read, for an hour.")


class UploadView(View):
    """A PUT to `url` and `uri` in a message: the hub takes the data in from there, and deletes what lies there."""

    url: str = Field(repr=False, description="Whoever has it may write there, for an hour.")
    uri: str


CreateModel.model_rebuild()
