"""FLIP's way to take events: a synchronous FastAPI endpoint that commits one row a request.

`uvicorn benchmarks.peers.endpoint:app` in the environment of FastAPI, the database's URL in ENDPOINT_DATABASE_URL. The
engine's pool is of the default size (5, and 10 more under pressure); the handlers run in the default thread pool.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import JSON, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """The declarative base."""


class EventRow(Base):
    """One event as it came."""

    __tablename__ = "endpoint_event"

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(unique=True)
    model_id: Mapped[UUID] = mapped_column(index=True)
    event_type: Mapped[str | None]
    log: Mapped[str | None]
    metric: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    fl_client_name: Mapped[str | None]
    success: Mapped[bool]
    global_round: Mapped[int | None]
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))


class Event(BaseModel):
    """What is posted."""

    event_id: UUID
    model_id: UUID
    event_type: str | None = None
    log: str | None = None
    metric: dict[str, Any] | None = None
    fl_client_name: str | None = None
    success: bool = True
    global_round: int | None = None
    details: dict[str, Any] = Field(default_factory=dict)


engine = create_engine(os.environ["ENDPOINT_DATABASE_URL"])
app = FastAPI()


def session() -> Iterator[Session]:
    """One a request."""
    with Session(engine) as made:
        yield made


@app.post("/events", status_code=201)
def add(event: Event, database: Annotated[Session, Depends(session)]) -> dict[str, int]:
    """The event's row, committed."""
    row = EventRow(**event.model_dump())
    database.add(row)
    database.commit()
    return {"id": row.id}
