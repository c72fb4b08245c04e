"""The client's calls about institutions: trusts, their slots, the models and clients that are theirs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from fedqueue.arguments import Id, as_message, as_uuid
from fedqueue.calls import Calls
from fedqueue.messages import names as wire
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


class TrustCalls(Calls):
    """Who takes part, and under which names."""

    def add_trust(
        self, name: str, code: str | None = None, *, trust_id: Id | None = None, timeout: float | None = None
    ) -> TrustView:
        """A new trust. Its id is made here if none is given, so that a repeat adds no second."""
        trust_id = as_uuid(trust_id or uuid.uuid4(), "trust_id")
        message = as_message(AddTrust, trust_id=trust_id, name=name, code=code)
        return self._ask(wire.TRUSTS_ADD, message, TrustView, {"trust_id": trust_id}, timeout)

    def list_trusts(self, *, model_id: Id | None = None, timeout: float | None = None) -> TrustsView:
        """Every trust with its slots, by name; with `model_id` those that are approved for the model."""
        named = None if model_id is None else as_uuid(model_id, "model_id")
        return self._ask(wire.TRUSTS_LIST, as_message(ListTrusts, model_id=named), TrustsView, {}, timeout)

    def set_slot(self, fl_client_name: str, trust_id: Id | None, *, timeout: float | None = None) -> SlotView:
        """The name by which FL servers report the trust's client, given to it; None: nobody's any more."""
        named = None if trust_id is None else as_uuid(trust_id, "trust_id")
        message = as_message(SetSlot, fl_client_name=fl_client_name, trust_id=named)
        return self._ask(wire.TRUSTS_SET_SLOT, message, SlotView, {}, timeout)

    def set_model_trusts(
        self, model_id: Id, trust_ids: Sequence[Id], *, user_id: str | None = None, timeout: float | None = None
    ) -> ModelTrustsView:
        """The trusts that are approved for the model, instead of those before."""
        named = [as_uuid(trust_id, f"trust_ids.{position}") for position, trust_id in enumerate(trust_ids)]
        message = as_message(SetModelTrusts, model_id=as_uuid(model_id, "model_id"), trust_ids=named, user_id=user_id)
        return self._ask(wire.TRUSTS_SET_MODEL, message, ModelTrustsView, {}, timeout)

    def set_client_trust(self, client_id: Id, trust_id: Id | None, *, timeout: float | None = None) -> ClientTrustView:
        """The trust that the client belongs to; None: none."""
        named = None if trust_id is None else as_uuid(trust_id, "trust_id")
        message = as_message(SetClientTrust, client_id=as_uuid(client_id, "client_id"), trust_id=named)
        return self._ask(wire.TRUSTS_SET_CLIENT, message, ClientTrustView, {}, timeout)
