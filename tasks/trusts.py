"""Tasks about institutions."""

from __future__ import annotations

from fedqueue.messages import names
from fedqueue.messages.trusts import (
    AddTrust,
    ClientTrustView,
    ListTrusts,
    ModelTrustsView,
    SetClientTrust,
    SetModelTrusts,
    SetSlot,
    SlotView,
    TrustsView,
    TrustView,
)
from tasks.base import hub_task
from tasks.domain import trusts
from tasks.hub import Hub


@hub_task(names.TRUSTS_ADD, AddTrust)
def add(hub: Hub, message: AddTrust) -> TrustView:
    """A new trust; the same message again answers the same trust."""
    return trusts.add_trust(hub, message)


@hub_task(names.TRUSTS_LIST, ListTrusts, asks=True)
def list_all(hub: Hub, message: ListTrusts) -> TrustsView:
    """Trusts with their slots: every one, or those approved for a model."""
    return trusts.list_trusts(hub, message.model_id)


@hub_task(names.TRUSTS_SET_SLOT, SetSlot)
def set_slot(hub: Hub, message: SetSlot) -> SlotView:
    """An FL server's name for a trust's client, given to that trust."""
    return trusts.set_slot(hub, message)


@hub_task(names.TRUSTS_SET_MODEL, SetModelTrusts)
def set_model(hub: Hub, message: SetModelTrusts) -> ModelTrustsView:
    """The trusts that are approved for a model, instead of those before."""
    return trusts.set_model_trusts(hub, message)


@hub_task(names.TRUSTS_SET_CLIENT, SetClientTrust)
def set_client(hub: Hub, message: SetClientTrust) -> ClientTrustView:
    """The trust that a client belongs to."""
    return trusts.set_client_trust(hub, message)
