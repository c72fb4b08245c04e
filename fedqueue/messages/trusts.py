"""Messages about institutions: trusts, the names that FL servers know them by, and the models they take part in."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from fedqueue.messages.envelope import Message, View
from fedqueue.messages.events import ClientName

Code = Annotated[str, Field(min_length=1, max_length=50)]


class AddTrust(Message):
    """fedqueue.trusts.add. The same message again answers the same trust."""

    trust_id: UUID
    name: str = Field(min_length=1, max_length=200)
    code: Code | None = None


class ListTrusts(Message):
    """fedqueue.trusts.list: every trust with its slots."""

    model_id: UUID | None = Field(default=None, description="Only those approved for this model; null: all.")


class SetSlot(Message):
    """fedqueue.trusts.set_slot: the name by which FL servers report a trust's client; null: nobody's any more."""

    fl_client_name: ClientName
    trust_id: UUID | None = None


class SetModelTrusts(Message):
    """fedqueue.trusts.set_model: the trusts that are approved for a model, instead of those before."""

    model_id: UUID
    trust_ids: list[UUID] = Field(max_length=10_000)
    user_id: str | None = Field(default=None, max_length=200)


class SetClientTrust(Message):
    """fedqueue.trusts.set_client: the trust that a client belongs to; null: none."""

    client_id: UUID
    trust_id: UUID | None = None


class TrustView(View):
    """An institution."""

    trust_id: UUID
    name: str
    code: str | None = None
    fl_client_names: list[str] = Field(default_factory=list)


class TrustsView(View):
    """Trusts, by name."""

    trusts: list[TrustView]


class SlotView(View):
    """A name that FL servers report, and whose it is."""

    fl_client_name: str
    trust: TrustView | None = None


class ClientTrustView(View):
    """A client, and whose it is."""

    client_id: UUID
    trust: TrustView | None = None


class ModelTrustsView(View):
    """The trusts that are approved for a model."""

    model_id: UUID
    trusts: list[TrustView]
