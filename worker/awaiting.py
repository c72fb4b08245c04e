"""The supervisor's ears: the first answer of every worker, and later whether their pools still answer."""

from __future__ import annotations

import threading
import time
from typing import Final

from celery.result import AsyncResult

from config.settings import Settings
from worker.bootstrap import HubCelery
from worker.errors import StartFailed
from worker.health import Health, HealthReport, broker_trouble, check_workers, embedded_worker_names, send_canary

_EVERY_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 8.0
# Silent twice in a row, about twenty seconds: one slow answer of a busy machine is no death.
_SILENT_TIMES: Final = 2


class Canaries:
    """One canary on its way to each worker; it waits in the worker's queue until the worker is there.

    Raises: StartFailed if there is no broker to send them to.
    """

    def __init__(self, settings: Settings) -> None:
        app = HubCelery(settings)
        trouble = broker_trouble(app)
        if trouble:
            raise StartFailed("the hub", trouble)
        self._waiting: dict[str, AsyncResult] = {
            name: send_canary(app, name, expires=600.0) for name in embedded_worker_names(settings)
        }

    def all_answered(self, seconds: float) -> bool:
        """Whether, within that time, every worker has answered."""
        deadline = time.monotonic() + seconds
        while self._waiting:
            for name, canary in list(self._waiting.items()):
                if canary.ready():
                    del self._waiting[name]
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        return not self._waiting

    @property
    def silent(self) -> list[str]:
        """The names of those that have not answered."""
        return sorted(self._waiting)


class PoolWatch(threading.Thread):
    """Sends canaries all the while, and remembers whose pool has stopped answering."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="fedqueue-pool-watch", daemon=True)
        self._settings = settings
        self._ending = threading.Event()
        self._hung: set[str] = set()
        self._guard = threading.Lock()

    def run(self) -> None:
        """Watch until told to stop. A broker that is away says nothing about any worker."""
        silent: dict[str, int] = {}
        while not self._ending.wait(_EVERY_SECONDS):
            for report in self._reports():
                name = report.worker.partition("@")[0]
                silent[name] = silent.get(name, 0) + 1 if report.health is Health.SILENT else 0
                if silent[name] >= _SILENT_TIMES:
                    silent[name] = 0
                    with self._guard:
                        self._hung.add(name)

    def _reports(self) -> list[HealthReport]:
        # A new application each time: one whose result store went away for a while never finds back.
        with HubCelery(self._settings) as app:
            return check_workers(app, embedded_worker_names(self._settings), _ANSWER_SECONDS)

    def hung(self) -> set[str]:
        """Names found hung since the last call."""
        with self._guard:
            found, self._hung = self._hung, set()
        return found

    def stop(self) -> None:
        """Stop watching; returns at once."""
        self._ending.set()
