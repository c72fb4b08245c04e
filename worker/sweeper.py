"""The sweep that needs no beat: every worker asks for one, so that none or two beats are harmless."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Final

import structlog
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import KombuError

from config.celery import MAINTENANCE_OUTBOX, ROUNDS_POLL, SWEEP_EXPIRES_SECONDS

log = structlog.get_logger(__name__)

_SWEEPS: Final = (ROUNDS_POLL, MAINTENANCE_OUTBOX)
_JITTER: Final = 0.4
_LONGEST_PAUSE: Final = 30.0


class Sweeper(threading.Thread):
    """Asks for the rounds that are due and the follow-ups that wait, at least every `seconds`, until told to stop.

    A sweep that the worker was given, by beat or another worker's sweeper, puts its own off. It has a connection of its
    own, and keeps it: a fork of the pool then finds no shared one in the middle of a sentence.
    """

    def __init__(self, app: Celery, seconds: float) -> None:
        super().__init__(name="fedqueue-sweeper", daemon=True)
        self._app = app
        self._seconds = seconds
        self._ending = threading.Event()
        self._failures = 0
        self._connection: Connection | None = None
        self._due: dict[str, float] = {}
        for task in _SWEEPS:
            self._put_off(task)

    def received(self, task: str) -> None:
        """Hear of a task that the worker took from a queue; called in its main loop."""
        if task in self._due:
            self._failures = 0  # the broker is there
            self._put_off(task)

    def run(self) -> None:
        """Sweep until told to stop; a broker that is away only makes the pauses longer."""
        while not self._ending.wait(max(0.0, min(self._due.values()) - time.monotonic())):
            due = [task for task, when in self._due.items() if when <= time.monotonic()]
            try:
                if due:
                    self._ask_for(due)
            except OSError as error:
                self._failures += 1
                # Said when it begins and then ever more rarely: an outage must not fill the log.
                if self._failures & (self._failures - 1) == 0:
                    log.warning("the broker does not take the sweep", error=str(error), failures=self._failures)
            else:
                if due and self._failures:
                    log.info("the broker takes the sweep again", failures=self._failures)
                    self._failures = 0
            for task in due:
                self._put_off(task)
        self._hang_up()

    def stop(self) -> None:
        """End it; returns at once."""
        self._ending.set()

    def _put_off(self, task: str) -> None:
        seconds = min(self._seconds * 2.0 ** min(self._failures, 16), max(self._seconds, _LONGEST_PAUSE))
        # So that many workers started together do not ask all at once for ever.
        self._due[task] = time.monotonic() + seconds * random.uniform(1 - _JITTER, 1)  # noqa: S311  # no secret

    def _ask_for(self, tasks: Sequence[str]) -> None:
        """Raises: OSError, whatever the transport calls it."""
        is_kept = self._connection is not None
        try:
            self._send(tasks)
        except OSError:
            if not is_kept:
                raise
            # A broker that was restarted meanwhile: on some transports only sending finds that out.
            self._send(tasks)

    def _send(self, tasks: Sequence[str]) -> None:
        connection = self._connection = self._connection or self._app.connection_for_write()
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            for task in tasks:
                self._app.send_task(
                    task,
                    args=[{}],
                    connection=connection,
                    expires=SWEEP_EXPIRES_SECONDS,
                    retry=False,
                    ignore_result=True,
                )
        except (KombuError, *connection.connection_errors, *connection.channel_errors) as error:
            self._hang_up()
            raise ConnectionError(str(error)) from error

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()  # type: ignore[no-untyped-call]
