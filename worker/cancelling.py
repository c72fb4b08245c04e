"""Tasks whose cancellation never costs their message.

When a worker's connection to the broker breaks, Celery cancels the tasks that it can't acknowledge any more, for the
broker to deliver them again. But one that was handed to a process and not begun yet it takes for revoked when it ends,
and acknowledges it, over the next connection if need be: a message that nobody waits for is lost so.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.worker.request import Request


class KeptRequest(Request):
    """One that is cancelled for its broker's sake, whether it was begun or not."""

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End it without a word to the broker, which delivers its message again."""
        # What on_failure asks before it announces a revocation. Celery sets it for those alone that were begun, and
        # whose cancellation could be written down: in a result store that went away with the broker it can't.
        self._already_cancelled = True
        super().cancel(pool, signal, emit_retry)


class HubTask(Task):
    """The base of every task here."""

    abstract = True
    Request = f"{KeptRequest.__module__}:{KeptRequest.__qualname__}"
