"""Rows that FMA's API wrote, given the hub's beside them: same ids, in the hub's transactions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Table, and_, delete, exists, func, or_, select, update

from connectors.deployment import (
    Deployment,
    FoundAggregate,
    FoundArtifact,
    FoundModel,
    FoundScore,
    FoundUpdate,
    Kind,
    submission_id_of,
)
from connectors.django.beside import Beside
from connectors.django.found import (
    AGGREGATES_FOUND,
    ARTIFACTS_FOUND,
    MODELS_FOUND,
    SCORES_FOUND,
    UPDATES_FOUND,
    to_found_aggregate,
    to_found_artifact,
    to_found_model,
    to_found_score,
    to_found_update,
)
from connectors.django.policy import FOUND, PAUSED, policy_of, remember
from connectors.django.tables import AGGREGATES, ARTIFACTS, MODELS, REGISTRATIONS, SCHEDULES, SCORES, UPDATES
from connectors.errors import AlreadyExists
from connectors.records import (
    CLAIMABLE_STATUSES,
    BlobRef,
    Client,
    DataFormat,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
    ModelStatus,
    ModelUpdate,
    UpdateStatus,
)
from connectors.sql.mapping import to_aggregate, to_artifact, to_client, to_model, to_update
from connectors.sql.rows import (
    ClientAggregateScoreRow,
    ClientRow,
    FederatedModelRow,
    FmaRefusedRow,
    ModelAggregateRow,
    ModelArtifactRow,
    ModelClientRow,
    ModelUpdateRow,
)
from connectors.sql.rows.base import Base

_DELETED = FederatedModelRow.deleted
_TAKES_UPDATES = FederatedModelRow.status.in_(list(CLAIMABLE_STATUSES))


_REGISTERED_THERE = exists().where(
    REGISTRATIONS.c.federatedmodel_id == UPDATES.c.federated_model_id, REGISTRATIONS.c.client_id == UPDATES.c.client_id
)
_REGISTERED_HERE = exists().where(
    ModelClientRow.model_id == UPDATES.c.federated_model_id,
    ModelClientRow.client_id == ClientRow.id,
    ClientRow.uuid == UPDATES.c.client_id,
)


class Takeover(Beside, Deployment):
    """The connector's part for what came in beside the hub."""

    @property
    def deployment(self) -> Deployment | None:
        """This very database."""
        return self

    # --- what there is ----------------------------------------------------------------------------

    def pull_vanished_models(self) -> list[FederatedModel]:
        statement = select(FederatedModelRow).where(
            _DELETED.is_(False), ~exists().where(MODELS.c.id == FederatedModelRow.id)
        )
        return [to_model(row) for row in self._all(statement.order_by(FederatedModelRow.id))]

    def pull_models_to_compare(self) -> list[FederatedModel]:
        statement = (
            select(FederatedModelRow)
            .join(MODELS, MODELS.c.id == FederatedModelRow.id)
            .join(SCHEDULES, SCHEDULES.c.id == MODELS.c.scheduler_id)
            .where(_DELETED.is_(False), (SCHEDULES.c.repeats != PAUSED) != FederatedModelRow.allow_aggregation)
        )
        return [to_model(row) for row in self._all(statement.order_by(FederatedModelRow.id))]

    def pull_removed_registrations(self, limit: int) -> list[tuple[FederatedModel, Client]]:
        is_theirs = and_(
            REGISTRATIONS.c.federatedmodel_id == FederatedModelRow.id, REGISTRATIONS.c.client_id == ClientRow.uuid
        )
        statement = (
            select(FederatedModelRow, ClientRow)
            .join(ModelClientRow, ModelClientRow.model_id == FederatedModelRow.id)
            .join(ClientRow, ClientRow.id == ModelClientRow.client_id)
            .where(_DELETED.is_(False), ~exists().where(is_theirs))
            .order_by(FederatedModelRow.id, ClientRow.id)
            .limit(limit)
        )
        with self._reading() as session:
            return [(to_model(model), to_client(client)) for model, client in session.execute(statement).all()]

    def pull_vanished_updates(self, limit: int) -> list[ModelUpdate]:
        statement = (
            select(ModelUpdateRow)
            .join(FederatedModelRow, FederatedModelRow.id == ModelUpdateRow.model_id)
            .where(
                _DELETED.is_(False),
                ModelUpdateRow.status.in_([UpdateStatus.PENDING, UpdateStatus.FAILED]),
                ~exists().where(UPDATES.c.id == ModelUpdateRow.id),
            )
        )
        return [to_update(row, None) for row in self._all(statement.order_by(ModelUpdateRow.id).limit(limit))]

    def pull_new_models(self, limit: int) -> list[FoundModel]:
        statement = _new(MODELS_FOUND, MODELS, FederatedModelRow, Kind.MODEL)
        return [to_found_model(row) for row in self._rows(statement.order_by(MODELS.c.id), limit)]

    def pull_new_registrations(self, limit: int) -> list[tuple[FederatedModel, UUID]]:
        is_known = and_(
            ModelClientRow.model_id == FederatedModelRow.id,
            ClientRow.id == ModelClientRow.client_id,
            ClientRow.uuid == REGISTRATIONS.c.client_id,
        )
        statement = (
            select(FederatedModelRow, REGISTRATIONS.c.client_id)
            .join(REGISTRATIONS, REGISTRATIONS.c.federatedmodel_id == FederatedModelRow.id)
            .where(_DELETED.is_(False), ~exists().where(is_known))
            .order_by(REGISTRATIONS.c.id)
            .limit(limit)
        )
        with self._reading() as session:
            return [(to_model(row), uuid) for row, uuid in session.execute(statement).all()]

    def pull_new_artifacts(self, limit: int) -> list[FoundArtifact]:
        statement = _new(ARTIFACTS_FOUND, ARTIFACTS, ModelArtifactRow, Kind.ARTIFACT).where(_is_known(ARTIFACTS))
        return [to_found_artifact(row, self._media) for row in self._rows(statement.order_by(ARTIFACTS.c.id), limit)]

    def pull_new_aggregates(self, limit: int) -> list[FoundAggregate]:
        statement = _new(AGGREGATES_FOUND, AGGREGATES, ModelAggregateRow, Kind.AGGREGATE).where(_is_known(AGGREGATES))
        ordered = statement.order_by(AGGREGATES.c.created_on, AGGREGATES.c.id)
        return [to_found_aggregate(row, self._media) for row in self._rows(ordered, limit)]

    def pull_new_updates(self, limit: int, after_id: int = 0) -> list[FoundUpdate]:
        statement = (
            _new(UPDATES_FOUND, UPDATES, ModelUpdateRow, Kind.UPDATE)
            .join(FederatedModelRow, FederatedModelRow.id == UPDATES.c.federated_model_id)
            .where(
                UPDATES.c.id > after_id,
                _DELETED.is_(False),
                # One that was used is history, whatever has become of its model.
                or_(_TAKES_UPDATES, UPDATES.c.applied_aggregate_id.is_not(None)),
                # A client that has registered and sent since the hub last looked is no stranger.
                or_(~_REGISTERED_THERE, _REGISTERED_HERE),
                _is_named(UPDATES.c.base_aggregate_id),
                _is_named(UPDATES.c.applied_aggregate_id),
            )
        )
        return [to_found_update(row, self._media) for row in self._rows(statement.order_by(UPDATES.c.id), limit)]

    def pull_new_scores(self, limit: int) -> list[FoundScore]:
        statement = _new(SCORES_FOUND, SCORES, ClientAggregateScoreRow, Kind.SCORE).where(
            exists().where(ModelAggregateRow.id == SCORES.c.aggregate_id)
        )
        return [to_found_score(row) for row in self._rows(statement.order_by(SCORES.c.id), limit)]

    def pull_overtaken_updates(self, limit: int) -> list[tuple[ModelUpdate, int]]:
        statement = (
            select(ModelUpdateRow, UPDATES.c.applied_aggregate_id)
            .join(UPDATES, UPDATES.c.id == ModelUpdateRow.id)
            .join(ModelAggregateRow, ModelAggregateRow.id == UPDATES.c.applied_aggregate_id)
            .where(ModelUpdateRow.status != UpdateStatus.COMPLETE, ModelUpdateRow.client_id.is_not(None))
            .order_by(ModelUpdateRow.id)
            .limit(limit)
        )
        with self._reading() as session:
            return [(to_update(row, None), aggregate_id) for row, aggregate_id in session.execute(statement).all()]

    # --- the hub's rows for it --------------------------------------------------------------------

    def remove_registration(self, model: FederatedModel, client: Client) -> None:
        registered = delete(ModelClientRow).where(ModelClientRow.model_id == model.id)
        self._changed("remove_registration", registered.where(ModelClientRow.client_id == client.id))

    def adopt_model(self, found: FoundModel) -> FederatedModel:
        row = FederatedModelRow(
            id=found.id,
            uuid=found.uuid,
            name=found.name,
            description="",
            user_id=found.developer,
            aggregator=found.aggregator,
            aggregator_params={},
            requirement=found.requirement,
            requirement_args=found.requirement_args,
            furthest_base_agg=found.furthest_base_agg,
            # FMA counts every update that a client sent.
            allow_repeats=True,
            data_format=DataFormat.JSON,
            update_schema=found.update_schema,
            client_agg_results_schema=found.client_agg_results_schema,
            score_mode="max",
            allow_aggregation=found.allow_aggregation,
            status=ModelStatus.PENDING,
            deleted=False,
            fence=0,
            head=0,
            created_at=found.created_at,
        )
        self._adopt("adopt_model", row, found.id)
        session = self._session("adopt_model")
        theirs = session.execute(FOUND.where(MODELS.c.id == found.id)).first()
        if theirs is not None:
            remember(session, found.id, policy_of(theirs))
        return to_model(row)

    def adopt_artifact(self, found: FoundArtifact, data: BlobRef) -> ModelArtifact:
        session = self._session("adopt_artifact")
        # FMA publishes an aggregate by naming its file.
        published = select(ModelAggregateRow.id).where(
            ModelAggregateRow.model_id == found.model_id, ModelAggregateRow.data_digest == data.digest
        )
        row = ModelArtifactRow(
            id=found.id,
            model_id=found.model_id,
            version=found.version,
            aggregate_id=session.scalar(published.order_by(ModelAggregateRow.number.desc()).limit(1)),
            data_uri=data.uri,
            data_digest=data.digest,
            data_size=data.size_bytes,
            created_at=found.created_at,
        )
        self._adopt("adopt_artifact", row, found.id)
        return to_artifact(row)

    def adopt_aggregate(self, found: FoundAggregate, data: BlobRef) -> ModelAggregate:
        session = self._session("adopt_aggregate")
        head = session.scalar(
            update(FederatedModelRow)
            .where(FederatedModelRow.id == found.model_id)
            .values(head=FederatedModelRow.head + 1)
            .returning(FederatedModelRow.head),
            execution_options={"synchronize_session": False},
        )
        parent = session.scalar(
            select(ModelAggregateRow.id)
            .where(ModelAggregateRow.model_id == found.model_id)
            .order_by(ModelAggregateRow.number.desc())
            .limit(1)
        )
        row = ModelAggregateRow(
            id=found.id,
            model_id=found.model_id,
            number=head,
            parent_id=parent,
            data_uri=data.uri,
            data_digest=data.digest,
            data_size=data.size_bytes,
            num_updates=found.num_updates,
            num_examples=float(found.num_updates),
            manifest={"taken_over_from": "fma", "parent": found.parent_id},
            validation_score=found.validation_score,
            created_at=found.created_at,
        )
        self._adopt("adopt_aggregate", row, found.id)
        return to_aggregate(row)

    def adopt_update(self, row_id: int, update: ModelUpdate) -> ModelUpdate:
        added = self.add_model_update(update, row_id=row_id)
        self._mirror([row_id])
        return added

    def adopt_used_update(self, found: FoundUpdate, data: BlobRef) -> ModelUpdate:
        session = self._session("adopt_used_update")
        model_uuid = session.scalar(select(FederatedModelRow.uuid).where(FederatedModelRow.id == found.model_id))
        assert model_uuid is not None, "only updates of models that the hub knows are found"
        client_id = session.scalar(select(ClientRow.id).where(ClientRow.uuid == found.client_uuid))
        if client_id is None:  # registered with no model any more
            client = ClientRow(uuid=found.client_uuid, name="")
            self._added("adopt_used_update", client)
            client_id = client.id
        row = ModelUpdateRow(
            id=found.id,
            model_id=found.model_id,
            client_id=client_id,
            client_uuid=found.client_uuid,
            submission_id=submission_id_of(model_uuid, found.id),
            payload_digest=data.digest,
            data_uri=data.uri,
            data_digest=data.digest,
            data_size=data.size_bytes,
            num_examples=1.0,
            metrics={},
            is_data_dropped=True,
            status=UpdateStatus.COMPLETE,
            base_aggregate_id=found.base_aggregate_id,
            applied_aggregate_id=found.applied_aggregate_id,
            created_at=found.created_at,
        )
        self._adopt("adopt_used_update", row, found.id)
        self._mirror([found.id])  # FMA's hook may have died before it said COMPLETE
        return to_update(row, None)

    def register_overtaken(self, found: ModelUpdate, aggregate_id: int) -> None:
        used = update(ModelUpdateRow).where(
            ModelUpdateRow.id == found.id, ModelUpdateRow.status != UpdateStatus.COMPLETE
        )
        changed = self._changed(
            "register_overtaken",
            used.values(
                status=UpdateStatus.COMPLETE,
                applied_aggregate_id=aggregate_id,
                claim=None,
                suspect_group=None,
                reason_code=None,
                reason=None,
            ),
        )
        if changed:
            # Its task named its updates after it had written the aggregate: they were not counted at first.
            sums = select(func.count(), func.sum(ModelUpdateRow.num_examples)).where(
                ModelUpdateRow.applied_aggregate_id == aggregate_id
            )
            number, examples = self._session("register_overtaken").execute(sums).one()
            aggregate = update(ModelAggregateRow).where(ModelAggregateRow.id == aggregate_id)
            self._changed("register_overtaken", aggregate.values(num_updates=number, num_examples=float(examples)))
            self._mirror([found.id])

    def refuse(self, kind: Kind, row_id: int, reason: str) -> bool:
        return self._added("refuse", FmaRefusedRow(kind=kind, row_id=row_id, reason=reason)) is not None

    # --- parts ------------------------------------------------------------------------------------

    def _rows(self, statement: Select[Any], limit: int) -> list[Any]:
        with self._reading() as session:
            return list(session.execute(statement.limit(limit)).all())

    def _adopt(self, method: str, row: Base, row_id: int) -> None:
        if self._added(method, row) is None:
            raise AlreadyExists(f"{type(row).__tablename__}, taken over,", row_id)


def _new(statement: Select[Any], table: Table, row: Any, kind: Kind) -> Select[Any]:
    """Those of FMA's rows that have none of the hub's beside them, and were not refused."""
    is_refused = exists().where(FmaRefusedRow.kind == kind, FmaRefusedRow.row_id == table.c.id)
    return statement.where(~exists().where(row.id == table.c.id), ~is_refused)


def _is_known(table: Table) -> ColumnElement[bool]:
    """SQL for "its model is one of the hub's, and not deleted"."""
    return exists().where(FederatedModelRow.id == table.c.federated_model_id, _DELETED.is_(False))


def _is_named(column: Any) -> ColumnElement[bool]:
    """SQL for "that aggregate, if it names one, is the hub's too"."""
    return or_(column.is_(None), exists().where(ModelAggregateRow.id == column))
