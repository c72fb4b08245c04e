"""How a feed's entries are read as progress, the same on every connector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.records import Sender

ROUNDS_TIMED = 20

# A client's own events begin so. Of failures only these, and free text, are about the client itself: a quarantined
# update or a run's ERROR leaves its sender in the run.
CLIENT_EVENTS = "CLIENT_"
DROPPED = "CLIENT_DROPPED"
TOTAL = "total_rounds"  # in the details of a round's start


def sender_of(trust_id: int | None, fl_client_name: str | None) -> Sender | None:
    """Who an entry is about; None: the run as a whole."""
    return fl_client_name if trust_id is None else trust_id


def is_drop(event_type: str | None, success: bool) -> bool:
    """Whether an entry about a sender says that it has failed or left."""
    if event_type == DROPPED:
        return True
    return not success and (event_type is None or event_type.startswith(CLIENT_EVENTS))


def as_total(details: Mapping[str, Any]) -> int | None:
    """The number of rounds that a round's start names; None if it names none that makes sense."""
    total = details.get(TOTAL)
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 1 else None
