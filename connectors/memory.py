"""The reference metadata connector: the contract in plain dictionaries, for tests and for reading.

One process, one lock, nothing kept after it. Here are models and rounds; the feed and the model service have rooms of
their own. Its length is the contract's: 40 methods, each as short as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any
from uuid import UUID

from connectors.errors import AlreadyExists, ClaimLost, ModelDeleted, ModelIsClaimed, TransitionRefused
from connectors.memory_letters import MemoryLetters
from connectors.memory_service import MemoryService
from connectors.memory_tables import insert, moment, next_id
from connectors.metadata import uuids_among
from connectors.model_ids import read_model_id
from connectors.records import (
    CLAIMABLE_STATUSES,
    OPEN_STATUSES,
    AggregateResult,
    Claim,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelUpdate,
    OutboxMessage,
    Overview,
    ReasonCode,
    Round,
    RoundState,
    SubmissionLoad,
    UpdateStatus,
    is_eligible,
)

_RETRYABLE = (UpdateStatus.PENDING, UpdateStatus.FAILED)
_GUARDED = {"id", "uuid", "fence", "lease_until", "head", "status", "run_id", "deleted", "created_at", "updated_at"}


class InMemoryMetadataConnector(MemoryService, MemoryLetters):
    """Metadata in this process's memory. `clock` gives milliseconds; a test may bring its own."""

    # --- the connector itself -------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is held."""

    def check(self) -> None:
        """Always ready."""

    def update_database(self) -> None:
        """There is no schema."""

    # --- models and clients ---------------------------------------------------------------------

    def pull_federated_model_w_id(self, fed_model_id: int | str | UUID) -> FederatedModel | None:
        named = read_model_id(fed_model_id)
        if isinstance(named, UUID):
            return next((m for m in self._tables.models.values() if m.uuid == named), None)
        return None if named is None else self._tables.models.get(named)

    def pull_federated_models(
        self, *, after_id: int = 0, limit: int = 100, deleted: bool = False
    ) -> list[FederatedModel]:
        found = [m for m in self._tables.models.values() if m.id > after_id and (deleted or not m.deleted)]
        return found[:limit]

    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        return [model.requirement or None, model.requirement_args]

    def add_federated_model(self, model: FederatedModel) -> FederatedModel:
        tables = self._writing("add_federated_model")
        if self.pull_federated_model_w_id(model.uuid) is not None:
            raise AlreadyExists("model", model.uuid)
        return insert(
            tables.models, replace(model, id=next_id(tables.models), created_at=moment(), updated_at=moment())
        )

    def lock_model(self, model: FederatedModel) -> FederatedModel:
        return self._writing("lock_model").models[model.id]

    def change_federated_model(self, model: FederatedModel, changes: Mapping[str, Any]) -> FederatedModel:
        tables = self._writing("change_federated_model")
        refused = set(changes) - ({f.name for f in fields(FederatedModel)} - _GUARDED)
        if refused:
            raise ValueError(f"change_federated_model can't set {', '.join(sorted(refused))}")
        return insert(tables.models, replace(tables.models[model.id], **changes, updated_at=moment()))

    def register_client(self, model: FederatedModel, client_uuid: UUID, name: str = "") -> tuple[Client, bool]:
        tables = self._writing("register_client")
        client = self.pull_client(client_uuid)
        if client is None:
            client = insert(tables.clients, Client(id=next_id(tables.clients), uuid=client_uuid, name=name))
        is_new = (model.id, client.id) not in tables.registrations
        tables.registrations[model.id, client.id] = None
        return client, is_new

    def pull_client(self, client_uuid: UUID, model: FederatedModel | None = None) -> Client | None:
        for client in self._tables.clients.values():
            if client.uuid == client_uuid:
                is_registered = model is None or (model.id, client.id) in self._tables.registrations
                return client if is_registered else None
        return None

    def pull_federated_models_w_ids(self, model_ids: Collection[UUID]) -> dict[UUID, FederatedModel]:
        return {model.uuid: model for model in self._tables.models.values() if model.uuid in model_ids}

    def pull_named_clients(self, models: Sequence[FederatedModel], names: Collection[str]) -> dict[int, list[Client]]:
        asked = {*names, *uuids_among(names)}
        return {
            model.id: [c for c in self.pull_model_clients(model) if c.name in asked or c.uuid in asked]
            for model in models
        }

    def pull_model_clients(self, model: FederatedModel) -> list[Client]:
        return [c for c in self._tables.clients.values() if (model.id, c.id) in self._tables.registrations]

    # --- updates --------------------------------------------------------------------------------

    def add_model_update(self, update: ModelUpdate) -> ModelUpdate:
        tables = self._writing("add_model_update")
        if tables.models[update.model_id].deleted:
            raise ModelDeleted(update.model_id)
        if self.pull_model_update_w_submission_id(update.submission_id) is not None:
            raise AlreadyExists("submission", update.submission_id)
        base = tables.aggregates.get(update.base_aggregate_id or 0)
        base_number = None if base is None else base.number
        made = replace(
            update,
            id=next_id(tables.updates),
            base_number=base_number,
            not_before=update.not_before or self._clock(),
            created_at=moment(),
        )
        return insert(tables.updates, made)

    def pull_model_update_w_submission_id(self, submission_id: UUID) -> ModelUpdate | None:
        return next((u for u in self._tables.updates.values() if u.submission_id == submission_id), None)

    def pull_model_updates(
        self,
        model: FederatedModel | None = None,
        *,
        statuses: Sequence[UpdateStatus] = (),
        applied_aggregate_id: int | None = None,
        after_id: int = 0,
        limit: int = 100,
    ) -> list[ModelUpdate]:
        found = [
            u
            for u in self._tables.updates.values()
            if u.id > after_id
            and (model is None or u.model_id == model.id)
            and (not statuses or u.status in statuses)
            and (applied_aggregate_id is None or u.applied_aggregate_id == applied_aggregate_id)
        ]
        return found[:limit]

    def count_model_updates(self, model: FederatedModel) -> dict[UpdateStatus, int]:
        found = [u.status for u in self._tables.updates.values() if u.model_id == model.id]
        return {status: found.count(status) for status in UpdateStatus}

    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        return [
            u
            for u in self._tables.updates.values()
            if u.model_id == model.id
            and u.status in _RETRYABLE
            and (model.id, u.client_id) in self._tables.registrations
        ]

    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        head = 0 if parent_agg is None else parent_agg.number
        return [
            u
            for u in self.pull_model_updates_pending_aggregation(model)
            if u.not_before <= self._clock() and is_eligible(u.base_number, head, model.furthest_base_agg)
        ]

    def pull_submission_load(self, model: FederatedModel, client: Client | None) -> SubmissionLoad:
        sender = None if client is None else client.id
        waiting = [u for u in self._tables.updates.values() if u.model_id == model.id and u.status in OPEN_STATUSES]
        own = [u for u in waiting if u.client_id == sender]
        return SubmissionLoad(
            now=self._clock() * 1000,
            model_spent_until=self._tables.spent.get((model.id, 0), 0),
            sender_spent_until=self._tables.spent.get((model.id, sender), 0),
            model_updates=len(waiting),
            model_bytes=sum(u.data.size_bytes for u in waiting if u.data is not None),
            sender_updates=len(own),
            sender_bytes=sum(u.data.size_bytes for u in own if u.data is not None),
        )

    def register_submission(
        self,
        model: FederatedModel,
        client: Client | None,
        *,
        model_spent_until: int | None = None,
        sender_spent_until: int | None = None,
    ) -> None:
        spent = self._writing("register_submission").spent
        for sender, until in ((0, model_spent_until), (None if client is None else client.id, sender_spent_until)):
            if until is not None:
                spent[model.id, sender] = until

    def register_model_updates_invalid(
        self, model_updates: Sequence[ModelUpdate], reason_code: ReasonCode, reason: str
    ) -> None:
        self._transition(
            "register_model_updates_invalid",
            model_updates,
            lambda now, _was: now.status is not UpdateStatus.COMPLETE,
            lambda now: replace(
                now,
                status=UpdateStatus.INVALID,
                reason_code=reason_code,
                reason=reason,
                claim=None,
                suspect_group=None,
            ),
        )

    def requeue_model_updates(self, model_updates: Sequence[ModelUpdate]) -> None:
        self._transition(
            "requeue_model_updates",
            model_updates,
            lambda now, _was: (
                now.status is UpdateStatus.INVALID
                and now.client_id is not None
                and now.data is not None
                and not now.is_data_dropped
                and now.num_examples > 0
            ),
            lambda now: replace(
                now,
                status=UpdateStatus.PENDING,
                reason_code=None,
                reason=None,
                attempts=0,
                suspect_group=None,
                not_before=self._clock(),
            ),
        )

    def pull_model_updates_used_up_to(self, model: FederatedModel, number: int, limit: int = 1000) -> list[ModelUpdate]:
        used = [
            update
            for update in self._tables.updates.values()
            if update.model_id == model.id
            and update.applied_aggregate_id is not None
            and self._tables.aggregates[update.applied_aggregate_id].number <= number
            and not update.is_data_dropped
        ]
        return used[:limit]

    def register_model_updates_data_dropped(self, model_updates: Sequence[ModelUpdate]) -> None:
        self._transition(
            "register_model_updates_data_dropped",
            model_updates,
            lambda now, _was: now.status in (UpdateStatus.COMPLETE, UpdateStatus.INVALID),
            lambda now: replace(now, is_data_dropped=True),
        )

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        self._transition(
            "register_model_update_used_in_aggregate",
            model_updates,
            lambda now, was: now.model_id == aggregate.model_id and self._is_under(now, was),
            lambda now: replace(
                now,
                status=UpdateStatus.COMPLETE,
                applied_aggregate_id=aggregate.id,
                claim=None,
                suspect_group=None,
            ),
        )

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        method = "register_model_updates_use_in_aggregation_complete"
        if not is_successful:
            self.return_model_updates(model_updates, status=UpdateStatus.FAILED)
            return
        tables = self._writing(method)
        complete = [u for u in model_updates if tables.updates[u.id].status is UpdateStatus.COMPLETE]
        if len(complete) != len(model_updates):
            raise TransitionRefused(method, len(model_updates), len(complete))

    def return_model_updates(
        self,
        model_updates: Sequence[ModelUpdate],
        *,
        status: UpdateStatus,
        rest_ms: Mapping[int, int] | None = None,
        suspect_groups: Mapping[int, int | None] | None = None,
        attempts: Mapping[int, int] | None = None,
    ) -> None:
        assert status in _RETRYABLE, f"updates are returned as PENDING or FAILED, not {status}"

        def returned(now: ModelUpdate) -> ModelUpdate:
            rests = rest_ms is not None and now.id in rest_ms
            return replace(
                now,
                status=status,
                claim=None,
                not_before=self._clock() + (rest_ms or {})[now.id] if rests else now.not_before,
                suspect_group=(suspect_groups or {}).get(now.id, now.suspect_group),
                attempts=(attempts or {}).get(now.id, now.attempts),
            )

        self._transition("return_model_updates", model_updates, self._is_under, returned)

    def _is_under(self, now: ModelUpdate, was: ModelUpdate) -> bool:
        """RUNNING under the claim that the caller's record carries, or, without one, under the model's present one."""
        claim = self._tables.models[now.model_id].fence if was.claim is None else was.claim
        return now.status is UpdateStatus.RUNNING and now.claim == claim

    def _transition(
        self,
        name: str,
        model_updates: Sequence[ModelUpdate],
        may: Callable[[ModelUpdate, ModelUpdate], bool],
        become: Callable[[ModelUpdate], ModelUpdate],
    ) -> None:
        """Change all of them or none."""
        tables = self._writing(name)
        able = [u for u in model_updates if may(tables.updates[u.id], u)]
        if len(able) != len(model_updates):
            raise TransitionRefused(name, len(model_updates), len(able))
        for found in model_updates:
            tables.updates[found.id] = become(tables.updates[found.id])

    # --- claims ---------------------------------------------------------------------------------

    def claim_model(self, model: FederatedModel, lease_ms: int) -> Claim | None:
        tables = self._writing("claim_model")
        now = tables.models[model.id]
        if now.lease_until is not None and now.lease_until >= self._clock():
            return None
        if now.deleted and not any(u.claim is not None for u in tables.updates.values() if u.model_id == model.id):
            return None
        tables.models[model.id] = replace(now, fence=now.fence + 1, lease_until=self._clock() + lease_ms)
        return self._claim_of(model.id)

    def renew_claim(self, claim: Claim, lease_ms: int, *, updates_done: int = 0, bytes_done: int = 0) -> Claim:
        self._fenced("renew_claim", claim, "its renewal", lease_until=self._clock() + lease_ms)
        key = (claim.model_id, claim.fence)
        if key in self._tables.rounds:
            self._tables.rounds[key] = replace(
                self._tables.rounds[key], updates_done=updates_done, bytes_done=bytes_done
            )
        return self._claim_of(claim.model_id)

    def release_claim(self, claim: Claim) -> None:
        self._fenced("release_claim", claim, "its release", lease_until=None)

    def register_model_updates_for_aggregation(
        self, model_updates: Sequence[ModelUpdate], *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        method = "register_model_updates_for_aggregation"
        tables = self._writing(method)
        if not model_updates:
            return []
        model = tables.models[model_updates[0].model_id]
        if claim is None:
            claim = self.claim_model(model, 30_000)
            if claim is None:
                raise ModelIsClaimed(model.id)
        elif model.fence != claim.fence:
            raise ClaimLost(claim, "the registration of its updates")
        fence = claim.fence
        self._transition(
            method,
            model_updates,
            lambda now, _was: now.model_id == model.id and now.status in _RETRYABLE,
            lambda now: replace(now, status=UpdateStatus.RUNNING, claim=fence, attempts=now.attempts + 1),
        )
        return self.pull_model_updates_registered_for_aggregation(model, claim=claim)

    def pull_model_updates_registered_for_aggregation(
        self, model: FederatedModel, *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        fence = self._tables.models[model.id].fence if claim is None else claim.fence
        return [u for u in self._tables.updates.values() if u.model_id == model.id and u.claim == fence]

    def pull_model_updates_of_dead_claims(self, claim: Claim) -> list[ModelUpdate]:
        return [
            u
            for u in self._tables.updates.values()
            if u.model_id == claim.model_id and u.claim is not None and u.claim < claim.fence
        ]

    def pull_models_to_aggregate(self, limit: int = 1000) -> list[int]:
        found = set()
        for update in self._tables.updates.values():
            model = self._tables.models[update.model_id]
            if model.lease_until is not None and model.lease_until >= self._clock():
                continue
            may_claim = model.allow_aggregation and not model.deleted and model.status in CLAIMABLE_STATUSES
            has_work = update.status in _RETRYABLE and update.not_before <= self._clock()
            if update.status is UpdateStatus.RUNNING or (may_claim and has_work):
                found.add(model.id)
        return sorted(found)[:limit]

    def add_round(self, claim: Claim, num_updates: int, worker: str) -> None:
        rounds = self._writing("add_round").rounds
        if (claim.model_id, claim.fence) in rounds:
            raise TransitionRefused("add_round", 1, 0)
        rounds[claim.model_id, claim.fence] = Round(
            model_id=claim.model_id,
            fence=claim.fence,
            number=claim.head + 1,
            state=RoundState.CLAIMED,
            num_updates=num_updates,
            worker=worker,
            started_at=moment(),
        )

    def close_round(
        self, claim: Claim, state: RoundState, *, aggregate_id: int | None = None, reason: str | None = None
    ) -> None:
        rounds = self._writing("close_round").rounds
        found = rounds.get((claim.model_id, claim.fence))
        if found is not None and found.state is RoundState.CLAIMED:
            rounds[claim.model_id, claim.fence] = replace(
                found, state=state, aggregate_id=aggregate_id, reason=reason, finished_at=moment()
            )

    def close_dead_rounds(self, claim: Claim) -> None:
        rounds = self._writing("close_dead_rounds").rounds
        for key, found in rounds.items():
            if found.model_id == claim.model_id and found.fence < claim.fence and found.state is RoundState.CLAIMED:
                reason = f"its worker fell silent; claim {claim.fence} took the updates back"
                rounds[key] = replace(found, state=RoundState.RESCUED, reason=reason, finished_at=moment())

    def pull_rounds(self, model: FederatedModel, limit: int = 100) -> list[Round]:
        found = [r for r in self._tables.rounds.values() if r.model_id == model.id]
        return sorted(found, key=lambda r: -r.fence)[:limit]

    def _claim_of(self, model_id: int) -> Claim:
        model = self._tables.models[model_id]
        return Claim(model_id=model_id, fence=model.fence, head=model.head, lease_until=model.lease_until or 0)

    def _fenced(self, method: str, claim: Claim, during: str, **changes: Any) -> None:
        models = self._writing(method).models
        if models[claim.model_id].fence != claim.fence:
            raise ClaimLost(claim, during)
        models[claim.model_id] = replace(models[claim.model_id], **changes)

    # --- aggregates, artifacts, scores ----------------------------------------------------------

    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        return max(self.pull_model_aggregates(model, limit=10**9), key=lambda a: a.number, default=None)

    def pull_model_aggregate(self, aggregate_id: int) -> ModelAggregate | None:
        return self._tables.aggregates.get(aggregate_id)

    def pull_model_aggregates(
        self, model: FederatedModel, *, after_number: int = 0, limit: int = 100
    ) -> list[ModelAggregate]:
        found = [a for a in self._tables.aggregates.values() if a.model_id == model.id and a.number > after_number]
        return sorted(found, key=lambda a: a.number)[:limit]

    def post_new_model_aggregate(
        self,
        model: FederatedModel,
        parent_agg: ModelAggregate | None,
        results: AggregateResult,
        *,
        claim: Claim | None = None,
    ) -> ModelAggregate:
        tables = self._writing("post_new_model_aggregate")
        claim = claim or self._claim_of(model.id)
        head = 0 if parent_agg is None else parent_agg.number
        if tables.models[model.id].head != head or tables.models[model.id].deleted:
            raise ClaimLost(claim, "the post")
        self._fenced("post_new_model_aggregate", claim, "the post", head=head + 1, lease_until=None)
        return insert(
            tables.aggregates,
            ModelAggregate(
                id=next_id(tables.aggregates),
                model_id=model.id,
                number=head + 1,
                parent_id=None if parent_agg is None else parent_agg.id,
                data=results.data,
                num_updates=results.num_updates,
                num_examples=results.num_examples,
                manifest=results.manifest,
                state=results.state,
                created_at=moment(),
            ),
        )

    def add_model_artifact(self, artifact: ModelArtifact) -> ModelArtifact:
        tables = self._writing("add_model_artifact")
        if any(a.model_id == artifact.model_id and a.version == artifact.version for a in tables.artifacts.values()):
            raise AlreadyExists("version", artifact.version)
        return insert(tables.artifacts, replace(artifact, id=next_id(tables.artifacts), created_at=moment()))

    def pull_model_artifacts(self, model: FederatedModel) -> list[ModelArtifact]:
        return [artifact for artifact in self._tables.artifacts.values() if artifact.model_id == model.id]

    def pull_model_artifact(self, model: FederatedModel, version: str | None = None) -> ModelArtifact | None:
        found = [
            a
            for a in self._tables.artifacts.values()
            if a.model_id == model.id and (version is None or a.version == version)
        ]
        return found[-1] if found else None

    def post_client_aggregate_score(
        self,
        aggregate: ModelAggregate,
        client: Client,
        validation_results: Mapping[str, Any],
        num_examples: float = 1.0,
    ) -> ClientAggregateScore:
        scores = self._writing("post_client_aggregate_score").scores
        for found in scores.values():
            if (found.aggregate_id, found.client_id) == (aggregate.id, client.id):
                return insert(scores, replace(found, validation_results=validation_results, num_examples=num_examples))
        score = ClientAggregateScore(
            next_id(scores), aggregate.id, client.id, validation_results, num_examples, moment()
        )
        return insert(scores, score)

    def pull_client_aggregate_scores(self, aggregate: ModelAggregate) -> list[ClientAggregateScore]:
        return [s for s in self._tables.scores.values() if s.aggregate_id == aggregate.id]

    def pull_named_digests(self, digests: Sequence[str]) -> set[str]:
        tables = self._tables
        stored = [row.data for row in tables.updates.values() if not row.is_data_dropped]
        stored += [row.data for row in tables.aggregates.values()]
        stored += [row.state for row in tables.aggregates.values()]
        stored += [row.data for row in tables.artifacts.values()]
        return {data.digest for data in stored if data is not None} & set(digests)

    def pull_newest_digests(self, count: int = 5) -> list[str]:
        tables = self._tables
        kept = [row.data for row in tables.updates.values() if row.data is not None and not row.is_data_dropped]
        posted = [row.data for row in tables.aggregates.values()]
        published = [row.data for row in tables.artifacts.values()]
        return [data.digest for rows in (kept, posted, published) for data in reversed(rows[-count:])]

    def register_validation_score(self, aggregate: ModelAggregate, validation_score: float | None) -> None:
        aggregates = self._writing("register_validation_score").aggregates
        aggregates[aggregate.id] = replace(aggregates[aggregate.id], validation_score=validation_score)

    # --- what others are told -------------------------------------------------------------------

    def add_outbox_message(
        self,
        key: str,
        task: str,
        payload: Mapping[str, Any],
        *,
        queue: str | None = None,
        model: FederatedModel | None = None,
    ) -> None:
        outbox = self._writing("add_outbox_message").outbox
        ident = max((message.id for message in outbox.values()), default=0) + 1
        message = OutboxMessage(ident, key, task, queue, payload, None if model is None else model.id)
        outbox.setdefault(key, message)

    def pull_outbox_messages(self, limit: int = 100) -> list[OutboxMessage]:
        return [m for m in self._tables.outbox.values() if m.id not in self._tables.sent][:limit]

    def register_outbox_messages_sent(self, messages: Sequence[OutboxMessage]) -> None:
        self._writing("register_outbox_messages_sent").sent.update(dict.fromkeys((m.id for m in messages), moment()))

    # --- all models at once ---------------------------------------------------------------------

    def count_model_updates_by_model(self, models: Sequence[FederatedModel]) -> dict[int, dict[UpdateStatus, int]]:
        return {model.id: self.count_model_updates(model) for model in models}

    def pull_overview(self, newest: int = 5) -> Overview:
        tables = self._tables
        kept = {model.id: model for model in tables.models.values() if not model.deleted}
        standing = [update.status for update in tables.updates.values() if update.model_id in kept]
        claims = [
            (kept[each.model_id].uuid, each)
            for each in sorted(tables.rounds.values(), key=lambda each: each.model_id)
            if each.state is RoundState.CLAIMED and each.model_id in kept and kept[each.model_id].fence == each.fence
        ]
        heads = [
            (kept[aggregate.model_id].uuid, aggregate)
            for aggregate in sorted(tables.aggregates.values(), key=lambda aggregate: -aggregate.id)
            if aggregate.model_id in kept and kept[aggregate.model_id].head == aggregate.number
        ]
        return Overview(
            models=len(kept),
            updates={status: standing.count(status) for status in UpdateStatus},
            claims=tuple(claims),
            newest=tuple(heads[:newest]),
            dead_letters=sum(letter.outcome is None for letter in tables.dead_letters.values()),
        )
