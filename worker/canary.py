"""The task that proves a worker's pool alive: an answer to it comes from a pool process, not from the main loop."""

from __future__ import annotations

import os
import socket

from celery import shared_task

from fedqueue.messages.names import MAINTENANCE_CANARY


@shared_task(name=MAINTENANCE_CANARY, ignore_result=False, acks_late=False)
def canary() -> dict[str, object]:
    """Say which process answers. Touches nothing: a worker does not die of its database being away."""
    return {"pid": os.getpid(), "host": socket.gethostname()}
