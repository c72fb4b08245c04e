"""FLIP's entities: trusts and their slots, a model's runs, feed and metrics, and who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Double, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from connectors.records import AuditAction, ModelStatus
from connectors.sql.rows.base import Base, BigId, LongText, RowId, now, one_of


class TrustRow(Base):
    """An institution."""

    __tablename__ = "trust"

    id: Mapped[RowId]
    uuid: Mapped[UUID] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    code: Mapped[str | None] = mapped_column(String(50), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class FLKitSlotRow(Base):
    """The name under which an FL server reports a trust's client."""

    __tablename__ = "fl_kit_slot"

    id: Mapped[RowId]
    fl_client_name: Mapped[str] = mapped_column(String(200), unique=True)
    trust_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("trust.id"))


class ModelTrustRow(Base):
    """A trust's approval for a model."""

    __tablename__ = "model_trust"

    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"), primary_key=True)
    trust_id: Mapped[int] = mapped_column(BigId, ForeignKey("trust.id"), primary_key=True)


class LogRow(Base):
    """One entry of a model's feed: a typed event or free text. Display text is made when read, never stored."""

    __tablename__ = "model_log"

    id: Mapped[RowId]
    event_id: Mapped[UUID | None] = mapped_column(unique=True)
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    run_id: Mapped[UUID | None]
    trust_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("trust.id"))
    fl_client_name: Mapped[str | None] = mapped_column(String(200))
    event_type: Mapped[str | None] = mapped_column(String(100))
    log: Mapped[str | None] = mapped_column(LongText)
    success: Mapped[bool] = mapped_column(Boolean)
    global_round: Mapped[int | None]
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (
        CheckConstraint("(event_type IS NULL) <> (log IS NULL)", name="typed_xor_text"),
        Index("ix_model_log_model_id", "model_id", "id"),
        Index("ix_model_log_run", "model_id", "run_id", "id"),
    )


class MetricRow(Base):
    """One point of one series of one plot."""

    __tablename__ = "model_metric"

    id: Mapped[RowId]
    event_id: Mapped[UUID | None] = mapped_column(unique=True)
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    run_id: Mapped[UUID | None]
    trust_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("trust.id"))
    fl_client_name: Mapped[str | None] = mapped_column(String(200))
    label: Mapped[str] = mapped_column(String(200))
    x_label: Mapped[str] = mapped_column(String(64))
    x_value: Mapped[float] = mapped_column(Double)
    result: Mapped[float] = mapped_column(Double)
    global_round: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (Index("ix_model_metric_run", "model_id", "run_id", "id"),)


class ModelRunRow(Base):
    """One training attempt of a model, under the id that an FL server or the hub gave it."""

    __tablename__ = "model_run"

    id: Mapped[RowId]
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    run_id: Mapped[UUID]
    number: Mapped[int]
    status: Mapped[str] = mapped_column(String(30))
    started_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("model_id", "run_id"),
        UniqueConstraint("model_id", "number"),
        CheckConstraint(one_of("status", ModelStatus), name="status"),
        CheckConstraint("number >= 1", name="number"),
    )


class AuditRow(Base):
    """Who changed a model: written in the transaction of the change."""

    __tablename__ = "model_audit"

    id: Mapped[RowId]
    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"))
    action: Mapped[str] = mapped_column(String(30))
    user_id: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(default=now)

    __table_args__ = (
        CheckConstraint(one_of("action", AuditAction), name="action"),
        Index("ix_model_audit_model_id", "model_id", "id"),
    )
