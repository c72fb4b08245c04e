"""FMA's entities, made safe: models, clients, updates, aggregates, artifacts, scores; and the rounds between them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from connectors.records import DataFormat, ModelStatus, ReasonCode, RoundState, UpdateStatus
from connectors.sql.rows.base import Base, BigId, Json, LongText, RowId, index_on, now, one_of


class FederatedModelRow(Base):
    """An experiment and its policy. Locked first by every transaction that touches what hangs on it."""

    __tablename__ = "federated_model"

    id: Mapped[RowId]
    uuid: Mapped[UUID] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(LongText)
    user_id: Mapped[str | None] = mapped_column(String(200))
    project_id: Mapped[str | None] = mapped_column(String(200), index=True)

    aggregator: Mapped[str] = mapped_column(String(100))
    aggregator_params: Mapped[dict[str, Any]]
    requirement: Mapped[str | None] = mapped_column(String(100))
    requirement_args: Mapped[Any | None] = mapped_column(Json)
    furthest_base_agg: Mapped[int | None]
    allow_repeats: Mapped[bool] = mapped_column(Boolean)
    max_rounds: Mapped[int | None]
    data_format: Mapped[str] = mapped_column(String(20))
    update_schema: Mapped[Any | None] = mapped_column(Json)
    client_agg_results_schema: Mapped[Any | None] = mapped_column(Json)
    max_norm: Mapped[float | None] = mapped_column(Double)
    score_metric: Mapped[str | None] = mapped_column(String(100))
    score_mode: Mapped[str] = mapped_column(String(3), server_default="max")
    patience: Mapped[int | None]
    silence_timeout: Mapped[float | None] = mapped_column(Double)
    tensors: Mapped[Any | None] = mapped_column(Json)

    allow_aggregation: Mapped[bool] = mapped_column(Boolean)
    status: Mapped[str] = mapped_column(String(30))
    run_id: Mapped[UUID | None]
    # When a status of the run was last told that changed nothing, and so has no entry in the feed.
    heard_at: Mapped[datetime | None]
    deleted: Mapped[bool] = mapped_column(Boolean)

    # Every claim raises it; a post names the fence it was given, so a worker that was overtaken posts nothing.
    fence: Mapped[int]
    # Milliseconds by the database's clock, in a BIGINT: a Float is single precision on MariaDB.
    lease_until: Mapped[int | None]
    head: Mapped[int]

    # No foreign keys: these rows point back here, and SQLite can't add a constraint to close a circle.
    initial_artifact_id: Mapped[int | None]
    best_aggregate_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __table_args__ = (
        CheckConstraint(one_of("status", ModelStatus), name="status"),
        CheckConstraint(one_of("data_format", DataFormat), name="data_format"),
        CheckConstraint("head >= 0 AND fence >= 0", name="counters"),
    )


class ClientRow(Base):
    """One who submits updates, to any number of models."""

    __tablename__ = "client"

    id: Mapped[RowId]
    uuid: Mapped[UUID] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(String(200))
    trust_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("trust.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class ModelClientRow(Base):
    """A client's registration with a model."""

    __tablename__ = "model_client"

    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"), primary_key=True)
    client_id: Mapped[int] = mapped_column(BigId, ForeignKey("client.id"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class ModelUpdateRow(Base):
    """What a client sent, and how far it has come. Its states are held by the constraints below."""

    __tablename__ = "model_update"

    id: Mapped[RowId]
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    client_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("client.id"))
    client_uuid: Mapped[UUID]
    submission_id: Mapped[UUID] = mapped_column(unique=True)
    payload_digest: Mapped[str] = mapped_column(String(64))
    data_uri: Mapped[str | None] = mapped_column(LongText)
    data_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    data_size: Mapped[int | None]
    num_examples: Mapped[float] = mapped_column(Double)
    metrics: Mapped[dict[str, Any]]
    num_steps: Mapped[int | None]
    loss: Mapped[float | None] = mapped_column(Double)
    is_data_dropped: Mapped[bool] = mapped_column(Boolean, server_default=false())

    status: Mapped[str] = mapped_column(String(20))
    reason_code: Mapped[str | None] = mapped_column(String(30))
    reason: Mapped[str | None] = mapped_column(LongText)
    base_aggregate_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("model_aggregate.id"))
    applied_aggregate_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("model_aggregate.id"), index=True)
    claim: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[int] = mapped_column(default=0)
    suspect_group: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)

    __table_args__ = (
        CheckConstraint(one_of("status", UpdateStatus), name="status"),
        CheckConstraint("(status = 'COMPLETE') = (applied_aggregate_id IS NOT NULL)", name="complete"),
        CheckConstraint("(status = 'RUNNING') = (claim IS NOT NULL)", name="running"),
        CheckConstraint("(status = 'INVALID') = (reason_code IS NOT NULL)", name="invalid"),
        CheckConstraint(f"reason_code IS NULL OR {one_of('reason_code', ReasonCode)}", name="reason_code"),
        CheckConstraint(
            "status = 'INVALID' OR (client_id IS NOT NULL AND data_digest IS NOT NULL AND num_examples > 0)",
            name="countable",
        ),
        Index("ix_model_update_model_id_status", "model_id", "status", "id"),
        # What the sweep walks: its size is the work that is open, not the history.
        index_on(
            ("postgresql", "sqlite"),
            "ix_model_update_open",
            "model_id",
            "not_before",
            postgresql_where=text("status IN ('PENDING', 'FAILED', 'RUNNING')"),
            sqlite_where=text("status IN ('PENDING', 'FAILED', 'RUNNING')"),
        ),
        # MariaDB has no partial indexes: what is open stands together in a whole one.
        index_on(("mariadb",), "ix_model_update_open_first", "status", "not_before", "model_id"),
    )


class ModelAggregateRow(Base):
    """One round's outcome. Unique number and unique parent keep a model's aggregates one chain."""

    __tablename__ = "model_aggregate"

    id: Mapped[RowId]
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    number: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("model_aggregate.id"), unique=True)
    data_uri: Mapped[str] = mapped_column(LongText)
    data_digest: Mapped[str] = mapped_column(String(64), index=True)
    data_size: Mapped[int]
    num_updates: Mapped[int]
    num_examples: Mapped[float] = mapped_column(Double)
    manifest: Mapped[dict[str, Any]]
    state_uri: Mapped[str | None] = mapped_column(LongText)
    state_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    state_size: Mapped[int | None]
    validation_score: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        CheckConstraint("number >= 1 AND (number = 1) = (parent_id IS NULL)", name="chain"),
    )


class ModelArtifactRow(Base):
    """A published version of a model."""

    __tablename__ = "model_artifact"

    id: Mapped[RowId]
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    version: Mapped[str] = mapped_column(String(100))
    aggregate_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("model_aggregate.id"))
    data_uri: Mapped[str] = mapped_column(LongText)
    data_digest: Mapped[str] = mapped_column(String(64), index=True)
    data_size: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (UniqueConstraint("model_id", "version"),)


class ClientAggregateScoreRow(Base):
    """What one client measured of one aggregate."""

    __tablename__ = "client_aggregate_score"

    id: Mapped[RowId]
    aggregate_id: Mapped[int] = mapped_column(BigId, ForeignKey("model_aggregate.id"))
    client_id: Mapped[int] = mapped_column(BigId, ForeignKey("client.id"))
    validation_results: Mapped[dict[str, Any]]
    num_examples: Mapped[float] = mapped_column(Double, server_default="1")
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (UniqueConstraint("aggregate_id", "client_id"),)


class RoundRow(Base):
    """One claim's story, for people: safety does not rest on it."""

    __tablename__ = "round"

    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(20))
    num_updates: Mapped[int]
    updates_done: Mapped[int]
    bytes_done: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(LongText)
    aggregate_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("model_aggregate.id"))
    started_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(one_of("state", RoundState), name="state"),
        CheckConstraint("(state = 'POSTED') = (aggregate_id IS NOT NULL)", name="posted"),
    )
