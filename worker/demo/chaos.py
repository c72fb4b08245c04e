"""Kills a hub's workers with SIGKILL at random moments: pool processes, parents, whole trees.

A round of the demonstration is over in some milliseconds, and a kill at random would hardly ever meet one. So every
second kill waits for a round to begin, and strikes at whoever holds it, within the time that one takes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 2.0

_LONGEST_WAIT: Final = 3.0
_ROUND_SECONDS: Final = 0.01
# A batch that has crashed often is taken for poisoned, and halved: that is another story than this one's.
_MOST_IN_ONE_ROUND: Final = 1

# A parent takes two seconds to come back, and longer each time: more of its deaths would only show waiting.
_TARGETS: Final = (*["child"] * 8, "parent", "tree")


class Chaos(threading.Thread):
    """Kills until stopped. `worker_pids()` says which workers live; `round_under_way()`, which round is claimed at
    that moment and by which pool process, if one is.
    """

    def __init__(
        self, worker_pids: Callable[[], Sequence[int]], round_under_way: Callable[[], tuple[int, int] | None], seed: int
    ) -> None:
        super().__init__(name="fedqueue-demo-chaos", daemon=True)
        self.kills: Counter[str] = Counter()
        self._worker_pids = worker_pids
        self._round_under_way = round_under_way
        self._strikes: Counter[int] = Counter()
        self._draw = random.Random(seed)  # noqa: S311  # which one dies is no secret
        self._ending = threading.Event()

    def run(self) -> None:
        """Pause, kill somebody, and again."""
        aimed = False
        while not self._ending.wait(self._draw.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)):
            holder = self._wait_for_a_round() if aimed else None
            aimed = not aimed
            # It may have ended since it was looked up: then nobody was killed, and nobody is counted.
            with suppress(ProcessLookupError, PermissionError):
                self._kill(self._draw.choice(_TARGETS), holder or self._anybody())

    def _wait_for_a_round(self) -> int | None:
        """The process that holds a round, at some moment of it; None if there was none in a while."""
        until = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < until and not self._ending.wait(0.001):
            claimed = self._round_under_way()
            if claimed is not None and self._strikes[claimed[0]] < _MOST_IN_ONE_ROUND:
                self._strikes[claimed[0]] += 1
                time.sleep(self._draw.uniform(0, _ROUND_SECONDS))
                return claimed[1]
        return None

    def _anybody(self) -> int:
        """Some pool process. Raises: ProcessLookupError when there is none."""
        found = [child for worker in self._worker_pids() for child in children_of(worker)]
        if not found:
            raise ProcessLookupError
        return self._draw.choice(found)

    def _kill(self, target: str, process: int) -> None:
        if target == "child":
            os.kill(process, signal.SIGKILL)
        else:
            # A worker leads a process group of its own, with its pool in it.
            worker = os.getpgid(process)
            if worker not in self._worker_pids():
                raise ProcessLookupError
            if target == "parent":
                os.kill(worker, signal.SIGKILL)
            else:
                os.killpg(worker, signal.SIGKILL)
        self.kills[target] += 1

    def stop(self) -> None:
        """Kill nobody any more."""
        self._ending.set()
        if self.is_alive():
            self.join()

    @property
    def total(self) -> int:
        """How many times it killed."""
        return sum(self.kills.values())

    def describe(self) -> str:
        """The kills by what was killed, for people."""
        names = {"child": "pool processes", "parent": "parents", "tree": "whole trees"}
        return ", ".join(f"{self.kills[kind]} {name}" for kind, name in names.items())


def children_of(parent: int) -> list[int]:
    """The process's children, by Linux's /proc; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # pid (name) state ppid …: the name may hold spaces and brackets.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)
