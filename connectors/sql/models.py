"""Models and their clients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, or_, select, update

from connectors.errors import AlreadyExists
from connectors.metadata import uuids_among
from connectors.model_ids import read_model_id
from connectors.records import CLAIMABLE_STATUSES, Client, FederatedModel, UpdateStatus
from connectors.sql.clock import now_ms
from connectors.sql.database import Database
from connectors.sql.held import hold
from connectors.sql.mapping import to_client, to_model
from connectors.sql.rows import ClientRow, FederatedModelRow, ModelClientRow, ModelUpdateRow

# What the round's protocol alone may move, under its own guards.
_GUARDED = {"id", "uuid", "fence", "lease_until", "head", "status", "run_id", "deleted", "created_at", "updated_at"}
_FIELDS = {each.name for each in FederatedModelRow.__table__.columns} - {"id", "heard_at", "created_at", "updated_at"}


class Models(Database):
    """The connector's part for models and clients."""

    def pull_federated_model_w_id(self, fed_model_id: int | str | UUID) -> FederatedModel | None:
        named = read_model_id(fed_model_id)
        if named is None:
            return None
        column = FederatedModelRow.uuid if isinstance(named, UUID) else FederatedModelRow.id
        row = self._first(select(FederatedModelRow).where(column == named))
        return None if row is None else to_model(row)

    def pull_federated_models(
        self, *, after_id: int = 0, limit: int = 100, deleted: bool = False
    ) -> list[FederatedModel]:
        statement = select(FederatedModelRow).where(FederatedModelRow.id > after_id)
        if not deleted:
            statement = statement.where(FederatedModelRow.deleted.is_(False))
        return [to_model(row) for row in self._all(statement.order_by(FederatedModelRow.id).limit(limit))]

    def pull_model_requirements(self, model: FederatedModel) -> list[Any]:
        return [model.requirement or None, model.requirement_args]

    def add_federated_model(self, model: FederatedModel) -> FederatedModel:
        row = FederatedModelRow(**{name: _stored(name, getattr(model, name)) for name in _FIELDS})
        if self._added("add_federated_model", row) is None:
            raise AlreadyExists("model", model.uuid)
        return to_model(row)

    def lock_model(self, model: FederatedModel) -> FederatedModel:
        session = self._session("lock_model")
        # SQLite knows no FOR UPDATE and needs none: BEGIN IMMEDIATE has locked the whole database. PostgreSQL: FOR NO
        # KEY UPDATE, one at a time, beside those who only share the row to write metrics under it.
        statement = select(FederatedModelRow).where(FederatedModelRow.id == model.id).with_for_update(key_share=True)
        row = self._first(statement)
        assert row is not None, f"model {model.id} has no row: rows of models are never removed"
        hold(session, row)
        return to_model(row)

    def change_federated_model(self, model: FederatedModel, changes: Mapping[str, Any]) -> FederatedModel:
        refused = set(changes) - (_FIELDS - _GUARDED)
        if refused:
            raise ValueError(f"change_federated_model can't set {', '.join(sorted(refused))}")
        if changes:
            values = {name: _stored(name, value) for name, value in changes.items()}
            statement = update(FederatedModelRow).where(FederatedModelRow.id == model.id).values(**values)
            self._changed("change_federated_model", statement)
        return self.lock_model(model)

    def register_client(self, model: FederatedModel, client_uuid: UUID, name: str = "") -> tuple[Client, bool]:
        row = self._first(select(ClientRow).where(ClientRow.uuid == client_uuid))
        if row is None:
            row = self._added("register_client", ClientRow(uuid=client_uuid, name=name))
        if row is None:  # somebody else has just added it
            row = self._first(select(ClientRow).where(ClientRow.uuid == client_uuid))
        assert row is not None
        is_new = self._added("register_client", ModelClientRow(model_id=model.id, client_id=row.id)) is not None
        return to_client(row), is_new

    def pull_client(self, client_uuid: UUID, model: FederatedModel | None = None) -> Client | None:
        statement = select(ClientRow).where(ClientRow.uuid == client_uuid)
        if model is not None:
            statement = _registered_with(statement, model)
        row = self._first(statement)
        return None if row is None else to_client(row)

    def pull_model_clients(self, model: FederatedModel) -> list[Client]:
        rows = self._all(_registered_with(select(ClientRow), model).order_by(ClientRow.id))
        return [to_client(row) for row in rows]

    def pull_federated_models_w_ids(self, model_ids: Collection[UUID]) -> dict[UUID, FederatedModel]:
        if not model_ids:
            return {}
        rows = self._all(select(FederatedModelRow).where(FederatedModelRow.uuid.in_(list(model_ids))))
        return {row.uuid: to_model(row) for row in rows}

    def pull_named_clients(self, models: Sequence[FederatedModel], names: Collection[str]) -> dict[int, list[Client]]:
        clients: dict[int, list[Client]] = {model.id: [] for model in models}
        statement = (
            select(ModelClientRow.model_id, ClientRow)
            .join(ClientRow, ClientRow.id == ModelClientRow.client_id)
            .where(
                ModelClientRow.model_id.in_(list(clients)),
                or_(ClientRow.name.in_(list(names)), ClientRow.uuid.in_(uuids_among(names))),
            )
            .order_by(ClientRow.id)
        )
        with self._reading() as session:
            for model_id, row in session.execute(statement).all():
                clients[model_id].append(to_client(row))
        return clients

    def pull_models_to_aggregate(self, limit: int = 1000) -> list[int]:
        has_work = and_(
            ModelUpdateRow.status.in_([UpdateStatus.PENDING, UpdateStatus.FAILED]),
            ModelUpdateRow.not_before <= now_ms(),
            FederatedModelRow.allow_aggregation.is_(True),
            FederatedModelRow.deleted.is_(False),
            FederatedModelRow.status.in_(list(CLAIMABLE_STATUSES)),
        )
        is_open = FederatedModelRow.lease_until.is_(None) | (FederatedModelRow.lease_until < now_ms())
        statement = (
            select(ModelUpdateRow.model_id)
            .join(FederatedModelRow, FederatedModelRow.id == ModelUpdateRow.model_id)
            .where(is_open, or_(has_work, ModelUpdateRow.status == UpdateStatus.RUNNING))
            .distinct()
            .order_by(ModelUpdateRow.model_id)
            .limit(limit)
        )
        with self._reading() as session:
            return list(session.scalars(statement).all())


def _registered_with(statement: Select[ClientRow], model: FederatedModel) -> Select[ClientRow]:
    return statement.join(ModelClientRow, ModelClientRow.client_id == ClientRow.id).where(
        ModelClientRow.model_id == model.id
    )


def _stored(name: str, value: Any) -> Any:
    """A record's value as JSON columns keep it."""
    if isinstance(value, Mapping):
        return dict(value)
    if name == "tensors" and value is not None:
        return [[tensor, list(shape), dtype] for tensor, shape, dtype in value]
    return list(value) if isinstance(value, tuple) else value
