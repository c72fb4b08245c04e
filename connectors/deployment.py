"""What a deployment of FMA holds that the hub beside it has not taken over yet, and the verbs that take it over.

FMA's own API goes on writing into the same database. A metadata connector that works there gives a `Deployment`; the
rules of taking over are tasks.domain.takeover's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from connectors.records import BlobRef, Client, FederatedModel, ModelAggregate, ModelArtifact, ModelUpdate, UpdateStatus


class Kind(StrEnum):
    """Rows of FMA's that may be refused."""

    MODEL = "model"
    ARTIFACT = "artifact"
    AGGREGATE = "aggregate"
    UPDATE = "update"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A FederatedModel of FMA's."""

    id: int
    uuid: UUID  # FMA gives none: it follows from the row's id and its time, so that everybody finds the same
    name: str
    developer: str
    aggregator: str
    requirement: str | None
    requirement_args: Sequence[Any] | Mapping[str, Any] | None
    furthest_base_agg: int | None
    update_schema: Mapping[str, Any] | None
    client_agg_results_schema: Mapping[str, Any] | None
    allow_aggregation: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FoundArtifact:
    """A published version, or the model it all began with."""

    id: int
    model_id: int
    version: str
    uri: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FoundAggregate:
    """An aggregate that the hub did not post."""

    id: int
    model_id: int
    parent_id: int | None
    uri: str
    num_updates: int
    validation_score: float | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FoundUpdate:
    """An update that came in by FMA's API. `applied_aggregate_id` says more than `status`: FMA sets that later."""

    id: int
    model_id: int
    client_uuid: UUID
    uri: str
    status: UpdateStatus
    base_aggregate_id: int | None
    applied_aggregate_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FoundScore:
    """What a client measured, sent by FMA's API."""

    id: int
    model_id: int
    aggregate_id: int
    client_uuid: UUID
    validation_results: Any


class Deployment(ABC):
    """The deployment's rows that have none of the hub's beside them, oldest first, and how they get one.

    `pull_…` may be called at any time and leave out what was refused; the rest must be called in a transaction.
    """

    @abstractmethod
    def pull_vanished_models(self) -> list[FederatedModel]:
        """The hub's models, not deleted, whose row of FMA's is gone."""

    @abstractmethod
    def pull_models_to_compare(self) -> list[FederatedModel]:
        """The hub's models that are paused on one side alone: `lock_model` brings both together."""

    @abstractmethod
    def pull_removed_registrations(self, limit: int) -> list[tuple[FederatedModel, Client]]:
        """Clients that FMA has taken off a model."""

    @abstractmethod
    def pull_vanished_updates(self, limit: int) -> list[ModelUpdate]:
        """The hub's updates that wait for a round, and whose row of FMA's is gone."""

    @abstractmethod
    def pull_new_models(self, limit: int) -> list[FoundModel]:
        """Models that the hub does not know."""

    @abstractmethod
    def pull_new_registrations(self, limit: int) -> list[tuple[FederatedModel, UUID]]:
        """Clients registered with models that the hub knows."""

    @abstractmethod
    def pull_new_artifacts(self, limit: int) -> list[FoundArtifact]:
        """Artifacts of models that the hub knows."""

    @abstractmethod
    def pull_new_aggregates(self, limit: int) -> list[FoundAggregate]:
        """Aggregates of models that the hub knows, in the order of their creation."""

    @abstractmethod
    def pull_new_updates(self, limit: int, after_id: int = 0) -> list[FoundUpdate]:
        """Updates of models that take some, by id, whose aggregates the hub knows, and their senders' registrations."""

    @abstractmethod
    def pull_new_scores(self, limit: int) -> list[FoundScore]:
        """Scores of aggregates that the hub knows."""

    @abstractmethod
    def pull_overtaken_updates(self, limit: int) -> list[tuple[ModelUpdate, int]]:
        """The hub's updates that are not COMPLETE, and by FMA's row were used in an aggregate: that one's id."""

    @abstractmethod
    def remove_registration(self, model: FederatedModel, client: Client) -> None:
        """Take the client off the model, as FMA has done."""

    @abstractmethod
    def adopt_model(self, found: FoundModel) -> FederatedModel:
        """The hub's row of the model. Raises: AlreadyExists."""

    @abstractmethod
    def adopt_artifact(self, found: FoundArtifact, data: BlobRef) -> ModelArtifact:
        """The hub's row of the artifact. Raises: AlreadyExists."""

    @abstractmethod
    def adopt_aggregate(self, found: FoundAggregate, data: BlobRef) -> ModelAggregate:
        """The aggregate as the head of the model's chain: a round under way is fenced by it. The model must be locked.

        Raises: AlreadyExists.
        """

    @abstractmethod
    def adopt_update(self, row_id: int, update: ModelUpdate) -> ModelUpdate:
        """`add_model_update` for what came in as FMA's row of that id. Raises: AlreadyExists, ModelDeleted."""

    @abstractmethod
    def adopt_used_update(self, found: FoundUpdate, data: BlobRef) -> ModelUpdate:
        """The hub's row of an update that FMA has used: COMPLETE, its bytes not kept. Raises: AlreadyExists."""

    @abstractmethod
    def register_overtaken(self, update: ModelUpdate, aggregate_id: int) -> None:
        """The update as COMPLETE in an aggregate that the hub did not post. The model must be locked."""

    @abstractmethod
    def refuse(self, kind: Kind, row_id: int, reason: str) -> bool:
        """Look at that row no more; False if that was said before."""


def submission_id_of(model_uuid: UUID, update_id: int) -> UUID:
    """The id under which FMA's update of that id is submitted, by whoever finds it: so it is taken over once."""
    return uuid5(model_uuid, f"fma update {update_id}")
