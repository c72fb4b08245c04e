"""Dead letters settled by an operator: sent again as the task that each was, or discarded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connectors.records import DeadLetter, DeadLetterOutcome
from fedqueue.messages import names
from tasks.domain.errors import LetterUnsendable
from tasks.hub import Hub

# Their entries are refused one by one, so a letter holds an entry alone: under this name it is a message again.
_LISTS: Final[Mapping[str, str]] = {
    names.EVENTS_INGEST: "events",
    names.LOGS_ADD: "entries",
    names.METRICS_ADD: "points",
    names.MODELS_UPDATE_STATUSES: "statuses",
}

_TASKS: Final = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}


def requeue_letter(hub: Hub, letter: DeadLetter, user_id: str | None = None) -> bool:
    """Send the letter's message again as its task; False, and nothing is sent, if it was settled before.

    Refused once more, it is a new letter. Sent first, noted then: whoever dies in between leaves it open, and every
    task may be carried out twice with one effect. Raises: LetterUnsendable, or what the broker raises; then it is open.
    """
    message = message_of(letter)

    def send(_: object) -> bool:
        if not hub.metadata.settle_dead_letter(letter, DeadLetterOutcome.REQUEUED, user_id):
            return False
        hub.send(letter.task, message, None)
        return True

    return hub.metadata.transact(send)


def discard_letter(hub: Hub, letter: DeadLetter, user_id: str | None, reason: str) -> bool:
    """Note that nothing more is to be done about it; False if it was settled before."""
    return hub.metadata.transact(
        lambda _: hub.metadata.settle_dead_letter(letter, DeadLetterOutcome.DISCARDED, user_id, reason)
    )


def message_of(letter: DeadLetter) -> Mapping[str, Any]:
    """What to send so that the letter's task reads it as it was. Raises: LetterUnsendable."""
    if letter.task not in _TASKS:
        raise LetterUnsendable(letter.id, f"no task is called {letter.task}")
    entries = _LISTS.get(letter.task)
    if entries is not None and not (isinstance(letter.payload, dict) and entries in letter.payload):
        return {entries: [letter.payload]}
    if not isinstance(letter.payload, dict):
        raise LetterUnsendable(letter.id, "what was sent is no message, and would be refused again")
    return letter.payload
