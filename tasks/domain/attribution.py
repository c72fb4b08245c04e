"""Whom an event is about (DESIGN 8): the slot that an FL server names, its trust, and whether the model knows that
trust. A model that the hub itself aggregates knows its registered clients, by UUID or by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from connectors.records import Client, FederatedModel, Trust
from tasks.domain.errors import AttributionFailed
from tasks.hub import Hub


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom an entry is about; neither field: the model as a whole."""

    trust: int | None = None  # the row id
    trust_id: UUID | None = None  # on the wire; None where the trust is a client's, which its name leads to again
    fl_client_name: str | None = None


class Attributed(Protocol):
    """What names its sender."""

    @property
    def model_id(self) -> UUID: ...

    @property
    def fl_client_name(self) -> str | None: ...


class Senders:
    """Everybody whom a batch names, looked up once: at most four queries, whatever its size."""

    def __init__(self, hub: Hub, models: Mapping[UUID, FederatedModel], messages: Iterable[Attributed]) -> None:
        self._models = models
        asked = list(messages)
        named = {(m.model_id, m.fl_client_name) for m in asked if m.fl_client_name is not None}
        given = {m.model_id for m in asked if _trust_id_of(m) is not None}
        self._approved: dict[UUID, dict[int, Trust]] = {}
        concerned = {models[uuid].id: models[uuid] for uuid in {uuid for uuid, _ in named} | given}
        if concerned:
            approved = hub.metadata.pull_model_trusts(list(concerned.values()))
            self._approved = {m.uuid: {trust.id: trust for trust in approved[m.id]} for m in concerned.values()}
        self._slots = hub.metadata.pull_trusts_of_slots({name for _, name in named}) if named else {}
        unknown = {(uuid, name) for uuid, name in named if not self._is_approved(uuid, self._slots.get(name))}
        self._clients = _clients_by_name(hub, models, unknown)
        self._all_trusts: dict[UUID, Trust] | None = None
        self._hub = hub

    def find(self, message: Attributed) -> Sender:
        """The sender that the message names. Raises: AttributionFailed."""
        trust_id, name = _trust_id_of(message), message.fl_client_name
        if trust_id is not None:
            return self._given(message.model_id, trust_id, name)
        if name is None:
            return Sender()
        trust = self._slots.get(name)
        if trust is not None and self._is_approved(message.model_id, trust):
            return Sender(trust.id, trust.uuid, name)
        return self._client(message.model_id, name, trust)

    def _given(self, model_id: UUID, trust_id: UUID, name: str | None) -> Sender:
        approved = self._approved[model_id]
        for trust in approved.values():
            if trust.uuid == trust_id:
                return Sender(trust.id, trust.uuid, name)
        known = self._trusts().get(trust_id)
        if known is not None:
            reason = f"trust {known.name!r} is not approved for model {model_id}"
        else:
            reason = f"there is no trust {trust_id}"
        raise AttributionFailed(reason, field="trust_id")

    def _client(self, model_id: UUID, name: str, slot: Trust | None) -> Sender:
        found = self._clients.get((model_id, name), [])
        if len(found) > 1:
            raise AttributionFailed(f"{len(found)} clients of model {model_id} are called {name!r}: use the UUID")
        approved = self._approved[model_id]
        if found and (not approved or found[0].trust_id in approved):
            # Under one name, whatever it was called: the one that the hub's own events have.
            return Sender(found[0].trust_id, None, str(found[0].uuid))
        if slot is not None:
            reason = f"{name!r} is trust {slot.name!r}, which is not approved for model {model_id}"
        elif found:
            reason = f"client {name!r} is of no trust that is approved for model {model_id}"
        else:
            reason = f"{name!r} is no trust's slot and no client of model {model_id}"
        raise AttributionFailed(reason)

    def _is_approved(self, model_id: UUID, trust: Trust | None) -> bool:
        return trust is not None and trust.id in self._approved[model_id]

    def _trusts(self) -> dict[UUID, Trust]:
        if self._all_trusts is None:
            self._all_trusts = {trust.uuid: trust for trust in self._hub.metadata.pull_trusts()}
        return self._all_trusts


def _clients_by_name(
    hub: Hub, models: Mapping[UUID, FederatedModel], named: Iterable[tuple[UUID, str]]
) -> dict[tuple[UUID, str], list[Client]]:
    """By model and the name asked for: the model's registered clients of that name or UUID."""
    asked = set(named)
    if not asked:
        return {}
    concerned = {models[uuid].id: models[uuid] for uuid, _ in asked}
    found = hub.metadata.pull_named_clients(list(concerned.values()), {name for _, name in asked})
    clients: dict[tuple[UUID, str], list[Client]] = defaultdict(list)
    for uuid, name in asked:
        as_uuid = _uuid_or_none(name)
        of_model = found[models[uuid].id]
        # A UUID is one client's alone; only what is none can be a name.
        same = [client for client in of_model if client.uuid == as_uuid]
        clients[uuid, name] = same or [client for client in of_model if client.name == name]
    return clients


def _trust_id_of(message: Attributed) -> UUID | None:
    """The trust that the message names itself: entries of ingest's do, events do not."""
    # Not getattr: asked for a field that it has not, a pydantic model looks in many places first.
    trust_id: UUID | None = vars(message).get("trust_id")
    return trust_id


def _uuid_or_none(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def unattributed(log: str, fl_client_name: str) -> str:
    """A report of failure whose sender nobody knows: kept at the model's level, the name in its text."""
    return f"[{fl_client_name}] {log}"
