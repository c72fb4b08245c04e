"""Beat's clock."""

from __future__ import annotations

from celery.beat import Scheduler as CelerysScheduler

_LATE_SECONDS = 0.001


class Scheduler(CelerysScheduler):
    """Celery's, that wakes when a task is due.

    Celery's own wakes ten milliseconds before, and asks until then whether it is time, without a rest.
    """

    def adjust(self, n: float | None, drift: float = _LATE_SECONDS) -> float | None:
        """Seconds to rest, for that many until the next task."""
        return n + drift if n and n > 0 else n
