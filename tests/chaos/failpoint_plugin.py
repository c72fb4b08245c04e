"""Failpoints in real workers: a plugin (FEDQUEUE_PLUGINS) that kills its own process where chance has it.

It is configured by the environment that `failpoint_environment` gives, and does nothing without. Each death is one
line, "name pid", in a file of the folder, written before the SIGKILL: `deaths` counts them. A point that has been died
at seldom is died at eagerly, so that in a short run every one gets its share.

What it takes to reach them: updates of safetensors and, for `submission.staged`, of inline JSON; events, metrics and
statuses of senders known and unknown (`events.*`, `status.*`, `dead_letter.*`), several at once (`events.before_ack`,
`events.acknowledged`); scores; `notify_task` set (`outbox.*`); the garbage task, with blobs that no row names and
`garbage_after_seconds` as short as a round is not; edits or clients (`change.*`).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from celery import signals
from celery.worker.request import Request

from connectors.errors import StoreUnavailable
from fedqueue.messages import names
from tests.chaos.failpoint_hooks import install
from tests.chaos.failpoints import ALL, SUSPENDABLE, Failpoint, act_everywhere, reach

PLUGIN: Final = "tests.chaos.failpoint_plugin"

_FOLDER: Final = "FAILPOINT_LOG"
_OFF: Final = "off"
_SLEPT: Final = "slept"
_DEATHS: Final = ".deaths"
_LOOK_AGAIN: Final = 0.2  # seconds

_LESS_EACH: Final = 0.67
# Come by so seldom that the others never wait for these: only who was held up amid a round renews its lease, and a
# look at a round is hardly ever in vain.
_ALWAYS_EAGER: Final = frozenset(
    {Failpoint.RENEWAL_BEFORE_COMMIT, Failpoint.RENEWED, Failpoint.RELEASE_BEFORE_COMMIT, Failpoint.RELEASED}
)

# A parent takes seconds to come back, and its whole pool with it.
_OF_PARENTS: Final = {Failpoint.BEFORE_ACK: 0.1}


def failpoint_environment(
    folder: Path,
    seed: int,
    *,
    probability: float = 0.01,
    eager: float = 0.3,
    enough: int = 5,
    points: tuple[Failpoint, ...] = ALL,
    sleep_probability: float = 0.0,
    sleep_seconds: float = 0.0,
    fault_probability: float = 0.01,
) -> dict[str, str]:
    """What the workers' environment needs beside FEDQUEUE_PLUGINS=PLUGIN.

    At a point of `points` they die with `eager` probability, a third less with every death there until `enough` have
    died, then with `probability`: so a point that comes late in a round is not starved by those before it. Amid a round
    they sleep `sleep_seconds` with `sleep_probability` (longer than the lease: zombies). The store fails a round with
    `fault_probability`, more often while that is what a point is waiting for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {
        _FOLDER: str(folder),
        "FAILPOINT_SEED": str(seed),
        "FAILPOINT_PROBABILITY": str(probability),
        "FAILPOINT_EAGER": str(eager),
        "FAILPOINT_ENOUGH": str(enough),
        "FAILPOINT_POINTS": ",".join(points),
        "FAILPOINT_SLEEP_PROBABILITY": str(sleep_probability),
        "FAILPOINT_SLEEP_SECONDS": str(sleep_seconds),
        "FAILPOINT_FAULTS": str(fault_probability),
    }


def deaths(folder: Path) -> Counter[str]:
    """How often workers have died so far, by failpoint."""
    lines = (path.read_text().splitlines() for path in folder.glob(f"*{_DEATHS}"))
    return Counter(line.partition(" ")[0] for some in lines for line in some)


def sleeps(folder: Path) -> int:
    """How often workers have slept so far."""
    path = folder / _SLEPT
    return len(path.read_text().splitlines()) if path.exists() else 0


def turn_off(folder: Path) -> None:
    """Nobody dies any more, so that all can come to rest."""
    (folder / _OFF).touch()


def turn_on(folder: Path) -> None:
    """The end of `turn_off`."""
    (folder / _OFF).unlink(missing_ok=True)


class Killer:
    """Kills this process now and then. It is asked in the worker's parent and in its pool's processes alike."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = Path(environment[_FOLDER])
        self._seed = environment["FAILPOINT_SEED"]
        self._probability = float(environment["FAILPOINT_PROBABILITY"])
        self._eager = float(environment["FAILPOINT_EAGER"])
        self._enough = int(environment["FAILPOINT_ENOUGH"])
        self._points = frozenset(environment["FAILPOINT_POINTS"].split(","))
        self._sleep_probability = float(environment["FAILPOINT_SLEEP_PROBABILITY"])
        self._sleep_seconds = float(environment["FAILPOINT_SLEEP_SECONDS"])
        self._faults = float(environment["FAILPOINT_FAULTS"])
        self._had: set[Failpoint] = set()  # those that enough have died at
        self._looked: dict[Failpoint, tuple[float, int]] = {}  # when, and how many had
        self._pid = 0
        self._draw = random.Random()

    def reached(self, point: Failpoint) -> None:
        """Die, sleep, or go on."""
        if (self._folder / _OFF).exists():
            return
        if point in self._points and self._chance(self._likely(point)):
            self._write(f"{point}{_DEATHS}", f"{point} {os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        if point in SUSPENDABLE and self._chance(self._sleep_probability):
            self._write(_SLEPT, f"{point} {os.getpid()}\n")
            time.sleep(self._sleep_seconds)
        if point is Failpoint.OPENED and self._chance(self._fault()):
            raise StoreUnavailable("a fault that the test has made")

    def alive(self) -> None:
        """Who is dead here asks nothing."""

    def hastens(self, point: Failpoint) -> bool:
        """Renewals, which short rounds do without, until they have been died at."""
        return self._waits_for(point) and self._chance(0.5)

    def _likely(self, point: Failpoint) -> float:
        lessened = 0 if point in _ALWAYS_EAGER else self._deaths(point)
        eager = self._eager * _LESS_EACH**lessened if self._waits_for(point) else 0.0
        return max(self._probability, eager) * _OF_PARENTS.get(point, 1.0)

    def _fault(self) -> float:
        waits = self._waits_for(Failpoint.GIVE_BACK_BEFORE_COMMIT) or self._waits_for(Failpoint.GIVEN_BACK)
        return max(self._faults, 0.1) if waits and self._faults else self._faults

    def _waits_for(self, point: Failpoint) -> bool:
        if point not in self._points or point in self._had:
            return False
        if self._deaths(point) >= self._enough:
            self._had.add(point)
            return False
        return True

    def _deaths(self, point: Failpoint) -> int:
        """How many have died there, by now or a moment ago."""
        looked, found = self._looked.get(point, (0.0, 0))
        if time.monotonic() - looked > _LOOK_AGAIN:
            path = self._folder / f"{point}{_DEATHS}"
            found = path.read_bytes().count(b"\n") if path.exists() else 0
            self._looked[point] = (time.monotonic(), found)
        return found

    def _chance(self, probability: float) -> bool:
        if self._pid != os.getpid():  # a fork must not draw what its siblings draw
            self._pid = os.getpid()
            self._draw = random.Random(f"{self._seed} {self._pid}")
        return self._draw.random() < probability

    def _write(self, name: str, line: str) -> None:
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, line.encode())
        os.close(handle)


def _watch_messages() -> None:
    """Reach the points at a message's end: in the pool when its work is done, in the parent before it is told so."""

    def done(task: Any = None, **_: Any) -> None:
        if task.name != names.MAINTENANCE_CANARY:
            reach(Failpoint.MESSAGE_DONE)

    signals.task_postrun.connect(done, weak=False)
    acknowledge = Request.acknowledge

    def acknowledged(self: Any) -> None:
        if self.name != names.MAINTENANCE_CANARY and not self.acknowledged:
            reach(Failpoint.BEFORE_ACK)
        acknowledge(self)

    Request.acknowledge = acknowledged


if _FOLDER in os.environ:
    install()
    act_everywhere(Killer(os.environ))
    _watch_messages()
