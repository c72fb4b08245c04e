"""What every database can keep: JSON may carry text and numbers that PostgreSQL refuses to store.

And kombu's JSON carries more than JSON: `{"__type__": "bytes", …}` arrives as bytes, and so do dates, UUIDs, decimals.
"""

from __future__ import annotations

import math
from typing import Any, Final

_DEEPEST: Final = 100  # levels; far more than any message of ours has, far less than Python's stack

UNSTORABLE: Final = (
    f"text with a NUL or half a surrogate pair in it, bytes that are no text, or more than {_DEEPEST} levels, "
    "can't be kept"
)


def find_unstorable_text(value: Any, path: str = "", depth: int = 0) -> str | None:
    """The dotted place of text with a NUL or half a surrogate pair in it, of bytes or too many levels; else None."""
    if isinstance(value, str):
        return None if _is_storable(value) else path
    if isinstance(value, bytes):  # which pydantic would read as text, unlooked at
        return path
    if depth > _DEEPEST and isinstance(value, dict | list):
        return path
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _is_storable(str(key)):
                return path or "(a field's name)"
            if _is_plain(inner):
                continue
            found = find_unstorable_text(inner, f"{path}.{key}" if path else str(key), depth + 1)
            if found is not None:
                return found
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            if _is_plain(inner):
                continue
            found = find_unstorable_text(inner, f"{path}.{position}", depth + 1)
            if found is not None:
                return found
    return None


def _is_plain(value: Any) -> bool:
    """Whether the value is none that would have to be looked into: most of a message's are."""
    if isinstance(value, str):
        return _is_storable(value)
    return value is None or isinstance(value, int | float)


def _is_storable(text: str) -> bool:
    # Nearly every text of a message is ASCII, which is told at a glance.
    return "\0" not in text and (text.isascii() or _storable_text(text) == text)


def storable(value: Any, depth: int = 0) -> Any:
    """The value with what can't be stored spelt out: for keeping a refused message, not for working with it."""
    if isinstance(value, str):
        return _storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if depth > _DEEPEST and isinstance(value, dict | list | tuple):
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {_storable_text(str(key)): storable(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable(inner, depth + 1) for inner in value]
    return value if value is None or isinstance(value, int | float) else _storable_text(str(value))


def _storable_text(text: str) -> str:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
