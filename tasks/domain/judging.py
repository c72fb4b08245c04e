"""A batch judged one by one: what is wrong with one entry is refused and kept, and the others go on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from pydantic import ValidationError

from connectors.records import FederatedModel
from fedqueue.messages.events import EventRefusal, FLEvent
from fedqueue.messages.failure_reports import cut_failure_report, left_out
from fedqueue.messages.feed import LogMessage, MetricMessage, UpdateStatus
from tasks.domain.errors import EventReused, InvalidEntry, Refused, UnknownModel
from tasks.hub import Hub
from tasks.storable import UNSTORABLE, find_unstorable_text, storable

_LONGEST_FIELD = 200  # characters: a field may be named by its sender, and a dead letter keeps no more


E = TypeVar("E", FLEvent, LogMessage, MetricMessage, UpdateStatus)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry came from: which message, its position there, and that as the sender would write it."""

    message: int
    index: int
    dotted: str  # empty: the entry is the whole message

    def field(self, name: str | None) -> str | None:
        """The dotted name of the entry's field in its message; None if it is the message, with no field at fault."""
        return ".".join(part for part in (self.dotted, name) if part)[:_LONGEST_FIELD] or None


@dataclass(frozen=True, slots=True)
class Entry(Generic[E]):
    """One that stands so far."""

    place: Place
    payload: Any
    message: E


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """One that does not, with the reason."""

    place: Place
    payload: Any
    refusal: EventRefusal


class Batch(Generic[E]):
    """Entries of one or more messages: those that stand, and those that were refused on the way."""

    def __init__(self, kind: type[E], placed: Iterable[tuple[Place, Any]]) -> None:
        self.refused: list[RefusedEntry] = []
        self.repeated: list[Place] = []  # the same as another entry of this batch
        self._standing: dict[Place, Entry[E]] = {}
        for place, payload in placed:
            try:
                self._standing[place] = Entry(place, payload, _read(kind, payload))
            except Refused as refused:
                self._note(place, payload, refused)

    def __iter__(self) -> Iterator[Entry[E]]:
        return iter(list(self._standing.values()))

    def __len__(self) -> int:
        return len(self._standing)

    def copy(self) -> Self:
        """The same, to go on with: what is refused there is not refused here."""
        other = copy(self)
        other.refused, other.repeated = list(self.refused), list(self.repeated)
        other._standing = dict(self._standing)
        return other

    def refuse(self, entry: Entry[E], refused: Refused) -> None:
        """Take it out of those that stand."""
        del self._standing[entry.place]
        self._note(entry.place, entry.payload, refused)

    def set_repeats_aside(self) -> None:
        """One entry an event id: the same again counts once, another one under the same id is refused."""
        first: dict[UUID, E] = {}
        for entry in self:
            event_id = entry.message.event_id
            known = entry.message if event_id is None else first.setdefault(event_id, entry.message)
            if event_id is None or known is entry.message:
                continue
            if known == entry.message:
                del self._standing[entry.place]
                self.repeated.append(entry.place)
            else:
                self.refuse(entry, EventReused(event_id))

    def find_models(self, hub: Hub) -> Mapping[UUID, FederatedModel]:
        """The entries' models; entries of a model that is unknown or deleted are refused."""
        models = hub.metadata.pull_federated_models_w_ids({entry.message.model_id for entry in self})
        for entry in self:
            model = models.get(entry.message.model_id)
            if model is None or model.deleted:
                self.refuse(entry, UnknownModel(entry.message.model_id))
        return models

    def refusals(self, messages: int) -> list[list[EventRefusal]]:
        """For each message: why entries of it were refused, in its order."""
        found: list[list[EventRefusal]] = [[] for _ in range(messages)]
        for each in sorted(self.refused, key=lambda each: each.place.index):
            found[each.place.message].append(each.refusal)
        return found

    def _note(self, place: Place, payload: Any, refused: Refused) -> None:
        event_id = payload.get("event_id") if isinstance(payload, dict) else None
        refusal = EventRefusal(
            index=place.index,
            event_id=storable(event_id[:_LONGEST_FIELD]) if isinstance(event_id, str) else None,
            kind=refused.kind,
            field=storable(place.field(refused.field)),
            reason=refused.reason,
        )
        self.refused.append(RefusedEntry(place, payload, refusal))


def places(message: int, dotted: str, payloads: Sequence[Any]) -> Iterator[tuple[Place, Any]]:
    """The payloads of one message's list, which it calls `dotted`; empty: its only payload is the message itself."""
    for index, payload in enumerate(payloads):
        yield Place(message, index, f"{dotted}.{index}" if dotted else ""), payload


def keep_refused(hub: Hub, task: str, refused: Collection[RefusedEntry]) -> None:
    """Each as a dead letter of its own, the entry alone in it. To be called in a transaction."""
    for each in refused:
        hub.metadata.add_dead_letter(
            task,
            storable(each.payload),
            kind=each.refusal.kind,
            field=each.refusal.field,
            reason=each.refusal.reason,
        )


def _read(kind: type[E], payload: Any) -> E:
    """The entry, if it is one that can be kept; a report of failure as far as it can be. Raises: InvalidEntry."""
    try:
        return _read_whole(kind, payload)
    except InvalidEntry:
        report = cut_failure_report(payload)
        if report is None:
            raise
        if find_unstorable_text(report.get("details")) is not None:
            report["details"] = left_out(report["details"])
        return _read_whole(kind, report)


def _read_whole(kind: type[E], payload: Any) -> E:
    try:
        message = kind.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # What details look like inside is their sender's business: the field is `details`.
        place = first["loc"][:1] if first["loc"][:1] == ("details",) else first["loc"]
        raise InvalidEntry(first["msg"], field=".".join(map(str, place)) or None) from error
    unstorable = find_unstorable_text(payload)
    if unstorable is not None:
        raise InvalidEntry(UNSTORABLE, field=unstorable or None)
    return message
