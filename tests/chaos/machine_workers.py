"""Workers of the domain's machine: what becomes of one, one that sleeps, and what all of them have come to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.failpoints import SUSPENDABLE, Failpoint, Life

_PATIENCE: Final = 60.0  # seconds that a sleeper may take to come to its next stop


@dataclass
class Fate:
    """What becomes of the worker that a message is delivered to."""

    dies_after: int | None = None  # failpoints; None: it lives
    dies_at: Failpoint | None = None
    sleeps_after: int | None = None  # failpoints amid a round; None: it does not
    sleeps_at: Failpoint | None = None
    fault: str | None = None  # of the store, or of the round: away, corrupt, few


@dataclass
class Tally:
    """What was reached and done, over all examples of a run."""

    points: Counter[Failpoint] = field(default_factory=Counter)  # reached
    deaths: Counter[Failpoint] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.points.clear()
        self.deaths.clear()
        self.outcomes.clear()
        self.steps = 0

    @property
    def crashes(self) -> int:
        """How many workers have died."""
        return self.deaths.total()


class Sleeper(threading.Thread):
    """A worker with a thread of its own, because it stops amid its work and goes on later."""

    def __init__(self, work: Callable[[Life], None], counts: Counter[Failpoint], fate: Fate) -> None:
        super().__init__(name="sleeper", daemon=True)
        self.fate = fate
        self.is_done = False
        self.count = 0  # of the failpoints since it went on, or amid a round before it sleeps
        self._work = work
        self._stopped = threading.Event()
        self._going = threading.Event()
        self._ended = False
        self._failure: BaseException | None = None
        self._life = Life(counts, self._dies, sleeps=self._sleep)

    def go_on(self) -> None:
        """Return when it sleeps, or is done. Raises what it raised."""
        self._stopped.clear()
        if self.ident is None:
            self.start()
        else:
            self._going.set()
        assert self._stopped.wait(_PATIENCE), "a sleeper does not come to an end"
        if self._failure is not None:
            raise self._failure
        if self.is_done:
            self.join()

    def end(self) -> None:
        """It never goes on."""
        self._ended = True
        if not self.is_done:
            self.go_on()

    def run(self) -> None:
        """Work, and stop where it is its fate."""
        try:
            self._work(self._life)
        except BaseException as error:  # noqa: BLE001  # raised where it was let go on
            self._failure = error
        self.is_done = True
        self._stopped.set()

    def _sleep(self, point: Failpoint) -> None:
        fate = self.fate
        if point not in SUSPENDABLE or (fate.sleeps_after is None and fate.sleeps_at is None):
            return
        self.count += 1
        if point is fate.sleeps_at or (fate.sleeps_after is not None and self.count > fate.sleeps_after):
            self._going.clear()
            self._stopped.set()
            self._going.wait()

    def _dies(self, point: Failpoint) -> bool:
        fate = self.fate
        if self._ended or point is fate.dies_at:
            return True
        if fate.sleeps_after is not None or fate.sleeps_at is not None:
            return False
        self.count += 1
        return fate.dies_after is not None and self.count > fate.dies_after
