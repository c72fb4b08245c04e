"""Workers as production runs them, and a supervisor that starts again what dies."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from config.settings import Settings
from worker.bootstrap import HubCelery, build_metadata
from worker.children import Child
from worker.health import check_workers
from worker.plan import process_environment, worker_command

_START_SECONDS = 60.0


class Fleet:
    """Prefork workers of one hub: `celery -A worker worker`, each restarted at once when it has ended."""

    def __init__(self, settings: Settings, logs: Path, workers: int, variables: Mapping[str, str]) -> None:
        self.settings = settings
        self.logs = logs
        self.names = [f"chaos{number}@localhost" for number in range(1, workers + 1)]
        environment = process_environment(settings) | dict(variables)
        self._children = [
            Child(name, "worker", worker_command(["--hostname", name]), environment, logs / f"{name}.log")
            for name in self.names
        ]
        self._ending = threading.Event()
        self._logged: dict[str, int] = {}  # bytes of its log that were there when a worker was started
        self._ready: dict[str, int] = {}  # process ids of those that have said so since
        # It starts them itself: the kernel ends a child with the thread that started it.
        self._supervisor = threading.Thread(target=self._supervise, name="chaos-supervisor", daemon=True)

    def start(self) -> None:
        """Return when every worker's pool answers. Raises: AssertionError with their logs."""
        self._supervisor.start()
        deadline = time.monotonic() + _START_SECONDS
        with HubCelery(self.settings) as app:
            while not all(report.is_well for report in check_workers(app, self.names, 5.0)):
                assert time.monotonic() < deadline, f"the workers did not come up:\n{self.said()[-4000:]}"

    def stop(self) -> None:
        """End all of them by force."""
        self._ending.set()
        self._supervisor.join()

    @property
    def restarts(self) -> int:
        """How many times a worker was started again."""
        return sum(child.restarts for child in self._children)

    def parents(self) -> list[int]:
        """Process ids of the workers that run."""
        return [child.pid for child in self._children if child.ended is None and child.pid is not None]

    def ready(self) -> list[int]:
        """Process ids of the workers that run and have come up: a process that dies earlier takes its worker along."""
        for child in self._children:
            if child.pid is not None and self._ready.get(child.name) != child.pid and self._has_come_up(child):
                self._ready[child.name] = child.pid
        return [pid for pid in self.parents() if pid in self._ready.values()]

    def _has_come_up(self, child: Child) -> bool:
        with contextlib.suppress(FileNotFoundError), child.log.open("rb") as log:
            log.seek(self._logged.get(child.name, 0))
            return b" ready." in log.read()
        return False

    def pool(self, parents: Sequence[int] | None = None) -> list[int]:
        """Process ids of their pools' processes; all of them, or those of some."""
        found = []
        for parent in self.parents() if parents is None else parents:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process.pid for process in psutil.Process(parent).children()]
        return found

    def said(self) -> str:
        """All that the workers have logged."""
        return "\n".join(log.read_text(errors="replace") for log in sorted(self.logs.glob("*.log")))

    def _supervise(self) -> None:
        for child in self._children:
            self._start(child)
        while not self._ending.wait(0.05):
            for child in self._children:
                if child.ended is not None:
                    child.restarts += 1
                    self._start(child)
        for child in self._children:
            child.kill_family()

    def _start(self, child: Child) -> None:
        logged = child.log.stat().st_size if child.log.exists() else 0
        self._logged[child.name] = logged
        child.start()
        # A long log was set aside.
        self._logged[child.name] = min(logged, child.log.stat().st_size)


@contextmanager
def fleet_running(
    settings: Settings, logs: Path, workers: int = 2, variables: Mapping[str, str] | None = None
) -> Iterator[Fleet]:
    """The schema made, the workers ready; ended by force with the block. `variables`: for their environment."""
    settings.home.mkdir(parents=True, exist_ok=True)
    metadata = build_metadata(settings)
    metadata.update_database()
    metadata.close()
    fleet = Fleet(settings, logs, workers, variables or {})
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()
