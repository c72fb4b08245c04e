"""Refusals: what a caller asked for can't be done, whoever tries, however often.

Each names a stable kind, the field at fault and the rule; the task answers them and keeps the message as a dead letter.
"""

from __future__ import annotations

from uuid import UUID

from connectors.errors import Unavailable
from connectors.records import FederatedModel


class Refused(Exception):
    """The root of the refusals."""

    field: str | None = None

    def __init__(self, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field or self.field

    @property
    def kind(self) -> str:
        """The refusal's stable name on the wire."""
        return type(self).__name__


class UnknownModel(Refused):
    """No model has that id, or it was deleted."""

    field = "model_id"

    def __init__(self, model_id: object) -> None:
        super().__init__(f"there is no model {model_id}")


class ModelIsOver(Refused):
    """The model's run has ended: it takes no more updates."""

    field = "model_id"

    def __init__(self, model: FederatedModel) -> None:
        super().__init__(f"model {model.uuid} is {model.status}: its run takes no more updates")


class NoSignedUrls(Refused):
    """The hub's store is no bucket: there is nothing to sign."""


class UploadTooLarge(Refused):
    """More than the hub would take in."""

    field = "size_bytes"


class InvalidPolicy(Refused):
    """An aggregator, a requirement or one of their arguments that the hub does not know or can't use."""


class UnknownClient(Refused):
    """The client is not registered with the model."""

    field = "client_id"

    def __init__(self, client_id: UUID, model_id: UUID) -> None:
        super().__init__(f"client {client_id} is not registered with model {model_id}: register it first")


class UnknownAggregate(Refused):
    """The model has no such aggregate."""

    def __init__(self, aggregate_id: int | None, model_id: UUID, field: str) -> None:
        which = "no aggregate yet" if aggregate_id is None else f"no aggregate {aggregate_id}"
        super().__init__(f"model {model_id} has {which}", field=field)


class LimitExceeded(Refused):
    """Too much for now: the same message may be accepted later, as it is."""

    def __init__(self, rule: str, limit: int, found: int, retry_after: float, *, field: str, whose: str) -> None:
        super().__init__(
            f"{whose}: {rule} is {limit}, and this would make {found}; send the same again in {retry_after:.3g} s",
            field=field,
        )
        self.rule = rule
        self.limit = limit
        self.found = found
        self.retry_after = retry_after
        self.whose = whose


class SubmissionReused(Refused):
    """A submission id that was used before, for something else."""

    field = "submission_id"

    def __init__(self, submission_id: UUID, update_id: int) -> None:
        super().__init__(
            f"submission {submission_id} is update {update_id} already, with another payload: "
            "a new update needs a new submission_id, a repeat must be the same to the letter"
        )


class ModelReused(Refused):
    """A model id that was used before, for another model."""

    field = "model_id"

    def __init__(self, model_id: UUID, *, deleted: bool = False) -> None:
        why = "was deleted" if deleted else "exists already and is not the one described"
        super().__init__(f"model {model_id} {why}: choose a new model_id")


class VersionTaken(Refused):
    """A version that names another aggregate already."""

    field = "version"

    def __init__(self, version: str, model_id: UUID) -> None:
        super().__init__(f"version {version!r} of model {model_id} is published already and is never changed")


class InvalidModelData(Refused):
    """Data that came with a message and can't be read as a model."""


class InvalidScore(Refused):
    """Validation results that the model's schema does not allow."""

    field = "validation_results"


class InvalidStatus(Refused):
    """A status that no run can be in."""

    field = "status"


class UnknownTrust(Refused):
    """No trust has that id."""

    def __init__(self, trust_id: UUID, field: str) -> None:
        super().__init__(f"there is no trust {trust_id}: add it first", field=field)


class TrustTaken(Refused):
    """A trust's name, code or id that is another's already."""

    def __init__(self, field: str, value: str, trust_name: str) -> None:
        super().__init__(
            f"{value!r} is taken by the trust {trust_name!r}: no two share a name, a code or an id", field=field
        )


class UnknownParticipant(Refused):
    """No model knows that client."""

    field = "client_id"

    def __init__(self, client_id: UUID) -> None:
        super().__init__(f"there is no client {client_id}: register it with a model first")


class InvalidEntry(Refused):
    """An entry of a batch that is no message of its kind."""

    @property
    def kind(self) -> str:
        """As a whole message's would be."""
        return "InvalidMessage"


class LetterUnsendable(Refused):
    """A dead letter that can't be sent again."""

    def __init__(self, letter_id: int, why: str) -> None:
        super().__init__(f"dead letter {letter_id} can't be sent again: {why}")


class RunNotBegun(Unavailable):
    """No refusal yet: a status of a run that has not begun, whose beginning may still be on its way."""

    def __init__(self, run_id: UUID, status: str) -> None:
        super().__init__(f"{status} of run {run_id}, which has not begun")


class AttributionFailed(Refused):
    """A sender that is nobody's, or whose trust is not approved for the model."""

    field = "fl_client_name"


class EventReused(Refused):
    """An event id that was used before, for something else."""

    field = "event_id"

    def __init__(self, event_id: UUID) -> None:
        super().__init__(
            f"event {event_id} was told before, with another payload: "
            "a new event needs a new event_id, a repeat must be the same to the letter"
        )
