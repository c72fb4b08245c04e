"""FMA's tree of aggregates, kept as django-mptt keeps it: its own rebuild() finds nothing to change.

Nested sets: a node's descendants are the rows of its tree whose `lft` lies between its own `lft` and `rght`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import case, func, insert, select, text, update
from sqlalchemy.orm import Session

from connectors.django.tables import AGGREGATES as A
from connectors.sql.rows.base import now


def lock_tree(session: Session) -> None:
    """Keep others from writing aggregates until the transaction ends; they may go on reading.

    A tree's number is the largest one there is and one more, which two at a time would both find. SQLite's BEGIN
    IMMEDIATE has locked everything already.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f'LOCK TABLE "{A.name}" IN SHARE ROW EXCLUSIVE MODE'))


def add_node(session: Session, model_id: int, parent_id: int | None, path: str) -> int:
    """Add an aggregate under its parent, or as the root of a new tree; its id. The table must be locked."""
    places = None if parent_id is None else _new_child(session, parent_id)
    if places is None:
        # Also under a parent that somebody has deleted in FMA: the hub's chain goes on, in a tree of its own.
        parent_id, places = None, _new_root(session)
    named: dict[str, Any] = {"result": path, "federated_model_id": model_id, "parent_id": parent_id}
    statement = insert(A).values(named | places | {"created_on": _moment(session, model_id)}).returning(A.c.id)
    node_id: int = session.execute(statement).scalar_one()
    return node_id


def _new_root(session: Session) -> dict[str, Any]:
    last = session.scalar(select(func.max(A.c.tree_id)))
    return {"lft": 1, "rght": 2, "tree_id": (last or 0) + 1, "level": 0}


def _new_child(session: Session, parent_id: int) -> dict[str, Any] | None:
    """Make room at the parent's right end; None if it is not there."""
    parent = session.execute(select(A.c.rght, A.c.tree_id, A.c.level).where(A.c.id == parent_id)).first()
    if parent is None:
        return None
    right = parent.rght
    session.execute(
        update(A)
        .where(A.c.tree_id == parent.tree_id, A.c.rght >= right)
        .values(rght=A.c.rght + 2, lft=case((A.c.lft > right, A.c.lft + 2), else_=A.c.lft))
    )
    return {"lft": right, "rght": right + 1, "tree_id": parent.tree_id, "level": parent.level + 1}


def _moment(session: Session, model_id: int) -> datetime:
    """Now, or just after the model's newest aggregate if this machine's clock is behind: FMA's API finds the latest
    by it."""
    newest: datetime | None = session.scalar(select(func.max(A.c.created_on)).where(A.c.federated_model_id == model_id))
    return now() if newest is None else max(now(), newest + timedelta(microseconds=1))
