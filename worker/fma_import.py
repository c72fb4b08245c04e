"""Copy an FMA deployment into the hub's own database and store: ids mapped, history and all, and then compared.

A model's history is played again through the connector's own verbs, in one transaction: so what is imported keeps the
hub's invariants as what it did itself does, and an import that was interrupted is begun again where it ended. Updates
that FMA had not used are submitted like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from connectors.deployment import (
    FoundAggregate,
    FoundArtifact,
    FoundModel,
    FoundScore,
    FoundUpdate,
    submission_id_of,
)
from connectors.django.source import FmaSnapshot, snapshot
from connectors.errors import AlreadyExists, ModelDataError
from connectors.records import (
    AggregateResult,
    AuditAction,
    BlobRef,
    Client,
    DataFormat,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelStatus,
    ModelUpdate,
    ReasonCode,
    RoundState,
    TensorSpec,
    UpdateStatus,
)
from fedqueue.messages import SubmitModelUpdate
from tasks.aggregation import Report
from tasks.domain.errors import LimitExceeded, ModelIsOver
from tasks.domain.lifecycle import advance
from tasks.domain.own_events import result_received, round_aggregated, round_started, update_quarantined
from tasks.domain.recipes import Cooked, Ingredient, Recipe, to_manifest
from tasks.domain.submission import submit_update
from tasks.hub import Hub
from worker.errors import ImportRefused

_LEASE_MS = 600_000
_LONGEST_VERSION = 100
_LONGEST_NAME = 200


@dataclass(slots=True)
class Imported:
    """One model: FMA's ids and the hub's."""

    source: FoundModel
    model: FederatedModel
    is_new: bool
    aggregates: dict[int, int] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    artifacts: dict[int, int] = field(default_factory=dict)
    scores: int = 0
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _History:
    """A model's rows of FMA's, their bytes in the hub's store already."""

    model: FoundModel
    clients: Sequence[UUID]
    artifacts: Sequence[FoundArtifact]
    aggregates: Sequence[FoundAggregate]
    updates: Sequence[FoundUpdate]
    scores: Sequence[FoundScore]
    blobs: dict[str, BlobRef]
    tensors: tuple[TensorSpec, ...] | None

    def used_in(self, aggregate: FoundAggregate) -> list[FoundUpdate]:
        return [update for update in self.updates if update.applied_aggregate_id == aggregate.id]


def import_deployment(
    hub: Hub, database_url: str, media: str | Path, tell: Callable[[Imported], None] = lambda _: None
) -> list[Imported]:
    """Every model of the deployment, in the hub and compared with FMA's; `tell` hears of each as it is done.

    `hub.model_data` must read files in `media`. Raises: ImportRefused (nothing of that model is written), Unavailable.
    """
    done = []
    with snapshot(database_url, media) as source:
        for found in source.models():
            imported = _import_model(hub, source, found)
            tell(imported)
            done.append(imported)
    return done


def _import_model(hub: Hub, source: FmaSnapshot, found: FoundModel) -> Imported:
    history = _read(hub, source, found)
    model = hub.metadata.pull_federated_model_w_id(found.uuid)
    is_new = model is None
    if model is None:
        try:
            model = hub.metadata.transact(lambda _: _play(hub, history))
        except AlreadyExists:  # another import, at the same moment
            model = hub.metadata.pull_federated_model_w_id(found.uuid)
            assert model is not None
    _submit_waiting(hub, history, model)
    return _compare(hub, history, model, is_new)


# --- reading --------------------------------------------------------------------------------------


def _read(hub: Hub, source: FmaSnapshot, model: FoundModel) -> _History:
    artifacts, aggregates, updates = source.artifacts(model), source.aggregates(model), source.updates(model)
    for artifact in artifacts:
        if len(artifact.version) > _LONGEST_VERSION:
            raise ImportRefused(f"artifact {artifact.id}", "version", f"longer than {_LONGEST_VERSION} characters")
    blobs: dict[str, BlobRef] = {}
    tensors = None
    named = [(f"artifact {a.id}", a.uri) for a in artifacts] + [(f"aggregate {a.id}", a.uri) for a in aggregates]
    used = [(f"update {u.id}", u.uri) for u in updates if u.applied_aggregate_id is not None]
    for what, uri in named + used:
        try:
            blobs[uri] = hub.model_data.take_in(uri, None)
            if tensors is None:
                reader = hub.model_data.open(blobs[uri], DataFormat.JSON)
                tensors = reader.tensors
                reader.close()
        except ModelDataError as error:
            raise ImportRefused(f"model {model.id}: {what}", "file", error.reason) from error
    clients = source.clients(model)
    return _History(model, clients, artifacts, aggregates, updates, source.scores(model), blobs, tensors)


# --- writing --------------------------------------------------------------------------------------


def _play(hub: Hub, history: _History) -> FederatedModel:
    """The model with its clients, and everything that FMA did with it, round by round."""
    metadata, found = hub.metadata, history.model
    model = metadata.add_federated_model(
        FederatedModel(
            id=0,
            uuid=found.uuid,
            name=found.name[:_LONGEST_NAME],
            user_id=found.developer,
            aggregator=found.aggregator,
            requirement=found.requirement,
            requirement_args=found.requirement_args,
            furthest_base_agg=found.furthest_base_agg,
            allow_repeats=True,  # FMA counts every update that a client sent
            data_format=DataFormat.JSON,
            update_schema=found.update_schema,
            client_agg_results_schema=found.client_agg_results_schema,
            tensors=history.tensors,
            allow_aggregation=found.allow_aggregation,
        )
    )
    model = metadata.lock_model(model)
    metadata.add_audit(model, AuditAction.CREATE, found.developer)
    for blob in history.blobs.values():
        hub.model_data.hold(blob)
    clients = {uuid: metadata.register_client(model, uuid)[0] for uuid in history.clients}
    if clients:
        model = advance(hub, model, ModelStatus.INITIATED)
    aggregates: dict[int, ModelAggregate] = {}
    head: ModelAggregate | None = None
    for each in history.aggregates:
        head = aggregates[each.id] = _play_round(hub, history, model, each, head, aggregates, clients)
    digests = {aggregate.data.digest: aggregate.id for aggregate in aggregates.values()}
    for artifact in history.artifacts:
        blob = history.blobs[artifact.uri]
        metadata.add_model_artifact(
            ModelArtifact(0, model.id, artifact.version, blob, aggregate_id=digests.get(blob.digest))
        )
        metadata.add_audit(model, AuditAction.PUBLISH, found.developer)
    for update in history.updates:
        if update.status is UpdateStatus.INVALID and update.applied_aggregate_id is None:
            invalid = metadata.add_model_update(_record(history, update, model, None, aggregates))
            assert invalid.reason_code is not None
            metadata.add_logs([update_quarantined(model, invalid, invalid.reason_code, invalid.reason or "")])
    for score in history.scores:
        client = _client(hub, model, score.client_uuid, clients)
        metadata.post_client_aggregate_score(aggregates[score.aggregate_id], client, score.validation_results)
    return model


def _play_round(
    hub: Hub,
    history: _History,
    model: FederatedModel,
    found: FoundAggregate,
    parent: ModelAggregate | None,
    aggregates: dict[int, ModelAggregate],
    clients: dict[UUID, Client],
) -> ModelAggregate:
    metadata = hub.metadata
    updates, told = [], []
    for update in history.used_in(found):
        client = _client(hub, model, update.client_uuid, clients)
        updates.append(metadata.add_model_update(_record(history, update, model, client, aggregates)))
        told.append(result_received(model, client, updates[-1]))
    claim = metadata.claim_model(model, _LEASE_MS)
    assert claim is not None, "the model is new, and nobody else sees it yet"
    taken = metadata.register_model_updates_for_aggregation(updates, claim=claim)
    metadata.add_round(claim, len(taken), "import")
    model = advance(hub, model, ModelStatus.RUNNING)
    blob = history.blobs[found.uri]
    result = AggregateResult(blob, len(taken), float(len(taken)), _manifest(model, found, parent, taken, blob))
    posted = metadata.post_new_model_aggregate(model, parent, result, claim=claim)
    metadata.register_model_update_used_in_aggregate(taken, posted)
    metadata.register_model_updates_use_in_aggregation_complete(taken, True)
    metadata.close_round(claim, RoundState.POSTED, aggregate_id=posted.id)
    told += [round_started(model, claim, len(taken)), round_aggregated(model, posted, len(clients))]
    metadata.add_logs(told)
    if found.validation_score is not None:
        metadata.register_validation_score(posted, found.validation_score)
    return posted


def _manifest(
    model: FederatedModel,
    found: FoundAggregate,
    parent: ModelAggregate | None,
    updates: Sequence[ModelUpdate],
    blob: BlobRef,
) -> dict[str, object]:
    """What `verify` needs to make FMA's aggregate again, and where it came from."""
    ingredients = tuple(
        Ingredient(u.id, u.data, u.num_examples, str(u.submission_id), str(u.client_uuid), u.base_aggregate_id)
        for u in updates
        if u.data is not None
    )
    recipe = Recipe(
        number=1 if parent is None else parent.number + 1,
        aggregator=model.aggregator,
        params=model.aggregator_params,
        data_format=DataFormat.JSON,
        ingredients=ingredients,
        parent_id=None if parent is None else parent.id,
        current=None if parent is None else parent.data,
    )
    report = Report(
        aggregator=model.aggregator,
        params=model.aggregator_params,
        num_updates=len(ingredients),
        num_examples=float(len(ingredients)),
        weights=tuple(1.0 for _ in ingredients),
        tensors=model.tensors or (),
        bytes_read=sum(i.data.size_bytes for i in ingredients),
    )
    theirs = {"deployment": "fma", "aggregate_id": found.id, "created_on": found.created_at.isoformat()}
    return to_manifest(recipe, Cooked(blob, None, report)) | {"imported_from": theirs}


def _client(hub: Hub, model: FederatedModel, uuid: UUID, clients: dict[UUID, Client]) -> Client:
    """Who has taken part is registered with the model, also if FMA has taken the registration away since."""
    if uuid not in clients:
        clients[uuid] = hub.metadata.register_client(model, uuid)[0]
    return clients[uuid]


def _record(
    history: _History,
    found: FoundUpdate,
    model: FederatedModel,
    client: Client | None,
    aggregates: dict[int, ModelAggregate],
) -> ModelUpdate:
    """The update before its round; one that FMA set aside is so here."""
    data = history.blobs.get(found.uri)
    base = None if found.base_aggregate_id is None else aggregates.get(found.base_aggregate_id)
    is_invalid = client is None
    return ModelUpdate(
        id=0,
        model_id=model.id,
        client_id=None if client is None else client.id,
        client_uuid=found.client_uuid,
        submission_id=submission_id_of(history.model.uuid, found.id),
        payload_digest="0" * 64 if data is None else data.digest,
        data=data,
        num_examples=1.0,  # FMA knows no weights
        status=UpdateStatus.INVALID if is_invalid else UpdateStatus.PENDING,
        reason_code=ReasonCode.SCHEMA if is_invalid else None,
        reason="INVALID in FMA, which says no reason" if is_invalid else None,
        base_aggregate_id=None if base is None else base.id,
    )


def _submit_waiting(hub: Hub, history: _History, model: FederatedModel) -> None:
    numbers = {each.id: number for number, each in enumerate(history.aggregates, 1)}
    ids = {a.number: a.id for a in _aggregates(hub, model)}
    for found in history.updates:
        if found.applied_aggregate_id is not None or found.status in (UpdateStatus.INVALID, UpdateStatus.COMPLETE):
            continue
        base = None if found.base_aggregate_id is None else ids.get(numbers[found.base_aggregate_id])
        message = SubmitModelUpdate.model_construct(
            submission_id=submission_id_of(history.model.uuid, found.id),
            model_id=model.uuid,
            client_id=found.client_uuid,
            base_aggregate=base,
            data_uri=found.uri,
        )
        with suppress(LimitExceeded, ModelIsOver):  # the comparison says that it is missing
            submit_update(hub, message)


# --- comparing ------------------------------------------------------------------------------------


def _compare(hub: Hub, history: _History, model: FederatedModel, is_new: bool) -> Imported:
    """What is here held against what is there, each by its digest."""
    imported = Imported(history.model, model, is_new)
    metadata, differ = hub.metadata, imported.differences
    here = _aggregates(hub, model)
    if len(here) < len(history.aggregates):
        differ.append(f"{len(history.aggregates)} aggregates there, {len(here)} here")
    for there, aggregate in zip(history.aggregates, here, strict=False):
        imported.aggregates[there.id] = aggregate.id
        if aggregate.data.digest != history.blobs[there.uri].digest:
            differ.append(f"aggregate {there.id}: its bytes are not those of {aggregate.id}")
        if aggregate.num_updates != there.num_updates:
            differ.append(f"aggregate {there.id}: {there.num_updates} updates there, {aggregate.num_updates} here")
    for update in history.updates:
        found = metadata.pull_model_update_w_submission_id(submission_id_of(history.model.uuid, update.id))
        if found is None:
            differ.append(f"update {update.id} is missing")
            continue
        imported.updates[update.id] = found.id
        applied = update.applied_aggregate_id
        if applied is not None and found.applied_aggregate_id != imported.aggregates.get(applied):
            differ.append(f"update {update.id} was used in aggregate {applied}, and not here")
        if applied is not None and (found.data is None or found.data.digest != history.blobs[update.uri].digest):
            differ.append(f"update {update.id}: its bytes are not those of {found.id}")
    for artifact in history.artifacts:
        published = metadata.pull_model_artifact(model, artifact.version)
        if published is None or published.data.digest != history.blobs[artifact.uri].digest:
            differ.append(f"artifact {artifact.id} ({artifact.version}) is missing, or its bytes are others")
        else:
            imported.artifacts[artifact.id] = published.id
    imported.scores = sum(len(metadata.pull_client_aggregate_scores(aggregate)) for aggregate in here)
    if imported.scores < len(history.scores):
        differ.append(f"{len(history.scores)} scores there, {imported.scores} here")
    registered = {client.uuid for client in metadata.pull_model_clients(model)}
    differ += [f"client {uuid} is not registered" for uuid in history.clients if uuid not in registered]
    return imported


def _aggregates(hub: Hub, model: FederatedModel) -> list[ModelAggregate]:
    found: list[ModelAggregate] = []
    while page := hub.metadata.pull_model_aggregates(model, after_number=found[-1].number if found else 0, limit=500):
        found += page
    return found
