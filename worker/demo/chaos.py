"""Kills a hub's workers with SIGKILL at random moments: pool processes, parents, whole trees."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

SHORTEST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 2.0

# A parent takes two seconds to come back, and longer each time: more of its deaths would only show waiting.
_TARGETS: Final = ("child", "child", "child", "parent", "tree")


class Chaos(threading.Thread):
    """Kills until stopped. `worker_pids()` says which workers live at that moment."""

    def __init__(self, worker_pids: Callable[[], Sequence[int]], seed: int) -> None:
        super().__init__(name="fedqueue-demo-chaos", daemon=True)
        self.kills: Counter[str] = Counter()
        self._worker_pids = worker_pids
        self._draw = random.Random(seed)  # noqa: S311  # which one dies is no secret
        self._ending = threading.Event()

    def run(self) -> None:
        """Kill somebody, pause, and again."""
        while not self._ending.wait(self._draw.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)):
            workers = self._worker_pids()
            if workers:
                self._kill(self._draw.choice(_TARGETS), self._draw.choice(list(workers)))

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

    def _kill(self, target: str, worker: int) -> None:
        # It may have ended since it was looked up: then nobody was killed, and nobody is counted.
        with suppress(ProcessLookupError, PermissionError):
            if target == "child":
                children = children_of(worker)
                if not children:
                    return
                os.kill(self._draw.choice(children), signal.SIGKILL)
            elif target == "parent":
                os.kill(worker, signal.SIGKILL)
            else:
                # A worker leads a process group of its own.
                os.killpg(worker, signal.SIGKILL)
            self.kills[target] += 1


def children_of(parent: int) -> list[int]:
    """The process's children, by Linux's /proc; none where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # pid (name) state ppid …: the name may hold spaces and brackets.
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return sorted(found)
