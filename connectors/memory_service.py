"""The in-memory connector's part for the model service: runs and their status, deletion, trusts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from connectors.errors import AlreadyExists
from connectors.memory_feed import MemoryFeed
from connectors.memory_tables import insert, moment, next_id
from connectors.records import (
    AuditAction,
    Client,
    FederatedModel,
    FLKitSlot,
    Kept,
    ModelRun,
    ModelStatus,
    NewLog,
    StatusChange,
    Trust,
)
from connectors.repeats import is_same_run
from connectors.run_states import FAILED_STATUSES, FINAL, Ignored, decide, event_id_of, is_heard


class MemoryService(MemoryFeed):
    """Who may do what, and how far it has come."""

    # --- runs and deletion ----------------------------------------------------------------------

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
        tables = self._writing("update_model_status")
        now = tables.models[model.id]
        if now.deleted:
            return StatusChange(now, False, Ignored.DELETED)
        if status is None:
            return StatusChange(now, False)
        seen = None if event_id is None else tables.logs.get(event_id)
        if seen is not None:
            is_same = (seen.model_id, seen.event_type) == (now.id, status) and is_same_run(run_id, seen.run_id)
            return self._ignored(now, seen.run_id, Ignored.REPEATED if is_same else Ignored.REUSED)
        if event_id in tables.metrics:
            return StatusChange(now, False, Ignored.REUSED)
        known = {run for owner, run in tables.runs if owner == now.id}
        decision = decide(now.status, now.run_id, known, status, run_id, by_user=user_id is not None)
        if not decision.change:
            return self._ignored(now, run_id, decision.reason)
        self._note_run(now, status, decision.new_run)
        run = decision.new_run or now.run_id
        changed = insert(tables.models, replace(now, status=status, run_id=run, updated_at=moment()))
        if status in AuditAction.__members__:
            self.add_audit(changed, AuditAction[status], user_id)
        own_id = event_id or event_id_of(changed.uuid, run, status)
        entry = NewLog(
            changed.id,
            own_id,
            run,
            status,
            success=status not in FAILED_STATUSES,
            trust_id=trust_id,
            fl_client_name=fl_client_name,
            global_round=global_round,
            details=details or {},
        )
        if self.add_logs([entry]) != [Kept.NEW]:
            # Somebody has given that id to something else. A change has its entry all the same.
            self.add_logs([replace(entry, event_id=uuid4())])
        return StatusChange(changed, True)

    def _ignored(self, model: FederatedModel, run_id: UUID | None, reason: str) -> StatusChange:
        if is_heard(model.run_id, run_id, reason):
            self._tables.heard[model.id] = moment()
        return StatusChange(model, False, reason)

    def _note_run(self, model: FederatedModel, status: ModelStatus, new_run: UUID | None) -> None:
        runs = self._tables.runs
        if new_run is not None and model.run_id is not None and (model.id, model.run_id) in runs:
            left = runs[model.id, model.run_id]
            runs[model.id, model.run_id] = replace(left, finished_at=left.finished_at or moment())
        run_id = new_run or model.run_id
        if run_id is None:
            return
        found = runs.get((model.id, run_id))
        if found is None:
            number = 1 + sum(owner == model.id for owner, _ in runs)
            found = ModelRun(model.id, run_id, number, status, started_at=moment())
        ended = moment() if status in FINAL else None
        runs[model.id, run_id] = replace(found, status=status, finished_at=ended)

    def pull_model_runs(self, model: FederatedModel) -> list[ModelRun]:
        return [run for run in self._tables.runs.values() if run.model_id == model.id]

    def delete_federated_models(self, models: Sequence[FederatedModel], user_id: str | None = None) -> int:
        tables = self._writing("delete_federated_models")
        deleted = 0
        for model_id in sorted({model.id for model in models}):
            now = tables.models[model_id]
            if not now.deleted:
                gone = insert(tables.models, replace(now, deleted=True, updated_at=moment()))
                self.add_audit(gone, AuditAction.DELETE, user_id)
                deleted += 1
        return deleted

    def pull_project_models(self, project_id: str) -> list[FederatedModel]:
        return [m for m in self._tables.models.values() if m.project_id == project_id and not m.deleted]

    def add_audit(self, model: FederatedModel, action: AuditAction, user_id: str | None = None) -> None:
        audit = self._writing("add_audit").audit
        audit[next_id(audit)] = (model.id, action, user_id)

    def pull_audit(self, model: FederatedModel) -> list[tuple[AuditAction, str | None]]:
        return [(action, user) for owner, action, user in self._tables.audit.values() if owner == model.id]

    # --- trusts ---------------------------------------------------------------------------------

    def add_trust(self, trust: Trust) -> Trust:
        tables = self._writing("add_trust")
        made = replace(trust, id=next_id(tables.trusts))
        self._check_free(made)
        return insert(tables.trusts, made)

    def change_trust(self, trust: Trust, changes: Mapping[str, Any]) -> Trust:
        tables = self._writing("change_trust")
        refused = set(changes) - {"name", "code"}
        if refused:
            raise ValueError(f"change_trust can't set {', '.join(sorted(refused))}")
        changed = replace(tables.trusts[trust.id], **changes)
        self._check_free(changed)
        return insert(tables.trusts, changed)

    def _check_free(self, trust: Trust) -> None:
        for other in self._tables.trusts.values():
            if other.id == trust.id:
                continue
            for name in ("uuid", "name", "code"):
                value = getattr(trust, name)
                if value is not None and value == getattr(other, name):
                    raise AlreadyExists(f"trust {name}", value)

    def pull_trusts(self) -> list[Trust]:
        return sorted(self._tables.trusts.values(), key=lambda trust: (trust.name, trust.id))

    def pull_trust(self, trust: int | str | UUID) -> Trust | None:
        trusts = self._tables.trusts
        if isinstance(trust, int):
            return trusts.get(trust)
        for name in ("uuid", "code", "name"):
            for found in trusts.values():
                if trust == getattr(found, name) or (name == "uuid" and str(trust) == str(found.uuid)):
                    return found
        return None

    def set_fl_kit_slot(self, fl_client_name: str, trust: Trust | None) -> FLKitSlot:
        slots = self._writing("set_fl_kit_slot").slots
        found = slots.get(fl_client_name) or FLKitSlot(len(slots) + 1, fl_client_name)
        slots[fl_client_name] = replace(found, trust_id=None if trust is None else trust.id)
        return slots[fl_client_name]

    def pull_fl_kit_slots(self) -> list[FLKitSlot]:
        return sorted(self._tables.slots.values(), key=lambda slot: slot.fl_client_name)

    def pull_trusts_of_slots(self, fl_client_names: Collection[str]) -> dict[str, Trust]:
        tables = self._tables
        slots = [tables.slots[name] for name in fl_client_names if name in tables.slots]
        return {slot.fl_client_name: tables.trusts[slot.trust_id] for slot in slots if slot.trust_id is not None}

    def set_model_trusts(self, model: FederatedModel, trusts: Sequence[Trust]) -> None:
        tables = self._writing("set_model_trusts")
        tables.approvals = {(owner, trust): None for owner, trust in tables.approvals if owner != model.id}
        tables.approvals |= {(model.id, trust.id): None for trust in trusts}

    def pull_model_trusts(self, models: Sequence[FederatedModel]) -> dict[int, list[Trust]]:
        approved = self._tables.approvals
        return {m.id: [t for t in self.pull_trusts() if (m.id, t.id) in approved] for m in models}

    def set_client_trust(self, client: Client, trust: Trust | None) -> Client:
        clients = self._writing("set_client_trust").clients
        return insert(clients, replace(clients[client.id], trust_id=None if trust is None else trust.id))
