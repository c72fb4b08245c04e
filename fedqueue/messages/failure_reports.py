"""A failed run's last words, cut to the limits instead of refused: a report is worth more than its form.

Client and hub cut alike, so that a report counts as the same wherever it was cut. Whatever else is wrong with one, such
as its ids, is refused as of any other event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from fedqueue.messages.events import MAX_CLIENT_NAME, MAX_LOG_CHARACTERS, Round, check_details, check_round

NO_TEXT: Final = "[no text]"  # str(error) of many an exception is empty

_ROOM_FOR_THE_GAP: Final = 50
_SUCCESS: Final = TypeAdapter(bool)
_ROUND: Final = TypeAdapter(Round)
_DETAILS: Final = TypeAdapter(dict[str, JsonValue])


def cut_failure_report(fields: object) -> dict[str, Any] | None:
    """The fields of a report as they can be kept; None if they are no report: no free text, or `success` not False.

    Of text over its limit head and tail stay, of a sender's name the head; a round outside its bounds is left out, and
    details that are too large, or no JSON, say how many bytes they took.
    """
    if not isinstance(fields, Mapping) or not _is_report(fields):
        return None
    report = {**fields, "log": _cut_text(fields["log"])}
    name = fields.get("fl_client_name")
    if isinstance(name, str):
        report["fl_client_name"] = _cut_name(name) or None
    if not _is_round(fields.get("global_round")):
        del report["global_round"]
    details = fields.get("details", {})
    if not _is_small(details):
        report["details"] = left_out(details)
    return report


def left_out(details: object) -> dict[str, JsonValue]:
    """What stands in the place of details that can't be kept."""
    try:
        text = json.dumps(details, separators=(",", ":"), ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return {"left_out": "details that are no JSON"}
    return {"left_out": f"details of {len(text.encode(errors='backslashreplace'))} bytes"}


def _is_report(fields: Mapping[Any, Any]) -> bool:
    if not isinstance(fields.get("log"), str) or fields.get("event_type") or fields.get("metric"):
        return False
    try:
        return not _SUCCESS.validate_python(fields.get("success", True))
    except ValidationError:
        return False


def _cut_text(text: str) -> str:
    text = _storable(text) or NO_TEXT
    if len(text) <= MAX_LOG_CHARACTERS:
        return text
    # A traceback begins with where it came from and ends with what went wrong.
    head = (MAX_LOG_CHARACTERS - _ROOM_FOR_THE_GAP) // 2
    return f"{text[:head]}\n[… {len(text) - 2 * head} characters left out …]\n{text[-head:]}"


def _cut_name(name: str) -> str:
    name = _storable(name)
    # The mark also keeps what is left of a name from being somebody else's.
    return name if len(name) <= MAX_CLIENT_NAME else f"{name[: MAX_CLIENT_NAME - 1]}…"


def _is_round(value: object) -> bool:
    if value is None:
        return True
    try:
        check_round(_ROUND.validate_python(value), None)
    except ValueError:
        return False
    return True


def _is_small(details: object) -> bool:
    try:
        check_details(_DETAILS.validate_python(details))
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _storable(text: str) -> str:
    """The text with what no database keeps, a NUL or half a surrogate pair, spelt out."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
