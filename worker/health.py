"""Whether a worker's pool is alive: a canary task sent to that worker alone, and answered from its pool in time.

A worker whose pool has died can still answer a ping from its main loop, so a ping proves nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as NoAnswer
from celery.result import AsyncResult
from celery.utils.nodenames import worker_direct
from kombu.exceptions import KombuError

from config.secrets import masked
from config.settings import Settings
from fedqueue.messages.names import MAINTENANCE_CANARY


class Health(StrEnum):
    """What was found of a worker."""

    ALIVE = "alive"  # its pool answered
    BUSY = "busy"  # all its processes are at work, none for longer than it may
    SILENT = "silent"  # nothing answered
    UNREACHABLE = "unreachable"  # the broker did not take the question


@dataclass(frozen=True)
class HealthReport:
    """One worker's health, and how it was told."""

    worker: str
    health: Health
    detail: str

    @property
    def is_well(self) -> bool:
        """Whether the worker needs nobody's help."""
        return self.health in (Health.ALIVE, Health.BUSY)


def default_worker_name(host: str | None = None) -> str:
    """The name of a worker that was given none."""
    return f"celery@{host or socket.gethostname()}"


def embedded_worker_names(settings: Settings) -> tuple[str, ...]:
    """The names of the workers that `up` runs on this machine."""
    return tuple(f"worker{number}@{socket.gethostname()}" for number in range(1, settings.embedded_workers + 1))


def send_canary(app: Celery, worker: str, expires: float) -> AsyncResult:
    """A canary on its way to the worker's own queue. Raises what the broker raises."""
    return app.send_task(MAINTENANCE_CANARY, queue=worker_direct(worker), expires=expires, ignore_result=False)


def broker_trouble(app: Celery, seconds: float = 3.0) -> str:
    """Why the broker can't be used, for people; empty if it can."""
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=seconds)
        except _errors_of(connection) as error:
            return f"the broker {masked(app.conf.broker_url)} does not answer: {masked(str(error))}"
    return ""


def check_workers(app: Celery, workers: Sequence[str], seconds: float) -> list[HealthReport]:
    """The health of each worker, all within about `seconds` (and two more where one is silent)."""
    trouble = broker_trouble(app, seconds)
    if trouble:
        return [HealthReport(worker, Health.UNREACHABLE, trouble) for worker in workers]
    started = time.monotonic()
    try:
        canaries = [(worker, send_canary(app, worker, seconds)) for worker in workers]
        return [_report(app, worker, canary, started, seconds) for worker, canary in canaries]
    except _errors_of(app.backend) as error:
        reason = f"the broker or the result store: {masked(str(error)).strip()}"
        return [HealthReport(worker, Health.UNREACHABLE, reason) for worker in workers]


def _report(app: Celery, worker: str, canary: AsyncResult, started: float, seconds: float) -> HealthReport:
    left = max(0.01, started + seconds - time.monotonic())
    try:
        answer = canary.get(timeout=left, disable_sync_subtasks=False)
    except (NoAnswer, TaskRevokedError):
        # Revoked: the worker came to the question when nobody waited any more, as one does that has just started.
        canary.forget()
        return _silent_or_busy(app, worker, seconds)
    took = time.monotonic() - started
    return HealthReport(worker, Health.ALIVE, f"process {answer['pid']} answered within {took * 1000:.0f} ms")


def _silent_or_busy(app: Celery, worker: str, seconds: float) -> HealthReport:
    """A pool with every process at a long aggregation can't answer, and is well, while none exceeds its limit."""
    asked = app.control.inspect(destination=[worker], timeout=2.0)
    active: list[dict[str, Any]] | None = (asked.active() or {}).get(worker)
    if active:
        pool = ((asked.stats() or {}).get(worker) or {}).get("pool", {})
        longest = time.time() - min(float(task["time_start"] or time.time()) for task in active)
        if len(active) >= pool.get("max-concurrency", 1) and longest <= app.conf.task_time_limit:
            return HealthReport(worker, Health.BUSY, f"{len(active)} tasks under way, the longest for {longest:.0f} s")
    return HealthReport(worker, Health.SILENT, f"no process of its pool answered within {seconds:g} s")


def _errors_of(line: Any) -> tuple[type[Exception], ...]:
    """What a broker's connection, or a result backend, raises when nobody is there."""
    # RuntimeError is what Celery's Redis backend makes of a result store that is away.
    return (OSError, RuntimeError, KombuError, *getattr(line, "connection_errors", ()))
