"""What each task takes and answers: the table that schemas and documentation are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedqueue.messages import names
from fedqueue.messages.envelope import Message, View
from fedqueue.messages.events import FLEvent, IngestEvents, IngestView
from fedqueue.messages.feed import (
    AddedView,
    AddLogs,
    AddMetrics,
    DeletedView,
    DeleteProject,
    GetMetrics,
    GetProgress,
    ListLogs,
    LogMessage,
    LogsView,
    MetricMessage,
    MetricsView,
    ProgressView,
    StatusesView,
    StatusView,
    UpdateStatus,
    UpdateStatuses,
)
from fedqueue.messages.models import (
    ArtifactView,
    ClientView,
    CreateModel,
    EditModel,
    LatestModel,
    LatestView,
    ModelRef,
    ModelView,
    PublishModel,
    RegisterClient,
    SignUpload,
    UploadView,
)
from fedqueue.messages.trusts import (
    AddTrust,
    ClientTrustView,
    ListTrusts,
    ModelTrustsView,
    SetClientTrust,
    SetModelTrusts,
    SetSlot,
    SlotView,
    TrustsView,
    TrustView,
)
from fedqueue.messages.updates import AddScore, ScoreView, SubmitModelUpdate, UpdateView


@dataclass(frozen=True, slots=True)
class Entries:
    """A list whose entries the hub judges one by one, so that its message's own type leaves them open."""

    field: str
    kind: type[Message]


@dataclass(frozen=True, slots=True)
class Contract:
    """One task that services send: what it takes, what it answers."""

    task: str
    message: type[Message]
    answer: type[View]
    entries: Entries | None = None

    @property
    def queue(self) -> str:
        """The queue that its workers listen on."""
        return names.QUEUE_OF.get(self.task, names.CONTROL_QUEUE)


# What the hub sends to itself. Nothing is gained by sending it from elsewhere.
HUBS_OWN: Final = frozenset(
    {
        names.ROUNDS_POLL,
        names.ROUNDS_AGGREGATE,
        names.MAINTENANCE_OUTBOX,
        names.MAINTENANCE_GARBAGE,
        names.MAINTENANCE_CANARY,
    }
)

_ALL: Final = (
    Contract(names.MODELS_CREATE, CreateModel, ModelView),
    Contract(names.MODELS_EDIT, EditModel, ModelView),
    Contract(names.MODELS_PAUSE, ModelRef, ModelView),
    Contract(names.MODELS_RESUME, ModelRef, ModelView),
    Contract(names.MODELS_REGISTER_CLIENT, RegisterClient, ClientView),
    Contract(names.MODELS_GET, ModelRef, ModelView),
    Contract(names.MODELS_LATEST, LatestModel, LatestView),
    Contract(names.MODELS_UPLOAD_URL, SignUpload, UploadView),
    Contract(names.MODELS_PROGRESS, GetProgress, ProgressView),
    Contract(names.MODELS_PUBLISH, PublishModel, ArtifactView),
    Contract(names.MODELS_DELETE, ModelRef, DeletedView),
    Contract(names.MODELS_DELETE_FOR_PROJECT, DeleteProject, DeletedView),
    Contract(names.MODELS_UPDATE_STATUS, UpdateStatus, StatusView),
    Contract(names.MODELS_UPDATE_STATUSES, UpdateStatuses, StatusesView, Entries("statuses", UpdateStatus)),
    Contract(names.UPDATES_SUBMIT, SubmitModelUpdate, UpdateView),
    Contract(names.SCORES_ADD, AddScore, ScoreView),
    Contract(names.TRUSTS_ADD, AddTrust, TrustView),
    Contract(names.TRUSTS_LIST, ListTrusts, TrustsView),
    Contract(names.TRUSTS_SET_SLOT, SetSlot, SlotView),
    Contract(names.TRUSTS_SET_MODEL, SetModelTrusts, ModelTrustsView),
    Contract(names.TRUSTS_SET_CLIENT, SetClientTrust, ClientTrustView),
    Contract(names.EVENTS_INGEST, IngestEvents, IngestView, Entries("events", FLEvent)),
    Contract(names.LOGS_ADD, AddLogs, AddedView, Entries("entries", LogMessage)),
    Contract(names.METRICS_ADD, AddMetrics, AddedView, Entries("points", MetricMessage)),
    Contract(names.LOGS_LIST, ListLogs, LogsView),
    Contract(names.METRICS_GET, GetMetrics, MetricsView),
)

CONTRACTS: Final[Mapping[str, Contract]] = {contract.task: contract for contract in _ALL}
