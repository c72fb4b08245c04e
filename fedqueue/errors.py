"""What a caller of the hub can be told, sorted by what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from fedqueue.messages.events import FLEvent


class FedqueueError(Exception):
    """The root of this package's errors."""


class EndpointUnknown(FedqueueError):
    """Nobody said where the hub is."""


class InvalidArgument(FedqueueError, ValueError):
    """An argument breaks a rule that can be checked here: nothing was sent."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class StoreUnreachable(FedqueueError):
    """Model data can't be put into the store, or read from it, from this machine."""


class DataCorrupt(FedqueueError):
    """What lies in the store is not what the hub names, or is no model."""


class Rejected(FedqueueError):
    """The hub refused the message: nothing was changed, and but for LimitExceeded it will be refused again.

    `kind` is the rule's stable name, `field` the field at fault if there is one, `reason` is for people.
    """

    def __init__(self, kind: str, field: str | None, reason: str) -> None:
        super().__init__(f"{kind}: {field}: {reason}" if field else f"{kind}: {reason}")
        self.kind = kind
        self.field = field
        self.reason = reason


class LimitExceeded(Rejected):
    """Too much for now: nothing is wrong with the message, and the same may be accepted in `retry_after` seconds.

    `rule` is the hub's setting, `limit` its value, `found` what this message would have made of it.
    """

    def __init__(self, field: str | None, reason: str, *, rule: str, limit: int, found: int, retry_after: float):
        super().__init__("LimitExceeded", field, reason)
        self.rule = rule
        self.limit = limit
        self.found = found
        self.retry_after = retry_after


class UpdateRejected(Rejected):
    """The hub read the update and set it aside as INVALID: it will count in no round; a better one may be sent."""

    def __init__(self, reason_code: str, reason: str, update_id: int, submission_id: UUID) -> None:
        super().__init__(reason_code, None, reason)
        self.reason_code = reason_code
        self.update_id = update_id
        self.submission_id = submission_id


class HubFailed(FedqueueError):
    """The hub broke while it carried out the message: a fault of the hub's, kept in its log."""


class Unanswered(FedqueueError, TimeoutError):
    """It is not known whether the message was carried out.

    `repeat_with` are the arguments with which to call again: the hub carries it out once, however often it comes.
    """

    def __init__(self, what: str, repeat_with: Mapping[str, UUID]) -> None:
        again = ", ".join(f"{name}={value}" for name, value in repeat_with.items())
        super().__init__(f"{what}; to try again, pass {again}: a repeat is harmless" if again else what)
        self.repeat_with = dict(repeat_with)

    @property
    def submission_id(self) -> UUID | None:
        """The submission to repeat, when it was one."""
        return self.repeat_with.get("submission_id")


class HubUnavailable(Unanswered):
    """The broker could not be reached in the time given."""


class HubBusy(HubUnavailable):
    """The hub has more waiting than it can do, and took nothing more in the time given: nothing was carried out."""


class NoAnswer(Unanswered):
    """The broker took the message, but no worker answered in the time given."""


class EventsNotSent(Unanswered):
    """The broker did not take all events in the time given. `events` are those; send them again, once at least."""

    def __init__(self, what: str, events: Sequence[FLEvent]) -> None:
        super().__init__(what, {})
        self.events = list(events)


class EventNotTaken(FedqueueError):
    """A buffer of events is full, because the broker takes none, or it is closed."""


class RoundNotPosted(FedqueueError, TimeoutError):
    """No newer aggregate was posted in the time given, or none can come as the model stands."""

    def __init__(self, reason: str, number: int | None) -> None:
        super().__init__(reason)
        self.number = number  # of the newest aggregate seen; None: the hub was never reached
