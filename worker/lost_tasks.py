"""A killed pool process's task goes back to the broker within a second, instead of within seven.

The pool waits `worker_lost_wait` for a last word of the dead process, which may lie in a pipe, and gives the task
back when it looks again after that: every five seconds, or when the next process dies. Until then the task is nobody's
and its worker is short of a place.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from celery import bootsteps

LOOK_SECONDS: Final = 0.5


class LostTasks(bootsteps.StartStopStep):
    """Has the prefork pool look for them every half second. A step of the worker's."""

    requires: ClassVar[set[str]] = {"celery.worker.components:Pool"}

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._looking: Any = None

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Begin to look; called again after each loss of the broker."""
        if self._looking is not None:
            self._looking.cancel()
        look = getattr(worker.pool, "maintain_pool", None)  # a pool of one process has none to lose
        self._looking = None if look is None else hub.call_repeatedly(LOOK_SECONDS, look)
