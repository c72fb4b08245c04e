"""Kills and stops workers at random moments; every second time, in the middle of a round.

A round is over in some milliseconds, so a blow at random would hardly meet one. The aimed ones watch the database,
with plain SQL, for a claim, hold the process that the round says has it, and strike if the claim is still there.
What fells a process at a chosen line of its work is another's: tests/chaos/failpoints.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter

import psutil

from tests.chaos.fleet import Fleet
from tests.chaos.questions import Questions, questions_to

_CLAIMED = "SELECT worker FROM round WHERE state = 'CLAIMED'"

# A child is back in a tenth of a second, a parent in seconds: more of its deaths would show waiting and little else.
_BLOWS = {"kill child": 12, "stop child": 5, "delay child": 4, "kill parent": 1}

# Two blows have an update between them, unless there is none for so long: a slow machine is not beaten to a standstill.
_PROGRESS = "SELECT MAX(id) FROM model_update"
_PATIENCE = 3.0

# Parts of a lease. Stopped, it wakes up as a zombie whose round somebody else has; delayed, it has to renew its lease.
_STOPPED = (1.3, 2.5)
_DELAYED = (0.4, 0.8)

# So much longer at most sleeps who was stopped and still has its round when it should wake up.
_OVERSLEEPS = 3.0

# How long an aimed blow waits for somebody to have a round, and how often it looks.
_AIMING = 0.3
_LOOK = 0.002


class Havoc(threading.Thread):
    """Strikes until stopped. `struck` counts what was done, `aimed` how often at a process with a round."""

    def __init__(self, fleet: Fleet, seed: int, *, pause: float = 0.5) -> None:
        super().__init__(name="chaos-havoc", daemon=True)
        self.struck: Counter[str] = Counter()
        self.aimed: Counter[str] = Counter()
        self._fleet = fleet
        self._pause = pause
        self._draw = random.Random(f"havoc {seed}")
        self._newest = 0
        self._ending = threading.Event()
        self._asleep: dict[int, float] = {}
        self._delayed: set[int] = set()
        self._failure: BaseException | None = None

    @property
    def kills(self) -> int:
        """How many SIGKILLs met a living process."""
        return self.struck["kill child"] + self.struck["kill parent"]

    def run(self) -> None:
        """Pause, strike, and again."""
        try:
            self._strike_all()
        except BaseException as error:  # noqa: BLE001  # told by stop(), in the test's own thread
            self._failure = error

    def stop(self) -> None:
        """Strike nobody any more, and wake all that were stopped. Raises what went wrong."""
        self._ending.set()
        self.join()
        for pid in list(self._asleep):
            self._wake(pid)
        if self._failure is not None:
            raise self._failure

    def _strike_all(self) -> None:
        aim = False
        with questions_to(self._fleet.settings.database_url) as questions:
            while not self._rest(questions, self._draw.uniform(0.2, 1.8) * self._pause):
                self._wait_for_progress(questions)
                blow = self._draw.choices(list(_BLOWS), list(_BLOWS.values()))[0]
                if blow == "kill parent" and len(self._fleet.ready()) < len(self._fleet.names):
                    blow = "kill child"
                aim = not aim
                # Whoever has no round has no lease to renew.
                target = self._held_in_a_round(questions) if aim or blow == "delay child" else None
                found = target or self._anyone()
                if found is not None and self._strike(blow, found) and target is not None:
                    self.aimed[blow] += 1

    def _rest(self, questions: Questions, seconds: float) -> bool:
        """Strike nobody for a while; whether this is the end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._wake_due(questions)
            if self._ending.wait(min(left, 0.05)):
                return True
        return self._ending.is_set()

    def _wait_for_progress(self, questions: Questions) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            self._wake_due(questions)
            newest = questions.count(_PROGRESS)
            if newest != self._newest or time.monotonic() > until or self._ending.wait(0.05):
                self._newest = newest
                return

    def _held_in_a_round(self, questions: Questions) -> int | None:
        """A pool process with a round under way: stopped first, and looked at again before it is taken for one."""
        until = time.monotonic() + _AIMING
        while time.monotonic() < until and not self._ending.is_set():
            for pid in _claimed(questions):
                if pid in self._asleep or not self._is_ours(pid):
                    continue
                time.sleep(self._draw.uniform(0, 0.005))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    if pid in _claimed(questions):
                        return pid
                    os.kill(pid, signal.SIGCONT)
            time.sleep(_LOOK)
        return None

    def _is_ours(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).ppid() in self._fleet.ready()
        except psutil.NoSuchProcess:
            return False

    def _anyone(self) -> int | None:
        pool = [pid for pid in self._fleet.pool(self._fleet.ready()) if pid not in self._asleep]
        return self._draw.choice(pool) if pool else None

    def _strike(self, blow: str, pid: int) -> bool:
        """Whether somebody was hit: it may have ended since it was chosen."""
        try:
            if blow == "kill child":
                os.kill(pid, signal.SIGKILL)
            elif blow == "kill parent":
                parent = psutil.Process(pid).ppid()
                # It may have died since: its orphan's parent is process 1, or whoever stands in for that.
                is_there = parent in self._fleet.parents()
                if is_there:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(parent, signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)  # an orphan that goes on with its round: the fence is all there is
                if not is_there:
                    return False
            else:
                os.kill(pid, signal.SIGSTOP)
                part = self._draw.uniform(*(_DELAYED if blow == "delay child" else _STOPPED))
                self._asleep[pid] = time.monotonic() + self._fleet.settings.lease_seconds * part
                if blow == "delay child":
                    self._delayed.add(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        self.struck[blow] += 1
        return True

    def _wake_due(self, questions: Questions) -> None:
        due = [pid for pid, until in self._asleep.items() if time.monotonic() >= until]
        # Whose round nobody has taken over yet sleeps on: a slow machine's sweep comes late. But not for ever, for
        # whoever fell asleep in a transaction has everybody waiting.
        held = set(_claimed(questions)) - self._delayed if due else set()
        for pid in due:
            if pid not in held or time.monotonic() >= self._asleep[pid] + _OVERSLEEPS:
                self._wake(pid)

    def _wake(self, pid: int) -> None:
        del self._asleep[pid]
        self._delayed.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _claimed(questions: Questions) -> list[int]:
    """Process ids of those that have a round under way, or had one when they died."""
    return [int(worker.partition("@")[0]) for (worker,) in questions.ask(_CLAIMED)]
