"""The one door to what the hub remembers: models, clients, updates, aggregates, claims, follow-ups.

The first block of methods is FMA's metadata connector, callable exactly as there. The rest is what a durable hub
needs beside them. Every concrete connector passes the same suite, tests/contract. Its length is the contract's: one
class, a docstring a method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from inspect import isabstract
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from connectors.deployment import Deployment
from connectors.records import (
    ALL,
    AggregateResult,
    AuditAction,
    Claim,
    Client,
    ClientAggregateScore,
    DeadLetter,
    DeadLetterOutcome,
    FederatedModel,
    FLKitSlot,
    Kept,
    LogEntry,
    Metric,
    ModelAggregate,
    ModelArtifact,
    ModelRun,
    ModelStatus,
    ModelUpdate,
    NewLog,
    NewMetric,
    OutboxMessage,
    Overview,
    ProgressFacts,
    ReasonCode,
    Retained,
    Round,
    RoundState,
    StatusChange,
    SubmissionLoad,
    Trust,
    UpdateStatus,
    WhichRun,
)

T = TypeVar("T")


class Transaction(Protocol):
    """What `transaction()` yields."""

    def set_rollback(self) -> None:
        """Undo everything at the end of the block, without an exception."""


class BaseMetadataConnector(ABC):
    """Metadata of federated models, wherever they are kept.

    Reads may be called at any time; a method that writes must be called inside `transaction()` and raises
    TransactionRequired otherwise. Inside a transaction the model's row is always locked first (`lock_model`,
    `claim_model`): the other order deadlocks.
    """

    _registry: ClassVar[dict[str, type[BaseMetadataConnector]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__name__
        for key in {name, name.removesuffix("MetadataConnector")}:
            BaseMetadataConnector._registry[key.lower()] = cls

    @classmethod
    def create(
        cls, meta_connector_type: str, meta_connector_settings: dict[str, Any] | None = None
    ) -> BaseMetadataConnector:
        """Build the connector of that name, case-insensitively: `"sqlalchemy"` or `"SqlAlchemyMetadataConnector"`.

        `meta_connector_settings` are its keyword arguments.
        Raises: ValueError naming the known connectors.
        """
        found = BaseMetadataConnector._registry.get(meta_connector_type.lower())
        if found is None or isabstract(found):
            known = sorted({c.__name__ for c in BaseMetadataConnector._registry.values() if not isabstract(c)})
            raise ValueError(f"no metadata connector is called {meta_connector_type!r}: known are {', '.join(known)}")
        return found(**(meta_connector_settings or {}))

    # --- FMA's contract (DESIGN 1.1) --------------------------------------------------------------

    @abstractmethod
    def pull_federated_model_w_id(self, fed_model_id: int | str | UUID) -> FederatedModel | None:
        """The model with that row id or UUID, deleted ones included; None if there is none."""

    @abstractmethod
    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        """The newest aggregate of the model's chain; None before the first."""

    @abstractmethod
    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        """PENDING and FAILED (retryable) updates of the model's registered clients, by ascending id."""

    @abstractmethod
    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        """Those of the pending updates that are near enough to `parent_agg` (DESIGN 4.3) and whose rest is over."""

    @abstractmethod
    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        """`[requirement name or None, its arguments]`."""

    @abstractmethod
    def register_model_updates_for_aggregation(
        self, model_updates: Sequence[ModelUpdate], *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        """PENDING or FAILED → RUNNING under `claim`, attempts + 1; the updates as they stand then.

        Without a claim it takes one. Raises: ModelIsClaimed, ClaimLost, TransitionRefused (nothing is changed).
        """

    @abstractmethod
    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel, *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        """The RUNNING updates of `claim` (None: of the model's present claim), by ascending id."""

    @abstractmethod
    def post_new_model_aggregate(
        self,
        model: FederatedModel,
        parent_agg: ModelAggregate | None,
        results: AggregateResult,
        *,
        claim: Claim | None = None,
    ) -> ModelAggregate:
        """The new aggregate, child of `parent_agg` and head of the model's chain; ends the claim's lease.

        Raises: ClaimLost if the fence or the head has moved on, or the model was deleted.
        """

    @abstractmethod
    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        """RUNNING → COMPLETE with `applied_aggregate` set: one step, because neither is ever true alone.

        Raises: TransitionRefused unless every one of them was RUNNING under the claim it carries.
        """

    @abstractmethod
    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        """Close the claim's updates: RUNNING → FAILED, or, when successful, check that each is COMPLETE.

        Raises: TransitionRefused if one is in no state to be closed so.
        """

    @abstractmethod
    def update_database(self) -> None:
        """Migrate the schema to the newest version; nothing to do is no error."""

    # --- transactions -----------------------------------------------------------------------------

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Transaction]:
        """All or nothing for what is written inside; an exception undoes it. Not to be nested."""

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction of its own, again from the start if the database asks for it.

        Raises: DatabaseUnavailable when trying again did not help.
        """
        with self.transaction() as transaction:
            return work(transaction)

    def forget_connections(self) -> None:  # noqa: B027  # most connectors hold none
        """In a forked child: leave the parent's connections alone, they are still in use there."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""

    @abstractmethod
    def check(self) -> None:
        """Return if the database answers and has this version's schema.

        Raises: DatabaseUnavailable, SchemaOutdated.
        """

    @property
    def deployment(self) -> Deployment | None:
        """What others write into the same database, to be taken over; None: it is the hub's alone."""
        return None

    # --- models and clients -----------------------------------------------------------------------

    @abstractmethod
    def add_federated_model(self, model: FederatedModel) -> FederatedModel:
        """Insert the model (its `id` is ignored). Raises: AlreadyExists for a UUID that is taken."""

    @abstractmethod
    def lock_model(self, model: FederatedModel) -> FederatedModel:
        """The model as it stands, its row locked until the transaction ends."""

    @abstractmethod
    def change_federated_model(self, model: FederatedModel, changes: Mapping[str, Any]) -> FederatedModel:
        """Set the named fields of the model; the model as it stands then.

        What has a verb of its own can't be set so: claims, head, status, run and deletion.
        """

    @abstractmethod
    def pull_federated_models(
        self, *, after_id: int = 0, limit: int = 100, deleted: bool = False
    ) -> list[FederatedModel]:
        """Models by ascending id, `limit` of them after `after_id`."""

    @abstractmethod
    def register_client(self, model: FederatedModel, client_uuid: UUID, name: str = "") -> tuple[Client, bool]:
        """The client of that UUID (new if unknown), registered with the model; True if it was not yet."""

    @abstractmethod
    def pull_client(self, client_uuid: UUID, model: FederatedModel | None = None) -> Client | None:
        """The client of that UUID; with `model`: only if it is registered there."""

    @abstractmethod
    def pull_model_clients(self, model: FederatedModel) -> list[Client]:
        """The model's registered clients, by ascending id."""

    @abstractmethod
    def pull_federated_models_w_ids(self, model_ids: Collection[UUID]) -> dict[UUID, FederatedModel]:
        """By UUID: the models, deleted ones included. Unknown UUIDs are left out."""

    @abstractmethod
    def pull_named_clients(self, models: Sequence[FederatedModel], names: Collection[str]) -> dict[int, list[Client]]:
        """By model id: its registered clients with one of those names, or whose UUID is one of them; every model is
        named."""

    # --- runs and deletion (DESIGN 4.2) ------------------------------------------------------------

    @abstractmethod
    def update_model_status(
        self,
        model: FederatedModel,
        status: ModelStatus | None,
        *,
        run_id: UUID | None = None,
        user_id: str | None = None,
        event_id: UUID | None = None,
        details: Mapping[str, Any] | None = None,
        trust_id: int | None = None,
        fl_client_name: str | None = None,
        global_round: int | None = None,
    ) -> StatusChange:
        """Where a run has come to, decided on the locked row by `connectors.run_states.decide`; None: only ask.

        A change writes the model, its run, one audit row and one entry of the feed. Anything else changes nothing and
        says why. `event_id` is the callback's: that event changes a status once, however often and late it comes.
        `details`, whom it is about and which round are kept in the feed's entry.
        """

    @abstractmethod
    def pull_model_runs(self, model: FederatedModel) -> list[ModelRun]:
        """The model's runs that have a name, in the order they began."""

    @abstractmethod
    def delete_federated_models(self, models: Sequence[FederatedModel], user_id: str | None = None) -> int:
        """Delete those that are not deleted yet (the rows stay), each with its audit row; how many they were.

        It waits for whoever is writing under them; from then on they accept nothing, not even the post of a round that
        is under way.
        """

    @abstractmethod
    def pull_project_models(self, project_id: str) -> list[FederatedModel]:
        """The project's models that are not deleted, by ascending id."""

    # --- trusts -----------------------------------------------------------------------------------

    @abstractmethod
    def add_trust(self, trust: Trust) -> Trust:
        """Insert the trust (its `id` is ignored). Raises: AlreadyExists for a UUID, name or code that is taken."""

    @abstractmethod
    def change_trust(self, trust: Trust, changes: Mapping[str, Any]) -> Trust:
        """Set name or code. Raises: AlreadyExists for one that is taken; ValueError for another field."""

    @abstractmethod
    def pull_trusts(self) -> list[Trust]:
        """All trusts, by name."""

    @abstractmethod
    def pull_trust(self, trust: int | str | UUID) -> Trust | None:
        """The trust of that row id, UUID, code or name (a code goes before another trust's name); None: there is none.

        A number in a text is a code or a name, not an id.
        """

    @abstractmethod
    def set_fl_kit_slot(self, fl_client_name: str, trust: Trust | None) -> FLKitSlot:
        """The slot of that name, new if unknown, assigned to the trust (None: to nobody)."""

    @abstractmethod
    def pull_fl_kit_slots(self) -> list[FLKitSlot]:
        """All slots, by name."""

    @abstractmethod
    def pull_trusts_of_slots(self, fl_client_names: Collection[str]) -> dict[str, Trust]:
        """By slot name: the trust it is assigned to. Unknown and unassigned names are left out."""

    @abstractmethod
    def set_model_trusts(self, model: FederatedModel, trusts: Sequence[Trust]) -> None:
        """Approve exactly these trusts for the model."""

    @abstractmethod
    def pull_model_trusts(self, models: Sequence[FederatedModel]) -> dict[int, list[Trust]]:
        """By model id: the trusts approved for each, by name; every model is named."""

    @abstractmethod
    def set_client_trust(self, client: Client, trust: Trust | None) -> Client:
        """The client, of that trust (None: of none)."""

    # --- updates ----------------------------------------------------------------------------------

    @abstractmethod
    def add_model_update(self, update: ModelUpdate) -> ModelUpdate:
        """Insert the update (its `id` is ignored).

        Raises: AlreadyExists for a submission id that is taken; ModelDeleted.
        """

    @abstractmethod
    def pull_model_update_w_submission_id(self, submission_id: UUID) -> ModelUpdate | None:
        """The update of that submission; None if there is none."""

    @abstractmethod
    def pull_model_updates(
        self,
        model: FederatedModel | None = None,
        *,
        statuses: Sequence[UpdateStatus] = (),
        applied_aggregate_id: int | None = None,
        after_id: int = 0,
        limit: int = 100,
    ) -> list[ModelUpdate]:
        """Updates by ascending id, `limit` of them after `after_id`; no `statuses`: all."""

    @abstractmethod
    def count_model_updates(self, model: FederatedModel) -> dict[UpdateStatus, int]:
        """How many of the model's updates stand in each state; every state is named."""

    @abstractmethod
    def pull_submission_load(self, model: FederatedModel, client: Client | None) -> SubmissionLoad:
        """What the model has waiting for rounds and what of it is the client's; None: who is not registered with it."""

    @abstractmethod
    def register_submission(
        self,
        model: FederatedModel,
        client: Client | None,
        *,
        model_spent_until: int | None = None,
        sender_spent_until: int | None = None,
    ) -> None:
        """Note until when the rates are used up now (None: leave that one). The model must be locked."""

    @abstractmethod
    def register_model_updates_invalid(
        self, model_updates: Sequence[ModelUpdate], reason_code: ReasonCode, reason: str
    ) -> None:
        """Any but COMPLETE → INVALID. Raises: TransitionRefused if one is COMPLETE (nothing is changed)."""

    @abstractmethod
    def requeue_model_updates(self, model_updates: Sequence[ModelUpdate]) -> None:
        """INVALID → PENDING, as if it had just come in: an operator's word, the only way out of quarantine.

        Raises: TransitionRefused unless each is INVALID and has a client, data and a weight (nothing is changed).
        """

    @abstractmethod
    def pull_model_updates_used_up_to(self, model: FederatedModel, number: int, limit: int = 1000) -> list[ModelUpdate]:
        """Updates used in the model's aggregates up to that number whose data was not let go yet, by ascending id."""

    @abstractmethod
    def register_model_updates_data_dropped(self, model_updates: Sequence[ModelUpdate]) -> None:
        """Let the bytes of COMPLETE or INVALID updates go: garbage collection may take them, digests stay.

        Raises: TransitionRefused if one may still be needed (nothing is changed).
        """

    # --- claims (DESIGN 5) ------------------------------------------------------------------------

    @abstractmethod
    def claim_model(self, model: FederatedModel, lease_ms: int) -> Claim | None:
        """Raise the model's fence and take its lease; None while somebody else's is live, or if the model is deleted.

        A deleted model is claimed only to take back what a dead worker left RUNNING.
        """

    @abstractmethod
    def renew_claim(self, claim: Claim, lease_ms: int, *, updates_done: int = 0, bytes_done: int = 0) -> Claim:
        """The claim with a fresh lease, its progress noted. Raises: ClaimLost."""

    @abstractmethod
    def release_claim(self, claim: Claim) -> None:
        """End the lease without posting. Raises: ClaimLost."""

    @abstractmethod
    def pull_model_updates_of_dead_claims(self, claim: Claim) -> list[ModelUpdate]:
        """Updates still RUNNING under an older fence than `claim`'s: their worker is gone."""

    @abstractmethod
    def return_model_updates(
        self,
        model_updates: Sequence[ModelUpdate],
        *,
        status: UpdateStatus,
        rest_ms: Mapping[int, int] | None = None,
        suspect_groups: Mapping[int, int | None] | None = None,
        attempts: Mapping[int, int] | None = None,
    ) -> None:
        """RUNNING → PENDING or FAILED, each under the claim it carries; by update id: how long it rests from now,
        the group it is suspected in, and its number of attempts (unnamed: as it was).

        Raises: TransitionRefused (nothing is changed).
        """

    @abstractmethod
    def pull_models_to_aggregate(self, limit: int = 1000) -> list[int]:
        """Ids of models that nobody holds and that have something to do: updates whose rest is over, or updates
        left RUNNING by a dead claim. Paused, stopped and deleted models are left out (unless to be rescued)."""

    @abstractmethod
    def add_round(self, claim: Claim, num_updates: int, worker: str) -> None:
        """Note that `claim` has begun."""

    @abstractmethod
    def close_round(
        self, claim: Claim, state: RoundState, *, aggregate_id: int | None = None, reason: str | None = None
    ) -> None:
        """Note how `claim` ended."""

    @abstractmethod
    def close_dead_rounds(self, claim: Claim) -> None:
        """Note as RESCUED every round of the model that an older claim left CLAIMED."""

    @abstractmethod
    def pull_rounds(self, model: FederatedModel, limit: int = 100) -> list[Round]:
        """The model's newest rounds, newest first."""

    # --- aggregates, artifacts, scores ------------------------------------------------------------

    @abstractmethod
    def pull_model_aggregate(self, aggregate_id: int) -> ModelAggregate | None:
        """The aggregate of that id; None if there is none."""

    @abstractmethod
    def pull_model_aggregates(
        self, model: FederatedModel, *, after_number: int = 0, limit: int = 100
    ) -> list[ModelAggregate]:
        """The model's aggregates by ascending number, `limit` of them after `after_number`."""

    @abstractmethod
    def add_model_artifact(self, artifact: ModelArtifact) -> ModelArtifact:
        """Insert the artifact (its `id` is ignored). Raises: AlreadyExists for a version that is taken."""

    @abstractmethod
    def pull_model_artifacts(self, model: FederatedModel) -> list[ModelArtifact]:
        """All of the model's artifacts, the oldest first."""

    @abstractmethod
    def pull_model_artifact(self, model: FederatedModel, version: str | None = None) -> ModelArtifact | None:
        """The artifact of that version (None: the newest); None if there is none."""

    @abstractmethod
    def post_client_aggregate_score(
        self,
        aggregate: ModelAggregate,
        client: Client,
        validation_results: Mapping[str, Any],
        num_examples: float = 1.0,
    ) -> ClientAggregateScore:
        """The client's one score of the aggregate: inserted, or replaced by the newer."""

    @abstractmethod
    def pull_client_aggregate_scores(self, aggregate: ModelAggregate) -> list[ClientAggregateScore]:
        """The aggregate's scores, by ascending id."""

    @abstractmethod
    def register_validation_score(self, aggregate: ModelAggregate, validation_score: float | None) -> None:
        """Note what the clients' scores of the aggregate come to."""

    # --- what others are told ---------------------------------------------------------------------

    @abstractmethod
    def add_log(
        self,
        model: FederatedModel,
        event_type: str,
        *,
        event_id: UUID,
        success: bool = True,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a typed entry to the model's feed; one that is there already (same `event_id`) is left."""

    @abstractmethod
    def add_logs(self, entries: Sequence[NewLog]) -> list[Kept]:
        """Add entries to the feeds of any models, in this order; what became of each.

        Each `event_id` is kept once, in feed or metrics. A repeat of the same changes nothing; with other content it is
        a CONFLICT (the trust, and a run that was not named, are found by the hub and not compared). A model's entries
        become visible in the order of their ids: who reads on from the last id it saw misses none.
        """

    @abstractmethod
    def add_metrics(self, metrics: Sequence[NewMetric]) -> list[Kept]:
        """Add points to the metrics of any models; what became of each, as of `add_logs`."""

    @abstractmethod
    def pull_entries(self, event_ids: Collection[UUID]) -> dict[UUID, LogEntry | Metric]:
        """By event id: the entries of any feeds and the points of any metrics that have those ids."""

    @abstractmethod
    def pull_logs(
        self,
        model: FederatedModel,
        *,
        after_id: int = 0,
        limit: int = 100,
        run_id: WhichRun = ALL,
        newest_first: bool = False,
    ) -> list[LogEntry]:
        """The model's feed by ascending id, `limit` entries after `after_id`; or the newest of them, newest first."""

    @abstractmethod
    def pull_metrics(self, model: FederatedModel, *, run_id: WhichRun = ALL) -> list[Metric]:
        """The model's points in the order of their arrival."""

    @abstractmethod
    def pull_progress_facts(self, model: FederatedModel, run_id: UUID | None) -> ProgressFacts:
        """What the feed says of that run's rounds (None: of the run that nobody named), in whatever order it came.

        A failure that names no round counts for the newest round of the run that was started, whether that start came
        before it or after: a sender is dropped until it returns a result of the round that its failure counts for, or
        of a later one. With each new round a report without one counts for that, so who went on in spite of it shows
        as dropped until its next result: only a failure that names its round is over for good.
        """

    @abstractmethod
    def pull_silent_models(self, now: datetime) -> list[tuple[FederatedModel, datetime]]:
        """Models whose run is under way and has written no log and no metric, and repeated no status, for longer than
        their `silence_timeout`, with the time it was last heard of. A model whose round a worker holds is not silent.
        """

    @abstractmethod
    def add_audit(self, model: FederatedModel, action: AuditAction, user_id: str | None = None) -> None:
        """Note who changed the model."""

    @abstractmethod
    def pull_audit(self, model: FederatedModel) -> list[tuple[AuditAction, str | None]]:
        """(action, user) of every change of the model, oldest first."""

    @abstractmethod
    def add_outbox_message(
        self,
        key: str,
        task: str,
        payload: Mapping[str, Any],
        *,
        queue: str | None = None,
        model: FederatedModel | None = None,
    ) -> None:
        """Note a follow-up to be sent; one with the same key is left as it is."""

    @abstractmethod
    def pull_outbox_messages(self, limit: int = 100) -> list[OutboxMessage]:
        """Follow-ups that have not left yet, oldest first."""

    @abstractmethod
    def register_outbox_messages_sent(self, messages: Sequence[OutboxMessage]) -> None:
        """Note that the broker has accepted them."""

    @abstractmethod
    def add_dead_letter(self, task: str, payload: Any, *, kind: str, field: str | None, reason: str) -> None:
        """Keep a refused message with the reason."""

    @abstractmethod
    def pull_dead_letters(self, *, after_id: int = 0, limit: int = 100, is_open: bool = False) -> list[DeadLetter]:
        """Refused messages by ascending id, `limit` of them after `after_id`. `is_open`: only those not settled."""

    @abstractmethod
    def pull_dead_letter(self, letter_id: int) -> DeadLetter | None:
        """The refused message of that id."""

    @abstractmethod
    def settle_dead_letter(
        self, letter: DeadLetter, outcome: DeadLetterOutcome, user_id: str | None = None, reason: str | None = None
    ) -> bool:
        """Note what was done about it, by whom and why; False, and nothing is noted, if it was settled before."""

    @abstractmethod
    def delete_old_records(self, kind: Retained, before: datetime, limit: int = 500) -> int:
        """Delete at most so many records of that kind that are older than `before`; how many. 0: none is left.

        What is not over yet (a follow-up not sent, a round under way) is never old; and the newest of numbered ones
        stays, so that no number is given twice.
        """

    # --- all models at once -----------------------------------------------------------------------

    @abstractmethod
    def count_model_updates_by_model(self, models: Sequence[FederatedModel]) -> dict[int, dict[UpdateStatus, int]]:
        """By model id: how many of each model's updates stand in each state; every model and state is named."""

    @abstractmethod
    def pull_overview(self, newest: int = 5) -> Overview:
        """The hub at a glance, with so many newest aggregates; by as many queries whatever it holds.

        A round under way is one that is CLAIMED under its model's present fence: its worker may be dead.
        """

    @abstractmethod
    def pull_named_digests(self, digests: Sequence[str]) -> set[str]:
        """Those of `digests` that some row names: what garbage collection must leave."""

    @abstractmethod
    def pull_newest_digests(self, count: int = 5) -> list[str]:
        """Digests that rows name: of the newest `count` updates, aggregates and artifacts each. Empty: none does."""


def uuids_among(names: Collection[str]) -> list[UUID]:
    """Those of the names that are UUIDs, however they are written."""
    found = []
    for name in names:
        with suppress(ValueError):
            found.append(UUID(name))
    return found
