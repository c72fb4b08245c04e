"""What a feed's entries read like: display text, composed when it is read and never stored (DESIGN 8).

An entry keeps what was told; these are its words. Other words, or another language, then change every feed at once,
old entries too. Details come from outside and may be anything: a detail that makes no sense is left out of the
sentence, never a reason for it to be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from connectors.records import LogEntry

# In `details` of a ROUND_AGGREGATED that the hub counted itself: clients, who need not be trusts.
COUNTED: Final = "counted"
PARTICIPANTS: Final = "participants"

_STATUSES: Final = {
    "PENDING": "Waiting to begin",
    "INITIATED": "Run initiated",
    "PREPARED": "Run prepared",
    "TRAINING_STARTED": "Training started",
    "RUNNING": "Training started",
    "RESULTS_UPLOADED": "Results uploaded",
    "RESULTS_UPLOAD_FAILED": "Upload of the results failed",
    "ERROR": "Run ended with an error",
    "STOPPED": "Run stopped",
}
_LARGEST: Final = 2**63  # of a count or a size: beyond it, it is none


def render(entry: LogEntry) -> str:
    """The entry in words. Who sent it and whether it went well stand beside it, not in it.

    Free text comes back as it was sent. Never raises, whatever `details` holds.
    """
    if entry.event_type is None:
        return entry.log or ""
    details = entry.details if isinstance(entry.details, Mapping) else {}
    write = _WRITERS.get(entry.event_type)
    if write is not None:
        return write(entry.global_round, details)
    if entry.event_type in _STATUSES:
        return _with_reason(_STATUSES[entry.event_type], details)
    return _with_reason(_in_words(entry), details)


def readable_size(size_bytes: int) -> str:
    """A number of bytes as people read it, in powers of 1000: 812 B, 2.3 MB, 41 GB."""
    size, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        # What would round up to 1000 of a unit is one of the next.
        if size < (1000 if unit == "B" else 999.5):
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"


def _round_started(number: int | None, details: Mapping[str, Any]) -> str:
    total = _count(details.get("total_rounds"))
    if number is None or total is None or total < number:
        return f"{_round(number)} started"
    return f"Round {number} of {total} started"


def _result_received(number: int | None, details: Mapping[str, Any]) -> str:
    text = _of_round(number, "weights uploaded")
    size = _count(details.get("size_bytes"))
    return text if size is None else f"{text} · {readable_size(size)}"


def _round_aggregated(number: int | None, details: Mapping[str, Any]) -> str:
    text = f"{_round(number)} aggregated"
    returned, expected = _count(details.get("returned")), _count(details.get("expected"))
    if returned is None:
        return text
    noun = "participant" if details.get(COUNTED) == PARTICIPANTS else "trust"
    if expected is None or expected < returned:
        return f"{text} · {returned} {noun}{'' if returned == 1 else 's'} returned"
    return f"{text} · {returned} of {expected} {noun}{'' if expected == 1 else 's'} returned"


def _round_failed(number: int | None, details: Mapping[str, Any]) -> str:
    return _with_reason(f"{_round(number)} failed", details)


def _round_rescued(number: int | None, details: Mapping[str, Any]) -> str:
    text = f"{_round(number)} rescued from a worker that fell silent"
    returned = _count(details.get("num_updates"))
    return text if returned is None else f"{text} · {returned} update{'' if returned == 1 else 's'} taken back"


def _update_quarantined(number: int | None, details: Mapping[str, Any]) -> str:
    update_id = _count(details.get("update_id"))
    what = "update" if update_id is None else f"update {update_id}"
    text = _of_round(number, f"{what} set aside")
    code = _line(details.get("reason_code"))
    return _with_reason(f"{text} · {code}" if code else text, details)


def _client_dropped(number: int | None, details: Mapping[str, Any]) -> str:
    return _with_reason(_of_round(number, "dropped out"), details)


def _waiting_for_resources(_number: int | None, details: Mapping[str, Any]) -> str:
    return _with_reason("Waiting for resources", details)


def _queue_position(_number: int | None, details: Mapping[str, Any]) -> str:
    position, total = _count(details.get("position")), _count(details.get("total"))
    if position is None:
        return "Waiting in the queue"
    return f"Position {position} in the queue" + (f" of {total}" if total is not None and total >= position else "")


def _run_silent(_number: int | None, details: Mapping[str, Any]) -> str:
    since, timeout = _moment(details.get("since")), _count(details.get("silence_timeout"))
    text = "Given up: nothing was heard of the run" + (f" since {since}" if since else "")
    return text if timeout is None else f"{text} (it may be silent for {timeout} s)"


def _early_stop(number: int | None, details: Mapping[str, Any]) -> str:
    after = "" if number is None else f" after round {number}"
    return _with_reason(f"Stopped early{after}", details)


_WRITERS: Final[Mapping[str, Callable[[int | None, Mapping[str, Any]], str]]] = {
    "ROUND_STARTED": _round_started,
    "CLIENT_RESULT_RECEIVED": _result_received,
    "ROUND_AGGREGATED": _round_aggregated,
    "ROUND_FAILED": _round_failed,
    "ROUND_RESCUED": _round_rescued,
    "UPDATE_QUARANTINED": _update_quarantined,
    "CLIENT_DROPPED": _client_dropped,
    "JOB_WAITING_FOR_RESOURCES": _waiting_for_resources,
    "QUEUE_POSITION": _queue_position,
    "RUN_SILENT": _run_silent,
    "EARLY_STOP": _early_stop,
}


# --- parts of a sentence --------------------------------------------------------------------------


def _round(number: int | None) -> str:
    return "Round" if number is None else f"Round {number}"


def _of_round(number: int | None, what: str) -> str:
    """What happened in the round, if the entry has one; else only what."""
    return what[:1].upper() + what[1:] if number is None else f"Round {number} {what}"


def _in_words(entry: LogEntry) -> str:
    """A type that this hub has no sentence for: CLIENT_JOINED → "Client joined"."""
    words = " ".join((entry.event_type or "").replace("_", " ").split()).lower()
    text = words[:1].upper() + words[1:] or "Event"
    return text if entry.global_round is None else f"{text} · round {entry.global_round}"


def _with_reason(text: str, details: Mapping[str, Any]) -> str:
    reason = _line(details.get("reason"))
    return f"{text}: {reason}" if reason else text


def _line(value: Any) -> str:
    """Text as one line; anything else as none."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """A whole number from 0, also where JSON made it 4.0; else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        return None
    return value


def _moment(value: Any) -> str:
    """A time as JSON has it, to the second in UTC; other text as one line."""
    try:
        moment = datetime.fromisoformat(_line(value))
        # Without a zone it could be any: told as it was sent.
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment.tzinfo else _line(value)
    except (ValueError, OverflowError):
        return _line(value)
