"""How much a model and its senders have under way: counted, not kept, so that no crash can put it wrong."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, func, select, update

from connectors.records import OPEN_STATUSES, Client, FederatedModel, SubmissionLoad
from connectors.sql.clock import now_ms
from connectors.sql.database import Database
from connectors.sql.rows import ModelUpdateRow, SubmissionRateRow
from connectors.sql.rows.limits import EVERYBODY, STRANGERS


class SubmissionLoads(Database):
    """The connector's part for limits."""

    def pull_submission_load(self, model: FederatedModel, client: Client | None) -> SubmissionLoad:
        is_senders = ModelUpdateRow.client_id == (None if client is None else client.id)
        size = func.coalesce(ModelUpdateRow.data_size, 0)
        # One statement: it stands in every submission's way, once before its data is read and once under the lock.
        statement = select(
            now_ms(),
            _spent_until(model.id, EVERYBODY),
            _spent_until(model.id, STRANGERS if client is None else client.id),
            func.count(),
            func.sum(size),
            func.sum(case((is_senders, 1), else_=0)),
            func.sum(case((is_senders, size), else_=0)),
        ).where(ModelUpdateRow.model_id == model.id, ModelUpdateRow.status.in_(OPEN_STATUSES))
        with self._reading() as session:
            # None where there is nothing to sum; PostgreSQL and MariaDB sum whole numbers into decimals.
            now, *found = (int(value or 0) for value in session.execute(statement).one())
        return SubmissionLoad(now * 1000, *found)

    def register_submission(
        self,
        model: FederatedModel,
        client: Client | None,
        *,
        model_spent_until: int | None = None,
        sender_spent_until: int | None = None,
    ) -> None:
        session = self._session("register_submission")
        for sender, until in (
            (EVERYBODY, model_spent_until),
            (STRANGERS if client is None else client.id, sender_spent_until),
        ):
            if until is None:
                continue
            statement = (
                update(SubmissionRateRow)
                .where(SubmissionRateRow.model_id == model.id, SubmissionRateRow.sender == sender)
                .values(spent_until=until)
            )
            # The model's row is locked: nobody inserts it in between.
            if self._changed("register_submission", statement) == 0:
                session.add(SubmissionRateRow(model_id=model.id, sender=sender, spent_until=until))
                session.flush()


def _spent_until(model_id: int, sender: int) -> Any:
    return (
        select(SubmissionRateRow.spent_until)
        .where(SubmissionRateRow.model_id == model_id, SubmissionRateRow.sender == sender)
        .scalar_subquery()
    )
