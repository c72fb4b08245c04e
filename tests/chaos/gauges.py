"""What a run takes of the machine, looked at all the while: workers' memory, the broker's, and what waits there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from fedqueue.messages.names import QUEUES, UPDATES_QUEUE
from tests.chaos.fleet import Fleet
from worker.bootstrap import HubCelery

_MIB = 1 << 20
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """One look."""

    workers_mib: float  # anonymous memory of all workers' processes: what is theirs alone
    broker_mib: float
    waiting: dict[str, int]


class Gauges(threading.Thread):
    """Looks twice a second until stopped."""

    def __init__(self, fleet: Fleet, broker_pid: int) -> None:
        super().__init__(name="chaos-gauges", daemon=True)
        self.readings: list[Reading] = []
        self._fleet = fleet
        self._broker_pid = broker_pid
        self._ending = threading.Event()

    def run(self) -> None:
        """Look, and again."""
        with HubCelery(self._fleet.settings) as app:
            while not self._ending.wait(_LOOK_SECONDS):
                processes = [*self._fleet.parents(), *self._fleet.pool()]
                workers = sum(_anonymous(pid) for pid in processes) / _MIB
                self.readings.append(Reading(workers, _resident(self._broker_pid) / _MIB, waiting_in(app)))

    def stop(self) -> None:
        """Look no more."""
        self._ending.set()
        self.join()

    def workers_mib(self) -> tuple[float, float]:
        """The workers' memory: the median of the first third of the looks, and of the last."""
        third = max(1, len(self.readings) // 3)
        first, last = self.readings[:third], self.readings[-third:]
        return median(r.workers_mib for r in first), median(r.workers_mib for r in last)

    def most_waiting(self) -> int:
        """The longest that the queue of updates was."""
        return max(reading.waiting[UPDATES_QUEUE] for reading in self.readings)

    def broker_peak_mib(self) -> float:
        """The most that the broker had."""
        return max(reading.broker_mib for reading in self.readings)


@contextmanager
def gauged(fleet: Fleet, broker_pid: int) -> Iterator[Gauges]:
    """Looked at until the block ends."""
    gauges = Gauges(fleet, broker_pid)
    gauges.start()
    try:
        yield gauges
    finally:
        gauges.stop()


def waiting_in(app: HubCelery) -> dict[str, int]:
    """How many messages wait in each of the hub's queues."""
    found = dict.fromkeys(QUEUES, 0)
    with app.connection_for_read() as connection:
        for name in found:
            with contextlib.suppress(*connection.channel_errors), connection.channel() as channel:
                found[name] = channel.queue_declare(queue=name, passive=True).message_count
    return found


def nothing_waits(app: HubCelery, seconds: float) -> None:
    """Return once every queue is empty. Raises: AssertionError."""
    deadline = time.monotonic() + seconds
    while any(waiting := waiting_in(app).values()):
        assert time.monotonic() < deadline, f"after {seconds} s there still wait {list(waiting)}"
        time.sleep(0.2)


def _anonymous(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


def _resident(pid: int) -> int:
    found = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += process.memory_info().rss
    return found
