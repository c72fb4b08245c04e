"""Trusts: the institutions behind clients, the names FL servers know them by, the models they are approved for."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from connectors.errors import AlreadyExists
from connectors.records import AuditAction, Trust
from fedqueue.messages.trusts import (
    AddTrust,
    ClientTrustView,
    ModelTrustsView,
    SetClientTrust,
    SetModelTrusts,
    SetSlot,
    SlotView,
    TrustsView,
    TrustView,
)
from tasks.domain.errors import TrustTaken, UnknownParticipant, UnknownTrust
from tasks.domain.models import find_model, lock_model
from tasks.hub import Hub


def add_trust(hub: Hub, message: AddTrust) -> TrustView:
    """A new trust; the same message again answers the same one. Raises: TrustTaken."""

    def add(_: object) -> Trust:
        found = _same_or_refused(hub.metadata.pull_trusts(), message)
        return found or hub.metadata.add_trust(Trust(0, message.trust_id, message.name, message.code))

    try:
        added = hub.metadata.transact(add)
    except AlreadyExists:  # somebody else has just added it, or taken its name: now it is there to be found
        added = hub.metadata.transact(add)
    return _views(hub, [added])[0]


def list_trusts(hub: Hub, model_id: UUID | None = None) -> TrustsView:
    """Every trust with its slots, by name; with `model_id` the approved ones. Raises: UnknownModel."""
    if model_id is None:
        return TrustsView(trusts=_views(hub, hub.metadata.pull_trusts()))
    model = find_model(hub, model_id)
    return TrustsView(trusts=_views(hub, hub.metadata.pull_model_trusts([model]).get(model.id, [])))


def set_slot(hub: Hub, message: SetSlot) -> SlotView:
    """The slot, the trust's from now on. What was attributed before stays as it was. Raises: UnknownTrust."""

    def assign(_: object) -> Trust | None:
        trust = None if message.trust_id is None else find_trust(hub, message.trust_id)
        hub.metadata.set_fl_kit_slot(message.fl_client_name, trust)
        return trust

    trust = hub.metadata.transact(assign)
    return SlotView(fl_client_name=message.fl_client_name, trust=_views(hub, [trust])[0] if trust else None)


def set_model_trusts(hub: Hub, message: SetModelTrusts) -> ModelTrustsView:
    """The trusts approved for the model, instead of those before; audited if they differ.

    Raises: UnknownModel, UnknownTrust (nothing is changed).
    """

    def approve(_: object) -> list[Trust]:
        model = lock_model(hub, message.model_id)
        wanted = {
            trust.id: trust
            for trust in (
                find_trust(hub, trust_id, f"trust_ids.{position}")
                for position, trust_id in enumerate(message.trust_ids)
            )
        }
        before = hub.metadata.pull_model_trusts([model]).get(model.id, [])
        if {trust.id for trust in before} != wanted.keys():
            hub.metadata.set_model_trusts(model, list(wanted.values()))
            hub.metadata.add_audit(model, AuditAction.EDIT, message.user_id)
        return list(wanted.values())

    return ModelTrustsView(model_id=message.model_id, trusts=_views(hub, hub.metadata.transact(approve)))


def set_client_trust(hub: Hub, message: SetClientTrust) -> ClientTrustView:
    """The client, the trust's from now on. Raises: UnknownParticipant, UnknownTrust."""

    def assign(_: object) -> Trust | None:
        client = hub.metadata.pull_client(message.client_id)
        if client is None:
            raise UnknownParticipant(message.client_id)
        trust = None if message.trust_id is None else find_trust(hub, message.trust_id)
        hub.metadata.set_client_trust(client, trust)
        return trust

    trust = hub.metadata.transact(assign)
    return ClientTrustView(client_id=message.client_id, trust=_views(hub, [trust])[0] if trust else None)


def find_trust(hub: Hub, trust_id: UUID, field: str = "trust_id") -> Trust:
    """The trust. Raises: UnknownTrust naming the field."""
    trust = hub.metadata.pull_trust(trust_id)
    if trust is None:
        raise UnknownTrust(trust_id, field)
    return trust


def _same_or_refused(trusts: Iterable[Trust], message: AddTrust) -> Trust | None:
    """The trust that the message describes if it is there; None if it may be added. Raises: TrustTaken."""
    wanted = {"name": message.name} | ({} if message.code is None else {"code": message.code})
    for trust in trusts:
        if trust.uuid == message.trust_id:
            if (trust.name, trust.code) == (message.name, message.code):
                return trust
            raise TrustTaken("trust_id", str(message.trust_id), trust.name)
        for field, value in wanted.items():
            # A trust is shown, and may be named, by its code or its name: neither may be another's other.
            if value in (trust.name, trust.code):
                raise TrustTaken(field, value, trust.name)
    return None


def _views(hub: Hub, trusts: Iterable[Trust]) -> list[TrustView]:
    slots: dict[int, list[str]] = {}
    for slot in hub.metadata.pull_fl_kit_slots():
        if slot.trust_id is not None:
            slots.setdefault(slot.trust_id, []).append(slot.fl_client_name)
    return [
        TrustView(
            trust_id=trust.uuid, name=trust.name, code=trust.code, fl_client_names=sorted(slots.get(trust.id, []))
        )
        for trust in sorted(trusts, key=lambda trust: trust.name)
    ]
