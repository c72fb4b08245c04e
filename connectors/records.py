"""What the hub remembers, as plain values.

Connectors hand these out and take them in; nothing here knows a database. A record is a snapshot: it does not
change when its row does, so a decision that must hold is made on the row itself, by a guarded update. Its length is
that of what is remembered: one class a thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, Literal
from uuid import UUID


class UpdateStatus(StrEnum):
    """Where a ModelUpdate stands (DESIGN 4.1)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAILED = "FAILED"
    INVALID = "INVALID"


# Neither counted nor set aside: what waits for a round, or is in one.
OPEN_STATUSES = (UpdateStatus.PENDING, UpdateStatus.RUNNING, UpdateStatus.FAILED)


class ReasonCode(StrEnum):
    """Why a ModelUpdate was set aside as INVALID (DESIGN 4.1)."""

    SCHEMA = "SCHEMA"
    SHAPE = "SHAPE"
    DTYPE = "DTYPE"
    NOT_FINITE = "NOT_FINITE"
    NORM = "NORM"
    DUPLICATE = "DUPLICATE"
    STALE = "STALE"
    UNREGISTERED_CLIENT = "UNREGISTERED_CLIENT"
    WEIGHT = "WEIGHT"
    CORRUPT = "CORRUPT"
    TOO_LARGE = "TOO_LARGE"
    POISON = "POISON"


class ModelStatus(StrEnum):
    """Where a FederatedModel's run stands (DESIGN 4.2)."""

    PENDING = "PENDING"
    INITIATED = "INITIATED"
    PREPARED = "PREPARED"
    RUNNING = "RUNNING"
    RESULTS_UPLOADED = "RESULTS_UPLOADED"
    RESULTS_UPLOAD_FAILED = "RESULTS_UPLOAD_FAILED"
    ERROR = "ERROR"
    STOPPED = "STOPPED"


# A model in any other status claims no rounds: its run is over, or was stopped.
CLAIMABLE_STATUSES = frozenset({ModelStatus.PENDING, ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING})


class DataFormat(StrEnum):
    """How a model's updates and aggregates are stored."""

    SAFETENSORS = "safetensors"
    JSON = "json"


class RoundState(StrEnum):
    """How a claim of a round ended, or CLAIMED while it has not."""

    CLAIMED = "CLAIMED"
    POSTED = "POSTED"
    RELEASED = "RELEASED"  # given back by its worker: nothing was posted, the updates may be claimed again
    RESCUED = "RESCUED"  # its worker went silent: a later claim took its updates back


class AuditAction(StrEnum):
    """What an audit row says happened to a model."""

    CREATE = "CREATE"
    EDIT = "EDIT"
    DELETE = "DELETE"
    PUBLISH = "PUBLISH"
    INITIATED = "INITIATED"
    PREPARED = "PREPARED"
    RUNNING = "RUNNING"
    RESULTS_UPLOADED = "RESULTS_UPLOADED"
    STOPPED = "STOPPED"
    ERROR = "ERROR"
    RESULTS_UPLOAD_FAILED = "RESULTS_UPLOAD_FAILED"


class Kept(StrEnum):
    """What became of an entry that carries an `event_id`."""

    NEW = "NEW"
    REPEATED = "REPEATED"  # it is there already
    CONFLICT = "CONFLICT"  # that event_id is there with other content: nothing was written
    DELETED = "DELETED"  # its model accepts nothing more: nothing was written


class AllRuns(Enum):
    """Reads of feed and metrics: whatever the run; None is the run that nobody named."""

    ALL = "all"


ALL: Final = AllRuns.ALL
WhichRun = UUID | None | Literal[AllRuns.ALL]


# One tensor of a model: (name, shape, dtype), dtype by its safetensors name (F32, BF16, I64, …).
TensorSpec = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Bytes in the store, by place and content."""

    uri: str
    digest: str  # sha256, 64 hexadecimal characters
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Client:
    """One who submits updates."""

    id: int
    uuid: UUID
    name: str = ""
    trust_id: int | None = None


@dataclass(frozen=True, slots=True)
class FederatedModel:
    """An experiment and its policy; also the row that every claim of a round locks first."""

    id: int
    uuid: UUID
    name: str = ""
    description: str = ""
    user_id: str | None = None
    project_id: str | None = None

    aggregator: str = "fedavg"
    aggregator_params: Mapping[str, Any] = field(default_factory=dict)
    requirement: str | None = None
    requirement_args: Mapping[str, Any] | Sequence[Any] | None = None
    furthest_base_agg: int | None = None
    allow_repeats: bool = False
    max_rounds: int | None = None
    data_format: DataFormat = DataFormat.SAFETENSORS
    update_schema: Mapping[str, Any] | None = None
    client_agg_results_schema: Mapping[str, Any] | None = None
    max_norm: float | None = None
    score_metric: str | None = None  # the number in clients' validation results that makes an aggregate the best
    score_mode: str = "max"  # whether more of it is better: max or min
    patience: int | None = None  # after so many aggregates without a better one, aggregation pauses; None: never
    silence_timeout: float | None = None  # seconds after which a run that says nothing is given up; None: never
    # What an update must look like: set by the initial artifact, else by the first accepted update.
    tensors: tuple[TensorSpec, ...] | None = None

    allow_aggregation: bool = True
    status: ModelStatus = ModelStatus.PENDING
    run_id: UUID | None = None
    deleted: bool = False

    fence: int = 0  # raised by every claim; who holds an older one may post nothing
    lease_until: int | None = None  # milliseconds since 1970 by the database's clock; None: nobody holds the model
    head: int = 0  # number of the newest aggregate; 0 before the first

    initial_artifact_id: int | None = None
    best_aggregate_id: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ModelUpdate:
    """What one client learned, and how far the hub has come with it."""

    id: int
    model_id: int
    client_id: int | None  # None only for an INVALID update of a client the hub does not know
    client_uuid: UUID
    submission_id: UUID
    payload_digest: str  # of the whole submission: the same id with another payload is refused
    data: BlobRef | None  # None only for an INVALID update whose data could not be taken in
    num_examples: float
    status: UpdateStatus = UpdateStatus.PENDING
    reason_code: ReasonCode | None = None
    reason: str | None = None
    base_aggregate_id: int | None = None
    base_number: int | None = None  # the base aggregate's number, for staleness
    applied_aggregate_id: int | None = None
    claim: int | None = None  # the fence it is RUNNING under
    attempts: int = 0  # claims begun with it, so that a crash counts
    # Milliseconds by the database's clock: ready since then (0 when added: from now on); a FAILED one rests until then.
    not_before: int = 0
    suspect_group: int | None = None  # set while a batch that kept crashing is halved to find its culprit
    metrics: Mapping[str, float] = field(default_factory=dict)
    num_steps: int | None = None  # local optimizer steps behind it
    loss: float | None = None  # the client's, at the model it began from
    is_data_dropped: bool = False  # retention let its bytes go; their digest stays
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SubmissionLoad:
    """What limits on submissions are held against: a model's updates that wait for rounds, and one sender's of them.

    A rate is one number: the time until which it is used up, in microseconds by the database's clock like `now`.
    """

    now: int
    model_spent_until: int
    sender_spent_until: int
    model_updates: int
    model_bytes: int
    sender_updates: int
    sender_bytes: int


@dataclass(frozen=True, slots=True)
class ModelAggregate:
    """One round's outcome: the next model, and what went into it."""

    id: int
    model_id: int
    number: int  # 1 for the first; one chain a model
    parent_id: int | None
    data: BlobRef
    num_updates: int
    num_examples: float
    manifest: Mapping[str, Any] = field(default_factory=dict)
    state: BlobRef | None = None  # what the aggregator keeps between rounds: moments, a clip, a ledger
    validation_score: float | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """What `post_new_model_aggregate` writes down: a combined model already in the store."""

    data: BlobRef
    num_updates: int
    num_examples: float
    manifest: Mapping[str, Any] = field(default_factory=dict)
    state: BlobRef | None = None


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """A published version of a model (or the initial one, version 0)."""

    id: int
    model_id: int
    version: str
    data: BlobRef
    aggregate_id: int | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClientAggregateScore:
    """What one client measured of one aggregate."""

    id: int
    aggregate_id: int
    client_id: int
    validation_results: Mapping[str, Any]
    num_examples: float = 1.0  # validation examples behind it: its weight
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to post one round of a model: worth something only while the model's fence still equals it."""

    model_id: int
    fence: int
    head: int  # the newest aggregate's number when the claim was made
    lease_until: int


@dataclass(frozen=True, slots=True)
class Round:
    """One claim's story: what it took, how far it came, how it ended."""

    model_id: int
    fence: int
    number: int  # of the aggregate it was to post
    state: RoundState
    num_updates: int
    updates_done: int = 0
    bytes_done: int = 0
    worker: str = ""
    reason: str | None = None
    aggregate_id: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A follow-up that was committed with its cause, and is sent until it has left."""

    id: int
    key: str
    task: str
    queue: str | None
    payload: Mapping[str, Any]
    model_id: int | None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Trust:
    """An institution. Shown by its code, else by its name."""

    id: int
    uuid: UUID
    name: str
    code: str | None = None

    @property
    def label(self) -> str:
        """What people read; another trust's name may be the same: tell trusts apart by id."""
        return self.code or self.name


@dataclass(frozen=True, slots=True)
class FLKitSlot:
    """The name by which FL servers report a trust's client; None: nobody's at present."""

    id: int
    fl_client_name: str
    trust_id: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One training attempt of a model that has a name."""

    model_id: int
    run_id: UUID
    number: int  # from 1 a model, in the order they began
    status: ModelStatus  # the last it reached
    started_at: datetime | None = None
    finished_at: datetime | None = None  # its end, or the moment the next one began


@dataclass(frozen=True, slots=True)
class StatusChange:
    """What a status did: the model as it stands now, and why nothing changed if nothing did."""

    model: FederatedModel
    changed: bool
    reason: str = ""  # one of connectors.run_states.Ignored; empty if it changed, or if nothing was asked for


@dataclass(frozen=True, slots=True)
class NewLog:
    """An entry to be added to a model's feed: a typed event or free text."""

    model_id: int
    event_id: UUID
    run_id: UUID | None = None  # None: the run that the model is in when it is written
    event_type: str | None = None
    log: str | None = None
    success: bool = True
    trust_id: int | None = None
    fl_client_name: str | None = None
    global_round: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of a model's feed."""

    id: int
    model_id: int
    event_type: str | None
    log: str | None
    success: bool
    global_round: int | None
    details: Mapping[str, Any]
    created_at: datetime | None = None
    event_id: UUID | None = None
    run_id: UUID | None = None
    trust_id: int | None = None
    fl_client_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMetric:
    """A point to be added to a model's metrics."""

    model_id: int
    event_id: UUID
    run_id: UUID | None = None  # None: the run that the model is in when it is written
    trust_id: int | None = None
    fl_client_name: str | None = None
    label: str
    x_label: str
    x_value: float
    result: float
    global_round: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One point of one series of one plot."""

    id: int
    model_id: int
    event_id: UUID | None
    run_id: UUID | None
    trust_id: int | None
    fl_client_name: str | None
    label: str
    x_label: str
    x_value: float
    result: float
    global_round: int
    created_at: datetime | None = None


# Who an entry is about: a trust's row id, or the reported name where no trust stands behind it.
Sender = int | str


@dataclass(frozen=True, slots=True)
class ProgressFacts:
    """What a run's feed says of its rounds: maxima and first times, so duplicates and disorder change nothing."""

    total_rounds: int | None  # the largest that any start of the run named; None: none did
    started_round: int  # the newest that was started; 0: none
    aggregated_round: int
    # (round, first start, first aggregate) of the 20 newest rounds, ascending.
    round_times: tuple[tuple[int, datetime | None, datetime | None], ...]
    returned: Mapping[Sender, int]  # the newest round each sender returned a result in
    # The newest round each sender failed or left in. A report that names no round is about `started_round`.
    dropped: Mapping[Sender, int]
    last_event_at: datetime | None  # of logs and metrics


class Retained(StrEnum):
    """Records that may be deleted when they are old."""

    SENT = "sent"  # follow-ups that the broker has accepted
    DEAD_LETTERS = "dead letters"
    ROUNDS = "rounds"  # who ran which, and how it ended; the aggregates themselves stay
    LOGS = "logs"
    METRICS = "metrics"


class DeadLetterOutcome(StrEnum):
    """What an operator has done about a dead letter."""

    REQUEUED = "REQUEUED"  # sent again as the task that it was
    DISCARDED = "DISCARDED"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was refused, kept whole with the reason; from `outcome` on: what became of it."""

    id: int
    task: str
    payload: Any
    kind: str
    field: str | None
    reason: str
    created_at: datetime | None = None
    outcome: DeadLetterOutcome | None = None
    settled_at: datetime | None = None
    settled_by: str | None = None
    settled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """The hub at a glance; deleted models, and what is theirs, are left out."""

    models: int
    updates: Mapping[UpdateStatus, int]  # every state is named
    claims: tuple[tuple[UUID, Round], ...]  # rounds under way, with their models' UUIDs
    newest: tuple[tuple[UUID, ModelAggregate], ...]  # the newest of each model, the newest of all first
    dead_letters: int  # that nobody has settled yet


def is_eligible(base_number: int | None, head: int, furthest_base_agg: int | None) -> bool:
    """Whether an update trained from aggregate `base_number` may still count (DESIGN 4.3).

    `head` is the newest aggregate's number (0: none yet), and counts as the first of the `furthest_base_agg` newest.
    """
    if furthest_base_agg is None:
        return True
    if base_number is None:
        return head == 0
    return base_number > head - furthest_base_agg
