"""The sweep that needs no beat: every worker asks for one, so that none or two beats are harmless."""

from __future__ import annotations

import random
import threading
from typing import Final

import structlog
from celery import Celery
from kombu.exceptions import KombuError

from config.celery import MAINTENANCE_OUTBOX, ROUNDS_POLL, SWEEP_EXPIRES_SECONDS

log = structlog.get_logger(__name__)

_JITTER: Final = 0.4
_LONGEST_PAUSE: Final = 30.0


class Sweeper(threading.Thread):
    """Asks for the rounds that are due and the follow-ups that wait, at least every `seconds`, until told to stop.

    It has a connection of its own: a fork of the pool then finds no shared one in the middle of a sentence.
    """

    def __init__(self, app: Celery, seconds: float) -> None:
        super().__init__(name="fedqueue-sweeper", daemon=True)
        self._app = app
        self._seconds = seconds
        self._ending = threading.Event()

    def run(self) -> None:
        """Sweep until told to stop; a broker that is away only makes the pauses longer."""
        failures = 0
        while not self._ending.wait(self._pause(failures)):
            try:
                self._sweep()
            except OSError as error:
                failures += 1
                # Said when it begins and then ever more rarely: an outage must not fill the log.
                if failures & (failures - 1) == 0:
                    log.warning("the broker does not take the sweep", error=str(error), failures=failures)
            else:
                if failures:
                    log.info("the broker takes the sweep again", failures=failures)
                failures = 0

    def stop(self) -> None:
        """End it; returns at once."""
        self._ending.set()

    def _pause(self, failures: int) -> float:
        seconds = min(self._seconds * 2.0 ** min(failures, 16), max(self._seconds, _LONGEST_PAUSE))
        # So that many workers started together do not ask all at once for ever.
        return seconds * random.uniform(1 - _JITTER, 1)  # noqa: S311  # no secret

    def _sweep(self) -> None:
        """Raises: OSError, whatever the transport calls it."""
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
                for task in (ROUNDS_POLL, MAINTENANCE_OUTBOX):
                    self._app.send_task(
                        task,
                        args=[{}],
                        connection=connection,
                        expires=SWEEP_EXPIRES_SECONDS,
                        retry=False,
                        ignore_result=True,
                    )
            except (KombuError, *connection.connection_errors, *connection.channel_errors) as error:
                raise ConnectionError(str(error)) from error
