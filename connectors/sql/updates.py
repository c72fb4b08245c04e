"""ModelUpdates: each transition is a guarded UPDATE that names the state it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Update, func, select, update
from sqlalchemy.orm import aliased

from connectors.errors import AlreadyExists, ModelDeleted, TransitionRefused
from connectors.records import (
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    ReasonCode,
    UpdateStatus,
    is_eligible,
)
from connectors.sql.clock import now_ms
from connectors.sql.database import Database
from connectors.sql.held import held_models
from connectors.sql.mapping import to_update
from connectors.sql.rows import FederatedModelRow, ModelAggregateRow, ModelClientRow, ModelUpdateRow

_RETRYABLE = (UpdateStatus.PENDING, UpdateStatus.FAILED)


class Updates(Database):
    """The connector's part for updates."""

    def add_model_update(self, update: ModelUpdate, *, row_id: int | None = None) -> ModelUpdate:
        """As the contract; `row_id` is the one that it has in somebody else's table already."""
        session = self._session("add_model_update")
        held = held_models(session).get(update.model_id)
        if held is None:
            # Shared until the end: deletion waits, so none comes in behind it.
            shared = select(FederatedModelRow.deleted).where(FederatedModelRow.id == update.model_id)
            is_deleted = session.scalar(shared.with_for_update(read=True, key_share=True))
        else:
            is_deleted = held.deleted
        if is_deleted:
            raise ModelDeleted(update.model_id)
        row = ModelUpdateRow(
            id=row_id,
            model_id=update.model_id,
            client_id=update.client_id,
            client_uuid=update.client_uuid,
            submission_id=update.submission_id,
            payload_digest=update.payload_digest,
            data_uri=update.data.uri if update.data else None,
            data_digest=update.data.digest if update.data else None,
            data_size=update.data.size_bytes if update.data else None,
            num_examples=update.num_examples,
            metrics=dict(update.metrics),
            num_steps=update.num_steps,
            loss=update.loss,
            status=update.status,
            reason_code=update.reason_code,
            reason=update.reason,
            base_aggregate_id=update.base_aggregate_id,
            # From now on it is ready: what a deadline is counted from.
            not_before=update.not_before or now_ms(),
        )
        if self._added("add_model_update", row) is None:
            raise AlreadyExists("submission", update.submission_id)
        return self._updates(_UPDATES_WITH_BASE.where(ModelUpdateRow.id == row.id))[0]

    def pull_model_update_w_submission_id(self, submission_id: UUID) -> ModelUpdate | None:
        found = self._updates(_UPDATES_WITH_BASE.where(ModelUpdateRow.submission_id == submission_id))
        return found[0] if found else None

    def pull_model_updates(
        self,
        model: FederatedModel | None = None,
        *,
        statuses: Sequence[UpdateStatus] = (),
        applied_aggregate_id: int | None = None,
        after_id: int = 0,
        limit: int = 100,
    ) -> list[ModelUpdate]:
        statement = _UPDATES_WITH_BASE.where(ModelUpdateRow.id > after_id)
        if model is not None:
            statement = statement.where(ModelUpdateRow.model_id == model.id)
        if statuses:
            statement = statement.where(ModelUpdateRow.status.in_(list(statuses)))
        if applied_aggregate_id is not None:
            statement = statement.where(ModelUpdateRow.applied_aggregate_id == applied_aggregate_id)
        return self._updates(statement.order_by(ModelUpdateRow.id).limit(limit))

    def count_model_updates(self, model: FederatedModel) -> dict[UpdateStatus, int]:
        statement = (
            select(ModelUpdateRow.status, func.count())
            .where(ModelUpdateRow.model_id == model.id)
            .group_by(ModelUpdateRow.status)
        )
        with self._reading() as session:
            found = {UpdateStatus(status): count for status, count in session.execute(statement)}
        return {status: found.get(status, 0) for status in UpdateStatus}

    def pull_model_updates_pending_aggregation(self, model: FederatedModel) -> list[ModelUpdate]:
        statement = self._pending(model)
        return self._updates(statement.order_by(ModelUpdateRow.id))

    def pull_model_updates_ready_for_aggregation(
        self, model: FederatedModel, parent_agg: ModelAggregate | None
    ) -> list[ModelUpdate]:
        statement = self._pending(model).where(ModelUpdateRow.not_before <= now_ms())
        head = 0 if parent_agg is None else parent_agg.number
        return [
            found
            for found in self._updates(statement.order_by(ModelUpdateRow.id))
            if is_eligible(found.base_number, head, model.furthest_base_agg)
        ]

    def register_model_updates_invalid(
        self, model_updates: Sequence[ModelUpdate], reason_code: ReasonCode, reason: str
    ) -> None:
        statement = (
            update(ModelUpdateRow)
            .where(
                ModelUpdateRow.id.in_([u.id for u in model_updates]),
                ModelUpdateRow.status != UpdateStatus.COMPLETE,
            )
            .values(
                status=UpdateStatus.INVALID,
                reason_code=reason_code,
                reason=reason,
                claim=None,
                suspect_group=None,
            )
        )
        self._guarded("register_model_updates_invalid", statement, len(model_updates))

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        for claim, ids in _by_claim(model_updates):
            statement = (
                update(ModelUpdateRow)
                .where(
                    ModelUpdateRow.id.in_(ids),
                    ModelUpdateRow.model_id == aggregate.model_id,
                    ModelUpdateRow.status == UpdateStatus.RUNNING,
                    _is_under(claim),
                )
                .values(
                    status=UpdateStatus.COMPLETE,
                    applied_aggregate_id=aggregate.id,
                    claim=None,
                    suspect_group=None,
                )
            )
            self._guarded("register_model_update_used_in_aggregate", statement, len(ids))

    def register_model_updates_use_in_aggregation_complete(
        self, model_updates: Sequence[ModelUpdate], is_successful: bool
    ) -> None:
        method = "register_model_updates_use_in_aggregation_complete"
        if not is_successful:
            self.return_model_updates(model_updates, status=UpdateStatus.FAILED)
            return
        session = self._session(method)
        complete = session.scalar(
            select(func.count()).where(
                ModelUpdateRow.id.in_([u.id for u in model_updates]),
                ModelUpdateRow.status == UpdateStatus.COMPLETE,
            )
        )
        if complete != len(model_updates):
            raise TransitionRefused(method, len(model_updates), complete or 0)

    def requeue_model_updates(self, model_updates: Sequence[ModelUpdate]) -> None:
        statement = (
            update(ModelUpdateRow)
            .where(
                ModelUpdateRow.id.in_([u.id for u in model_updates]),
                ModelUpdateRow.status == UpdateStatus.INVALID,
                ModelUpdateRow.client_id.is_not(None),
                ModelUpdateRow.data_digest.is_not(None),
                ModelUpdateRow.is_data_dropped.is_(False),
                ModelUpdateRow.num_examples > 0,
            )
            .values(
                status=UpdateStatus.PENDING,
                reason_code=None,
                reason=None,
                attempts=0,
                suspect_group=None,
                not_before=now_ms(),
            )
        )
        self._guarded("requeue_model_updates", statement, len(model_updates))

    def pull_model_updates_used_up_to(self, model: FederatedModel, number: int, limit: int = 1000) -> list[ModelUpdate]:
        applied = aliased(ModelAggregateRow)
        statement = _UPDATES_WITH_BASE.join(applied, applied.id == ModelUpdateRow.applied_aggregate_id).where(
            ModelUpdateRow.model_id == model.id,
            applied.number <= number,
            ModelUpdateRow.is_data_dropped.is_(False),
        )
        return self._updates(statement.order_by(ModelUpdateRow.id).limit(limit))

    def register_model_updates_data_dropped(self, model_updates: Sequence[ModelUpdate]) -> None:
        statement = (
            update(ModelUpdateRow)
            .where(
                ModelUpdateRow.id.in_([u.id for u in model_updates]),
                ModelUpdateRow.status.in_([UpdateStatus.COMPLETE, UpdateStatus.INVALID]),
            )
            .values(is_data_dropped=True)
        )
        self._guarded("register_model_updates_data_dropped", statement, len(model_updates))

    def return_model_updates(
        self,
        model_updates: Sequence[ModelUpdate],
        *,
        status: UpdateStatus,
        rest_ms: Mapping[int, int] | None = None,
        suspect_groups: Mapping[int, int | None] | None = None,
        attempts: Mapping[int, int] | None = None,
    ) -> None:
        assert status in _RETRYABLE, f"updates are returned as PENDING or FAILED, not {status}"
        for found in model_updates:
            values: dict[str, Any] = {"status": status, "claim": None}
            if rest_ms is not None and found.id in rest_ms:
                values["not_before"] = now_ms() + rest_ms[found.id]
            if suspect_groups is not None and found.id in suspect_groups:
                values["suspect_group"] = suspect_groups[found.id]
            if attempts is not None and found.id in attempts:
                values["attempts"] = attempts[found.id]
            statement = (
                update(ModelUpdateRow)
                .where(
                    ModelUpdateRow.id == found.id,
                    ModelUpdateRow.status == UpdateStatus.RUNNING,
                    _is_under(found.claim),
                )
                .values(**values)
            )
            self._guarded("return_model_updates", statement, 1)

    # --- for this part and the claims' ------------------------------------------------------------

    def _updates(self, statement: Select[ModelUpdateRow, int | None]) -> list[ModelUpdate]:
        with self._reading() as session:
            rows = session.execute(statement, execution_options={"populate_existing": True}).all()
            return [to_update(row, base_number) for row, base_number in rows]

    def _pending(self, model: FederatedModel) -> Select[ModelUpdateRow, int | None]:
        return _UPDATES_WITH_BASE.join(
            ModelClientRow,
            (ModelClientRow.client_id == ModelUpdateRow.client_id)
            & (ModelClientRow.model_id == ModelUpdateRow.model_id),
        ).where(ModelUpdateRow.model_id == model.id, ModelUpdateRow.status.in_(_RETRYABLE))

    def _select_running(self, model_id: int, fence: int) -> Select[ModelUpdateRow, int | None]:
        return _UPDATES_WITH_BASE.where(
            ModelUpdateRow.model_id == model_id,
            ModelUpdateRow.status == UpdateStatus.RUNNING,
            ModelUpdateRow.claim == fence,
        )

    def _select_dead(self, model_id: int, fence: int) -> Select[ModelUpdateRow, int | None]:
        return _UPDATES_WITH_BASE.where(
            ModelUpdateRow.model_id == model_id,
            ModelUpdateRow.status == UpdateStatus.RUNNING,
            ModelUpdateRow.claim < fence,
        ).order_by(ModelUpdateRow.id)

    def _guarded(self, transition: str, statement: Update, expected: int) -> None:
        """Carry out a transition of `expected` rows, all or none of them."""
        with self._session(transition).begin_nested():
            found = self._changed(transition, statement)
            if found != expected:
                raise TransitionRefused(transition, expected, found)


_BASE = aliased(ModelAggregateRow)
# Built once: an alias made anew for every statement costs more than the statement does.
_UPDATES_WITH_BASE: Select[ModelUpdateRow, int | None] = select(ModelUpdateRow, _BASE.number).outerjoin(
    _BASE, _BASE.id == ModelUpdateRow.base_aggregate_id
)


def _is_under(claim: int | None) -> ColumnElement[bool]:
    """SQL for "under that claim", or for the callers of FMA, who know none: under the model's present one."""
    if claim is not None:
        return ModelUpdateRow.claim == claim
    return ModelUpdateRow.claim == (
        select(FederatedModelRow.fence)
        .where(FederatedModelRow.id == ModelUpdateRow.model_id)
        .correlate(ModelUpdateRow)
        .scalar_subquery()
    )


def _by_claim(model_updates: Sequence[ModelUpdate]) -> list[tuple[int | None, list[int]]]:
    ordered = sorted(model_updates, key=lambda u: -1 if u.claim is None else u.claim)
    return [(claim, [u.id for u in group]) for claim, group in groupby(ordered, key=lambda u: u.claim)]
