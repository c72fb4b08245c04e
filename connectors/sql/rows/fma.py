"""What the hub remembers of an FMA deployment beside whose tables it works. Empty everywhere else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from connectors.sql.rows.base import Base, BigId, Json, LongText, now


class FmaModelRow(Base):
    """A model's policy as the hub's row and FMA's last both had it: what differs from it was changed since."""

    __tablename__ = "fma_model"

    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"), primary_key=True)
    seen: Mapped[dict[str, Any]] = mapped_column(Json)


class FmaRefusedRow(Base):
    """A row of FMA's that the hub can't take over, and is not to look at again."""

    __tablename__ = "fma_refused"

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    row_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(LongText)
    created_at: Mapped[datetime] = mapped_column(default=now)
