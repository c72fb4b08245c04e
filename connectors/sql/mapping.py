"""Rows to records: the only place that knows both."""

from __future__ import annotations

from connectors.records import (
    BlobRef,
    Client,
    ClientAggregateScore,
    DataFormat,
    DeadLetter,
    DeadLetterOutcome,
    FederatedModel,
    FLKitSlot,
    LogEntry,
    Metric,
    ModelAggregate,
    ModelArtifact,
    ModelRun,
    ModelStatus,
    ModelUpdate,
    OutboxMessage,
    ReasonCode,
    Round,
    RoundState,
    TensorSpec,
    Trust,
    UpdateStatus,
)
from connectors.sql.rows import (
    ClientAggregateScoreRow,
    ClientRow,
    DeadLetterRow,
    FederatedModelRow,
    FLKitSlotRow,
    LogRow,
    MetricRow,
    ModelAggregateRow,
    ModelArtifactRow,
    ModelRunRow,
    ModelUpdateRow,
    OutboxRow,
    RoundRow,
    TrustRow,
)


def to_model(row: FederatedModelRow) -> FederatedModel:
    """A FederatedModel as its row stands."""
    return FederatedModel(
        id=row.id,
        uuid=row.uuid,
        name=row.name,
        description=row.description,
        user_id=row.user_id,
        project_id=row.project_id,
        aggregator=row.aggregator,
        aggregator_params=row.aggregator_params,
        requirement=row.requirement,
        requirement_args=row.requirement_args,
        furthest_base_agg=row.furthest_base_agg,
        allow_repeats=row.allow_repeats,
        max_rounds=row.max_rounds,
        data_format=DataFormat(row.data_format),
        update_schema=row.update_schema,
        client_agg_results_schema=row.client_agg_results_schema,
        max_norm=row.max_norm,
        score_metric=row.score_metric,
        score_mode=row.score_mode,
        patience=row.patience,
        silence_timeout=row.silence_timeout,
        tensors=_to_tensors(row.tensors),
        allow_aggregation=row.allow_aggregation,
        status=ModelStatus(row.status),
        run_id=row.run_id,
        deleted=row.deleted,
        fence=row.fence,
        lease_until=row.lease_until,
        head=row.head,
        initial_artifact_id=row.initial_artifact_id,
        best_aggregate_id=row.best_aggregate_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _to_tensors(stored: list[tuple[str, list[int], str]] | None) -> tuple[TensorSpec, ...] | None:
    return None if stored is None else tuple((name, tuple(shape), dtype) for name, shape, dtype in stored)


def to_client(row: ClientRow) -> Client:
    """A Client as its row stands."""
    return Client(id=row.id, uuid=row.uuid, name=row.name, trust_id=row.trust_id)


def to_update(row: ModelUpdateRow, base_number: int | None) -> ModelUpdate:
    """A ModelUpdate as its row stands; its base aggregate's number comes from a join."""
    data = None
    if row.data_uri is not None and row.data_digest is not None:
        data = BlobRef(row.data_uri, row.data_digest, row.data_size or 0)
    return ModelUpdate(
        id=row.id,
        model_id=row.model_id,
        client_id=row.client_id,
        client_uuid=row.client_uuid,
        submission_id=row.submission_id,
        payload_digest=row.payload_digest,
        data=data,
        num_examples=row.num_examples,
        status=UpdateStatus(row.status),
        reason_code=None if row.reason_code is None else ReasonCode(row.reason_code),
        reason=row.reason,
        base_aggregate_id=row.base_aggregate_id,
        base_number=base_number,
        applied_aggregate_id=row.applied_aggregate_id,
        claim=row.claim,
        attempts=row.attempts,
        not_before=row.not_before,
        suspect_group=row.suspect_group,
        metrics=row.metrics,
        num_steps=row.num_steps,
        loss=row.loss,
        is_data_dropped=row.is_data_dropped,
        created_at=row.created_at,
    )


def to_aggregate(row: ModelAggregateRow) -> ModelAggregate:
    """A ModelAggregate as its row stands."""
    state = None
    if row.state_uri is not None and row.state_digest is not None:
        state = BlobRef(row.state_uri, row.state_digest, row.state_size or 0)
    return ModelAggregate(
        id=row.id,
        model_id=row.model_id,
        number=row.number,
        parent_id=row.parent_id,
        data=BlobRef(row.data_uri, row.data_digest, row.data_size),
        num_updates=row.num_updates,
        num_examples=row.num_examples,
        manifest=row.manifest,
        state=state,
        validation_score=row.validation_score,
        created_at=row.created_at,
    )


def to_artifact(row: ModelArtifactRow) -> ModelArtifact:
    """A ModelArtifact as its row stands."""
    return ModelArtifact(
        id=row.id,
        model_id=row.model_id,
        version=row.version,
        data=BlobRef(row.data_uri, row.data_digest, row.data_size),
        aggregate_id=row.aggregate_id,
        created_at=row.created_at,
    )


def to_score(row: ClientAggregateScoreRow) -> ClientAggregateScore:
    """A ClientAggregateScore as its row stands."""
    return ClientAggregateScore(
        id=row.id,
        aggregate_id=row.aggregate_id,
        client_id=row.client_id,
        validation_results=row.validation_results,
        num_examples=row.num_examples,
        created_at=row.created_at,
    )


def to_round(row: RoundRow) -> Round:
    """A Round as its row stands."""
    return Round(
        model_id=row.model_id,
        fence=row.fence,
        number=row.number,
        state=RoundState(row.state),
        num_updates=row.num_updates,
        updates_done=row.updates_done,
        bytes_done=row.bytes_done,
        worker=row.worker,
        reason=row.reason,
        aggregate_id=row.aggregate_id,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def to_log(row: LogRow) -> LogEntry:
    """A LogEntry as its row stands."""
    return LogEntry(
        id=row.id,
        model_id=row.model_id,
        event_type=row.event_type,
        log=row.log,
        success=row.success,
        global_round=row.global_round,
        details=row.details,
        created_at=row.created_at,
        event_id=row.event_id,
        run_id=row.run_id,
        trust_id=row.trust_id,
        fl_client_name=row.fl_client_name,
    )


def to_metric(row: MetricRow) -> Metric:
    """A Metric as its row stands."""
    return Metric(
        id=row.id,
        model_id=row.model_id,
        event_id=row.event_id,
        run_id=row.run_id,
        trust_id=row.trust_id,
        fl_client_name=row.fl_client_name,
        label=row.label,
        x_label=row.x_label,
        x_value=row.x_value,
        result=row.result,
        global_round=row.global_round,
        created_at=row.created_at,
    )


def to_trust(row: TrustRow) -> Trust:
    """A Trust as its row stands."""
    return Trust(id=row.id, uuid=row.uuid, name=row.name, code=row.code)


def to_slot(row: FLKitSlotRow) -> FLKitSlot:
    """An FLKitSlot as its row stands."""
    return FLKitSlot(id=row.id, fl_client_name=row.fl_client_name, trust_id=row.trust_id)


def to_run(row: ModelRunRow) -> ModelRun:
    """A ModelRun as its row stands."""
    return ModelRun(
        model_id=row.model_id,
        run_id=row.run_id,
        number=row.number,
        status=ModelStatus(row.status),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def to_outbox_message(row: OutboxRow) -> OutboxMessage:
    """An OutboxMessage as its row stands."""
    return OutboxMessage(
        id=row.id,
        key=row.key,
        task=row.task,
        queue=row.queue,
        payload=row.payload,
        model_id=row.model_id,
        attempts=row.attempts,
    )


def to_dead_letter(row: DeadLetterRow) -> DeadLetter:
    """A DeadLetter as its row stands."""
    return DeadLetter(
        id=row.id,
        task=row.task,
        payload=row.payload,
        kind=row.kind,
        field=row.field,
        reason=row.reason,
        created_at=row.created_at,
        outcome=None if row.outcome is None else DeadLetterOutcome(row.outcome),
        settled_at=row.settled_at,
        settled_by=row.settled_by,
        settled_reason=row.settled_reason,
    )
