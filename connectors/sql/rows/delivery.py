"""Messages at rest: follow-ups that must still leave, and messages that were refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from connectors.records import DeadLetterOutcome
from connectors.sql.rows.base import Base, BigId, Json, LongText, RowId, index_on, now, one_of


class OutboxRow(Base):
    """A follow-up, committed with its cause. `sent_at` is set once the broker has accepted it."""

    __tablename__ = "outbox"

    id: Mapped[RowId]
    key: Mapped[str] = mapped_column(String(200), unique=True)
    task: Mapped[str] = mapped_column(String(200))
    queue: Mapped[str | None] = mapped_column(String(200))
    payload: Mapped[dict[str, Any]]
    model_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("federated_model.id"))
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        index_on(
            ("postgresql", "sqlite"),
            "ix_outbox_unsent",
            "id",
            postgresql_where=text("sent_at IS NULL"),
            sqlite_where=text("sent_at IS NULL"),
        ),
        index_on(("mariadb",), "ix_outbox_unsent_first", "sent_at", "id"),
    )


class DeadLetterRow(Base):
    """A refused message, whole, with the rule it broke."""

    __tablename__ = "dead_letter"

    id: Mapped[RowId]
    task: Mapped[str] = mapped_column(String(200))
    payload: Mapped[Any | None] = mapped_column(Json)
    kind: Mapped[str] = mapped_column(String(100))
    field: Mapped[str | None] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(LongText)
    created_at: Mapped[datetime] = mapped_column(default=now)
    # What an operator has done about it, once.
    outcome: Mapped[str | None] = mapped_column(String(20))
    settled_at: Mapped[datetime | None]
    settled_by: Mapped[str | None] = mapped_column(String(200))
    settled_reason: Mapped[str | None] = mapped_column(LongText)

    __table_args__ = (
        CheckConstraint(f"outcome IS NULL OR {one_of('outcome', DeadLetterOutcome)}", name="outcome"),
        CheckConstraint("(outcome IS NULL) = (settled_at IS NULL)", name="settled"),
    )
