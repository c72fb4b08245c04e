"""How people and callers name a model: by its UUID, or by its row's number. The one place that tells them apart."""

from __future__ import annotations

from typing import Final
from uuid import UUID

_LARGEST_ROW: Final = 2**63 - 1  # what the databases' integers hold
_DIGITS: Final = len(str(_LARGEST_ROW))


def read_model_id(named: UUID | int | str) -> UUID | int | None:
    """The UUID or the row's number that is meant; None if no model can be: neither, or a number that no row has.

    Digits are 0 to 9: `str.isdecimal` and `int` take those of every script. 32 of them are a UUID without its dashes.
    """
    if isinstance(named, str):
        if not named.isascii():
            return None
        if named.isdecimal() and len(named) <= _DIGITS:
            named = int(named)
        else:
            try:
                return UUID(named)
            except ValueError:
                return None
    return named if isinstance(named, UUID) or 1 <= named <= _LARGEST_ROW else None
