"""What is asked of all models at once: a number of queries that does not grow with theirs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, func, select

from connectors.records import FederatedModel, Overview, RoundState, UpdateStatus
from connectors.sql.database import Database
from connectors.sql.mapping import to_aggregate, to_round
from connectors.sql.rows import DeadLetterRow, FederatedModelRow, ModelAggregateRow, ModelUpdateRow, RoundRow

# Below what any of the databases binds in one statement.
_AT_ONCE = 1000


class Overviews(Database):
    """The connector's part for whoever looks at the hub as a whole."""

    def count_model_updates_by_model(self, models: Sequence[FederatedModel]) -> dict[int, dict[UpdateStatus, int]]:
        counts = {model.id: dict.fromkeys(UpdateStatus, 0) for model in models}
        ids = list(counts)
        with self._reading() as session:
            for start in range(0, len(ids), _AT_ONCE):
                statement = (
                    select(ModelUpdateRow.model_id, ModelUpdateRow.status, func.count())
                    .where(ModelUpdateRow.model_id.in_(ids[start : start + _AT_ONCE]))
                    .group_by(ModelUpdateRow.model_id, ModelUpdateRow.status)
                )
                for model_id, status, count in session.execute(statement):
                    counts[model_id][UpdateStatus(status)] = count
        return counts

    def pull_overview(self, newest: int = 5) -> Overview:
        is_kept = FederatedModelRow.deleted.is_(False)
        models = select(func.count()).select_from(FederatedModelRow).where(is_kept)
        updates = (
            select(ModelUpdateRow.status, func.count())
            .join(FederatedModelRow, FederatedModelRow.id == ModelUpdateRow.model_id)
            .where(is_kept)
            .group_by(ModelUpdateRow.status)
        )
        claims = (
            select(FederatedModelRow.uuid, RoundRow)
            .join(
                FederatedModelRow,
                and_(FederatedModelRow.id == RoundRow.model_id, FederatedModelRow.fence == RoundRow.fence),
            )
            .where(is_kept, RoundRow.state == RoundState.CLAIMED)
            .order_by(RoundRow.model_id)
        )
        heads = (
            select(FederatedModelRow.uuid, ModelAggregateRow)
            .join(
                FederatedModelRow,
                and_(
                    FederatedModelRow.id == ModelAggregateRow.model_id,
                    FederatedModelRow.head == ModelAggregateRow.number,
                ),
            )
            .where(is_kept)
            .order_by(ModelAggregateRow.id.desc())
            .limit(newest)
        )
        letters = select(func.count()).select_from(DeadLetterRow).where(DeadLetterRow.outcome.is_(None))
        fresh = {"populate_existing": True}
        with self._reading() as session:
            counts = {UpdateStatus(status): count for status, count in session.execute(updates)}
            return Overview(
                models=session.scalars(models).one(),
                updates={status: counts.get(status, 0) for status in UpdateStatus},
                claims=tuple((uuid, to_round(row)) for uuid, row in session.execute(claims, execution_options=fresh)),
                newest=tuple(
                    (uuid, to_aggregate(row)) for uuid, row in session.execute(heads, execution_options=fresh)
                ),
                dead_letters=session.scalars(letters).one(),
            )
