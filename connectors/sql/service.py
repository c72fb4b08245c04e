"""Runs, deletion and trusts: the connector's verbs over the model service's functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from connectors.errors import AlreadyExists
from connectors.records import Client, FederatedModel, FLKitSlot, ModelRun, ModelStatus, StatusChange, Trust
from connectors.sql import model_service
from connectors.sql.database import Database
from connectors.sql.engine import is_unique
from connectors.sql.mapping import to_client, to_model, to_run, to_slot, to_trust
from connectors.sql.rows import ClientRow, FederatedModelRow, FLKitSlotRow, ModelRunRow, ModelTrustRow, TrustRow

_AT_ONCE = 1000  # values bound in one question


class Service(Database):
    """The connector's part for FLIP's entities."""

    def update_model_status(
        self,
        model: FederatedModel,
        status: ModelStatus | None,
        *,
        run_id: UUID | None = None,
        user_id: str | None = None,
        event_id: UUID | None = None,
        details: Mapping[str, Any] | None = None,
        trust_id: int | None = None,
        fl_client_name: str | None = None,
        global_round: int | None = None,
    ) -> StatusChange:
        session = self._session("update_model_status")
        change = model_service.change_status(
            model.id,
            status,
            session,
            user_id=user_id,
            run_id=run_id,
            event_id=event_id,
            details=details,
            trust_id=trust_id,
            fl_client_name=fl_client_name,
            global_round=global_round,
        )
        assert change is not None, f"model {model.id} has no row: rows of models are never removed"
        return change

    def pull_model_runs(self, model: FederatedModel) -> list[ModelRun]:
        statement = select(ModelRunRow).where(ModelRunRow.model_id == model.id)
        return [to_run(row) for row in self._all(statement.order_by(ModelRunRow.number))]

    def delete_federated_models(self, models: Sequence[FederatedModel], user_id: str | None = None) -> int:
        session = self._session("delete_federated_models")
        return model_service.delete_all(session, FederatedModelRow.id.in_([model.id for model in models]), user_id)

    def pull_project_models(self, project_id: str) -> list[FederatedModel]:
        statement = select(FederatedModelRow).where(
            FederatedModelRow.project_id == project_id, FederatedModelRow.deleted.is_(False)
        )
        return [to_model(row) for row in self._all(statement.order_by(FederatedModelRow.id))]

    # --- trusts -----------------------------------------------------------------------------------

    def add_trust(self, trust: Trust) -> Trust:
        row = TrustRow(uuid=trust.uuid, name=trust.name, code=trust.code)
        if self._added("add_trust", row) is None:
            raise self._taken(replace(trust, id=0))
        return to_trust(row)

    def change_trust(self, trust: Trust, changes: Mapping[str, Any]) -> Trust:
        session = self._session("change_trust")
        refused = set(changes) - {"name", "code"}
        if refused:
            raise ValueError(f"change_trust can't set {', '.join(sorted(refused))}")
        if changes:
            try:
                with session.begin_nested():
                    self._changed("change_trust", update(TrustRow).where(TrustRow.id == trust.id).values(**changes))
            except IntegrityError as error:
                if not is_unique(error):
                    raise
                raise self._taken(replace(trust, **changes)) from error
        changed = self._first(select(TrustRow).where(TrustRow.id == trust.id))
        assert changed is not None, f"trust {trust.id} has no row: rows of trusts are never removed"
        return to_trust(changed)

    def _taken(self, trust: Trust) -> AlreadyExists:
        """Which of the trust's values another one has."""
        for name in ("uuid", "name", "code"):
            value = getattr(trust, name)
            same: ColumnElement[bool] = getattr(TrustRow, name) == value
            if value is not None and self._first(select(TrustRow).where(same, TrustRow.id != trust.id)) is not None:
                return AlreadyExists(f"trust {name}", value)
        return AlreadyExists("trust", trust.uuid)

    def pull_trusts(self) -> list[Trust]:
        return _by_name([to_trust(row) for row in self._all(select(TrustRow))])

    def pull_trust(self, trust: int | str | UUID) -> Trust | None:
        for condition in _who(trust):
            row = self._first(select(TrustRow).where(condition))
            if row is not None:
                return to_trust(row)
        return None

    def set_fl_kit_slot(self, fl_client_name: str, trust: Trust | None) -> FLKitSlot:
        trust_id = None if trust is None else trust.id
        statement = select(FLKitSlotRow).where(FLKitSlotRow.fl_client_name == fl_client_name).with_for_update()
        row = self._first(statement)
        if row is None:
            added = FLKitSlotRow(fl_client_name=fl_client_name, trust_id=trust_id)
            row = self._added("set_fl_kit_slot", added) or self._first(statement)
        assert row is not None
        row.trust_id = trust_id
        self._session("set_fl_kit_slot").flush()
        return to_slot(row)

    def pull_fl_kit_slots(self) -> list[FLKitSlot]:
        slots = [to_slot(row) for row in self._all(select(FLKitSlotRow))]
        # Sorted here: databases differ in how they order names.
        return sorted(slots, key=lambda slot: slot.fl_client_name)

    def pull_trusts_of_slots(self, fl_client_names: Collection[str]) -> dict[str, Trust]:
        with self._reading() as session:
            return model_service.trusts_of_slots(session, fl_client_names)

    def set_model_trusts(self, model: FederatedModel, trusts: Sequence[Trust]) -> None:
        session = self._session("set_model_trusts")
        self._changed("set_model_trusts", delete(ModelTrustRow).where(ModelTrustRow.model_id == model.id))
        ids = sorted({trust.id for trust in trusts})
        if ids:
            session.execute(insert(ModelTrustRow), [{"model_id": model.id, "trust_id": trust} for trust in ids])

    def pull_model_trusts(self, models: Sequence[FederatedModel]) -> dict[int, list[Trust]]:
        found: dict[int, list[Trust]] = {model.id: [] for model in models}
        ids = list(found)
        with self._reading() as session:
            for start in range(0, len(ids), _AT_ONCE):
                statement = (
                    select(ModelTrustRow.model_id, TrustRow)
                    .join(TrustRow, TrustRow.id == ModelTrustRow.trust_id)
                    .where(ModelTrustRow.model_id.in_(ids[start : start + _AT_ONCE]))
                )
                for model_id, row in session.execute(statement, execution_options={"populate_existing": True}):
                    found[model_id].append(to_trust(row))
        return {model_id: _by_name(trusts) for model_id, trusts in found.items()}

    def set_client_trust(self, client: Client, trust: Trust | None) -> Client:
        trust_id = None if trust is None else trust.id
        self._changed("set_client_trust", update(ClientRow).where(ClientRow.id == client.id).values(trust_id=trust_id))
        changed = self._first(select(ClientRow).where(ClientRow.id == client.id))
        assert changed is not None, f"client {client.id} has no row: rows of clients are never removed"
        return to_client(changed)


def _by_name(trusts: list[Trust]) -> list[Trust]:
    return sorted(trusts, key=lambda trust: (trust.name, trust.id))


def _who(trust: int | str | UUID) -> list[ColumnElement[bool]]:
    """What may be meant, the likeliest first."""
    if isinstance(trust, int):
        return [TrustRow.id == trust]
    if isinstance(trust, UUID):
        return [TrustRow.uuid == trust]
    named: list[ColumnElement[bool]] = [TrustRow.code == trust, TrustRow.name == trust]
    try:
        return [TrustRow.uuid == UUID(trust), *named]
    except ValueError:
        return named
