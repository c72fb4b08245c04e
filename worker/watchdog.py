"""The canary from within: a worker whose pool no longer begins tasks ends by itself, so that it is started anew.

A prefork pool can hang while its worker's main loop answers every ping, after a kill of idle processes for one. Whoever
restarts what has ended (`up`, compose's restart policy, systemd) then does the rest. What is no hang does not count: a
broker that is away, a worker that looks for it, a machine that was stopped, aggregations in every process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any, Final

import structlog
from celery import Celery
from celery.utils.nodenames import worker_direct
from celery.worker import state
from kombu.exceptions import KombuError

from fedqueue.messages.names import MAINTENANCE_CANARY
from worker.redelivery import give_back

log = structlog.get_logger(__name__)

# The exit code of a worker that ends so: sysexits.h calls it an internal error of the software.
EXIT_HUNG: Final = 70

_LOOKS: Final = 3  # within its patience: the last canary must have had time to be answered
_LAST_RESORT_SECONDS: Final = 15


class Silence:
    """For how long canaries have waited without an excuse; times are this process's monotonic seconds.

    Two ways to be silent: a canary was taken by the worker and no process begins it, or none is even taken.
    """

    def __init__(self, patience: float, now: float) -> None:
        self._patience = patience
        self._excused_at = now
        self._heard_at = now
        self._waiting: dict[str, float] = {}

    def excuse(self, now: float) -> None:
        """Up to now there was a reason: patience begins anew."""
        self._excused_at = now

    def taken(self, canary: str, now: float) -> None:
        """The worker took this canary from its queue."""
        self._heard_at = now
        self._waiting[canary] = now

    def begun(self, canary: str) -> None:
        """A process of the pool began it."""
        self._waiting.pop(canary, None)

    def overdue(self, now: float) -> str:
        """Why the pool is held to be hung, for people; empty if it is not."""
        # One that was never begun is dropped only with its worker: the oldest tells for how long nobody begins it.
        if self._waiting and now - max(min(self._waiting.values()), self._excused_at) > self._patience:
            return f"a canary was taken and no process of the pool has begun it for {self._patience:g} s"
        if now - max(self._heard_at, self._excused_at) > self._patience:
            return f"the worker has taken no canary from its queue for {self._patience:g} s, and the broker answers"
        return ""


class Watchdog(threading.Thread):
    """Sends canaries to its own worker's queue, and ends the worker when they stay unanswered for `patience` seconds.

    `consumer` is Celery's, of a prefork worker that is ready. It runs in the worker's parent, as the sweeper does.
    """

    def __init__(self, app: Celery, consumer: Any, patience: float) -> None:
        super().__init__(name="fedqueue-watchdog", daemon=True)
        self._app = app
        self._consumer = consumer
        self._pause = patience / _LOOKS
        self._ending = threading.Event()
        self._guard = threading.Lock()
        self._requests: dict[str, Any] = {}
        self._silence = Silence(patience, time.monotonic())

    def received(self, request: Any) -> None:
        """Hear of a request that the worker took from a queue; called in its main loop."""
        if request.name == MAINTENANCE_CANARY:
            with self._guard:
                self._requests[request.id] = request
                self._silence.taken(request.id, time.monotonic())

    def run(self) -> None:
        """Watch until told to stop, or until the pool is found hung: then this process is over."""
        before = time.monotonic()
        while not self._ending.wait(self._pause):
            takes = self._broker_takes_a_canary()
            now = time.monotonic()
            # Stopped, or so busy that a thread which sleeps comes late: no more can be asked of the pool.
            was_late = now - before > 2 * self._pause
            before = now
            with self._guard:
                self._hear()
                if not takes or was_late or not self._is_consuming() or self._is_at_work():
                    self._silence.excuse(now)
                why = self._silence.overdue(now)
            if why and not self._ending.is_set():
                self._leave(why)

    def stop(self) -> None:
        """End it; returns at once."""
        self._ending.set()

    def _hear(self) -> None:
        for ident, request in list(self._requests.items()):
            # Set when a pool process says that it has begun.
            if request.time_start is not None:
                self._silence.begun(ident)
                del self._requests[ident]

    def _broker_takes_a_canary(self) -> bool:
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._pause)
                self._app.send_task(
                    MAINTENANCE_CANARY,
                    queue=worker_direct(self._consumer.hostname),
                    connection=connection,
                    # One that is taken much later tells nothing of today.
                    expires=self._pause * _LOOKS,
                    retry=False,
                    ignore_result=True,
                )
            except (OSError, KombuError, *connection.connection_errors, *connection.channel_errors):
                return False
        return True

    def _is_consuming(self) -> bool:
        """Whether the worker is past its (re)connecting, during which it takes nothing."""
        return bool(self._consumer.blueprint.started == len(self._consumer.steps))

    def _is_at_work(self) -> bool:
        """Whether every process is at a task, none for longer than it may: nobody is free for a canary."""
        try:
            begun = [request.time_start for request in state.active_requests if request.time_start is not None]
        except RuntimeError:
            return True  # the set grew meanwhile: a process has begun a task just now
        if len(begun) < self._consumer.pool.num_processes:
            return False
        return bool(time.time() - min(begun) <= self._app.conf.task_time_limit)

    def _leave(self, why: str) -> None:
        # Should anything below hang as the pool does, the kernel ends this process all the same, by SIGALRM.
        signal.alarm(_LAST_RESORT_SECONDS)
        pool = self._consumer.pool.info["processes"]
        log.critical("watchdog.leaving", reason=why, pool=pool, exit_code=EXIT_HUNG)
        for pid in pool:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Only now, when nobody works at them any more.
        given_back = give_back(self._app, self._consumer.task_consumer)
        log.critical("watchdog.left", given_back=given_back)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_HUNG)
