"""The real worker with one task more, that takes as long as it is told: `celery -A tests.slow_tasks worker`."""

from __future__ import annotations

import time

from worker.celery import app


@app.task(name="tests.sleep")
def sleep(seconds: float) -> None:
    """Take that long."""
    time.sleep(seconds)


__all__ = ["app"]
