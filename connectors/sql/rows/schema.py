"""What the database remembers of its own migrations, beside Alembic's revision."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from connectors.sql.rows.base import Base, now


class SchemaStepRow(Base):
    """A migration that was applied, and the oldest revision whose code may work on the schema after it."""

    __tablename__ = "schema_step"

    revision: Mapped[str] = mapped_column(String(32), primary_key=True)
    oldest_code: Mapped[str] = mapped_column(String(32))
    applied_at: Mapped[datetime] = mapped_column(default=now)
