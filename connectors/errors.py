"""What can go wrong outside the process, sorted by what the caller should do about it."""

from __future__ import annotations

from connectors.records import Claim, ReasonCode


class ConnectorError(Exception):
    """The root of this layer's errors."""


class Unavailable(ConnectorError):
    """The database or the store can't be reached now; the same call may succeed later."""


class DatabaseUnavailable(Unavailable):
    """A transaction could not be carried out, however often it was tried."""


class StoreUnavailable(Unavailable):
    """The store did not answer, or has no room: nothing is known about the data itself."""


class StoreMisconfigured(StoreUnavailable):
    """The store is not there, refuses access, or its settings are wrong: all that needs it waits for its owner."""


class CanNotSign(ConnectorError):
    """The store has no URLs by which others could read or write it."""


class BrokerUnavailable(Unavailable):
    """The broker did not take a message that must not be lost."""


class TransactionRequired(ConnectorError):
    """A method that writes was called outside `transaction()`: no connector commits by itself."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} writes: call it inside `with connector.transaction():`")
        self.method = method


class ClaimLost(ConnectorError):
    """Another worker holds the model by now: whoever gets this may post nothing of its round."""

    def __init__(self, claim: Claim, during: str) -> None:
        super().__init__(
            f"model {claim.model_id}: claim {claim.fence} was overtaken before {during}; "
            "its updates belong to a later claim and nothing was written"
        )
        self.claim = claim


class ModelIsClaimed(ConnectorError):
    """A round of this model is under way under somebody else's claim."""

    def __init__(self, model_id: int) -> None:
        super().__init__(f"model {model_id} has a live claim: wait until its round is posted or its lease ends")
        self.model_id = model_id


class ModelDeleted(ConnectorError):
    """The model accepts nothing more: nothing was written."""

    def __init__(self, model_id: int) -> None:
        super().__init__(f"model {model_id} was deleted: nothing more is written under it")
        self.model_id = model_id


class TransitionRefused(ConnectorError):
    """Some updates were not in the state that the transition starts from: nothing was changed."""

    def __init__(self, transition: str, expected: int, found: int) -> None:
        super().__init__(
            f"{transition}: {found} of {expected} updates were in the state it starts from; none was changed"
        )
        self.transition = transition
        self.expected = expected
        self.found = found


class AlreadyExists(ConnectorError):
    """A value that must be unique is taken."""

    def __init__(self, what: str, value: object) -> None:
        super().__init__(f"{what} {value} exists already")
        self.what = what
        self.value = value


class DatabaseUnsuitable(ConnectorError):
    """The database server is none that the hub can rely on, or is set up so that it can't: its owner must act."""


class StatementTooLarge(ConnectorError):
    """The database takes no statement of that size, now or later."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{size_bytes} bytes in one statement, and the database takes {limit_bytes}: raise its max_allowed_packet"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class SchemaTooNew(ConnectorError):
    """The database was migrated for a newer version, and says that this one may not work on it any more."""

    def __init__(self, found: str, oldest_code: str | None, mine: str) -> None:
        super().__init__(
            f"the database's schema is at {found}, which code of revision {oldest_code or found} or newer may work on; "
            f"this is {mine}: install the newer version here"
        )
        self.found = found
        self.oldest_code = oldest_code
        self.mine = mine


class SchemaOutdated(ConnectorError):
    """The database's schema is not the one this code was written for."""

    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(
            f"the database's schema is at {found or 'nothing'}, this version needs {wanted}: "
            "run `python -m worker migrate`"
        )
        self.found = found
        self.wanted = wanted


class ModelDataError(ConnectorError):
    """Model data that can't be used, whoever reads it: the reason is in the data, so trying again is useless."""

    def __init__(self, reason_code: ReasonCode, reason: str) -> None:
        super().__init__(reason)
        self.reason_code = reason_code
        self.reason = reason


class ReferenceRefused(ModelDataError):
    """A reference that leads outside the configured roots, or to a store that is not configured."""

    def __init__(self, reason: str) -> None:
        super().__init__(ReasonCode.CORRUPT, reason)


class BlobMissing(ModelDataError):
    """A reference to bytes that are not in the store."""

    def __init__(self, uri: str) -> None:
        super().__init__(ReasonCode.CORRUPT, f"nothing is stored at {uri}")
        self.uri = uri
