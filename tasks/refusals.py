"""How often this process tells of what limits refuse: a flood of messages must not become a flood of letters."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

_TELL_EVERY: Final = 60.0  # seconds
_MOST: Final = 10_000  # senders remembered; of who was forgotten, the next refusal is told


class Refusals:
    """Counts refusals by their subject. Of one process, and one thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when last, and how many since

    def count(self, subject: str) -> int | None:
        """How many refusals of the subject there were since the last that was told, if this one is to be; else None."""
        at, since = self._told.pop(subject, (None, 0))
        is_due = at is None or self._now() >= at + _TELL_EVERY
        self._told[subject] = (self._now(), 0) if is_due else (at or 0.0, since + 1)
        if len(self._told) > _MOST:
            self._told.popitem(last=False)
        return since + 1 if is_due else None
