"""How much a model and its senders have under way: counted, not kept, so that no crash can put it wrong."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CursorResult, Select, bindparam, case, func, select, update

from connectors.records import OPEN_STATUSES, Client, FederatedModel, SubmissionLoad
from connectors.sql.clock import now_ms
from connectors.sql.database import Database
from connectors.sql.rows import ModelUpdateRow, SubmissionRateRow
from connectors.sql.rows.limits import EVERYBODY, STRANGERS


class SubmissionLoads(Database):
    """The connector's part for limits."""

    def pull_submission_load(self, model: FederatedModel, client: Client | None) -> SubmissionLoad:
        named = {"model": model.id, "client": None if client is None else client.id, "sender": _sender(client)}
        with self._reading() as session:
            # None where there is nothing to sum; PostgreSQL and MariaDB sum whole numbers into decimals.
            now, *found = (int(value or 0) for value in session.execute(_LOAD, named).one())
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
        for sender, until in ((EVERYBODY, model_spent_until), (_sender(client), sender_spent_until)):
            if until is None:
                continue
            named = {"model": model.id, "sender_is": sender, "until": until}
            spent = session.execute(_SPEND, named, execution_options={"synchronize_session": False})
            assert isinstance(spent, CursorResult)
            # The model's row is locked: nobody inserts it in between.
            if spent.rowcount == 0:
                session.add(SubmissionRateRow(model_id=model.id, sender=sender, spent_until=until))
                session.flush()


def _sender(client: Client | None) -> int:
    return STRANGERS if client is None else client.id


def _spent_until(sender: Any) -> Any:
    return (
        select(SubmissionRateRow.spent_until)
        .where(SubmissionRateRow.model_id == bindparam("model"), SubmissionRateRow.sender == sender)
        .scalar_subquery()
    )


def _load() -> Select[Any]:
    # One statement, and built once: it stands in every submission's way, before its data is read and under the lock.
    is_senders = ModelUpdateRow.client_id == bindparam("client", type_=BigInteger())
    size = func.coalesce(ModelUpdateRow.data_size, 0)
    return select(
        now_ms(),
        _spent_until(EVERYBODY),
        _spent_until(bindparam("sender")),
        func.count(),
        func.sum(size),
        func.sum(case((is_senders, 1), else_=0)),
        func.sum(case((is_senders, size), else_=0)),
    ).where(ModelUpdateRow.model_id == bindparam("model"), ModelUpdateRow.status.in_(OPEN_STATUSES))


_LOAD = _load()
_SPEND = (
    update(SubmissionRateRow)
    .where(SubmissionRateRow.model_id == bindparam("model"), SubmissionRateRow.sender == bindparam("sender_is"))
    .values(spent_until=bindparam("until"))
)
