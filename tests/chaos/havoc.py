"""Kills and stops workers at random moments; every second time, in the middle of a round.

A round is over in some milliseconds, so a blow at random would hardly meet one. The aimed ones watch the database,
with plain SQL, for a claim, hold the process that the round says has it, and strike if the claim is still there.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import psutil
import psycopg
import pymysql
from pymysql.cursors import Cursor

from tests.chaos.facts import connect_mariadb
from tests.chaos.fleet import Fleet

_CLAIMED = "SELECT worker FROM round WHERE state = 'CLAIMED'"

# A parent takes seconds to come back: more of its deaths would show waiting and little else.
_BLOWS = (*["kill child"] * 3, *["stop child"] * 3, "kill parent")


class Havoc(threading.Thread):
    """Strikes until stopped. `struck` counts what was done, `aimed` how often at a process with a round."""

    def __init__(self, fleet: Fleet, seed: int, *, pause: float = 0.4) -> None:
        super().__init__(name="chaos-havoc", daemon=True)
        self.struck: Counter[str] = Counter()
        self.aimed: Counter[str] = Counter()
        self._fleet = fleet
        self._pause = pause
        self._draw = random.Random(f"havoc {seed}")
        self._ending = threading.Event()
        self._asleep: dict[int, float] = {}
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
        claimed = _claim_reader(self._fleet.settings.database_url)
        aim = False
        while not self._ending.wait(self._draw.uniform(0.2, 1.8) * self._pause):
            self._wake_due()
            blow = self._draw.choice(_BLOWS)
            aim = not aim
            target = self._held_in_a_round(claimed) if aim else None
            found = target or self._anyone()
            if found is not None and self._strike(blow, found) and target is not None:
                self.aimed[blow] += 1

    def _held_in_a_round(self, claimed: Callable[[], Sequence[int]]) -> int | None:
        """A pool process with a round under way: stopped first, and looked at again before it is taken for one."""
        until = time.monotonic() + 2.0
        while time.monotonic() < until and not self._ending.is_set():
            for pid in claimed():
                if pid in self._asleep or not self._is_ours(pid):
                    continue
                time.sleep(self._draw.uniform(0, 0.005))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    if pid in claimed():
                        return pid
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.001)
        return None

    def _is_ours(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).ppid() in self._fleet.parents()
        except psutil.NoSuchProcess:
            return False

    def _anyone(self) -> int | None:
        pool = [pid for pid in self._fleet.pool() if pid not in self._asleep]
        return self._draw.choice(pool) if pool else None

    def _strike(self, blow: str, pid: int) -> bool:
        """Whether somebody was hit: it may have ended since it was chosen."""
        try:
            if blow == "kill child":
                os.kill(pid, signal.SIGKILL)
            elif blow == "kill parent":
                os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)  # an orphan that goes on with its round: the fence is all there is
            else:
                os.kill(pid, signal.SIGSTOP)
                # Longer than its lease: it wakes up as a zombie whose round somebody else has.
                self._asleep[pid] = time.monotonic() + self._fleet.settings.lease_seconds * self._draw.uniform(1.3, 2.5)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        self.struck[blow] += 1
        return True

    def _wake_due(self) -> None:
        for pid, due in list(self._asleep.items()):
            if time.monotonic() >= due:
                self._wake(pid)

    def _wake(self, pid: int) -> None:
        del self._asleep[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _claim_reader(database_url: str) -> Callable[[], list[int]]:
    """Asks for the process ids of those with a round under way."""
    if database_url.startswith("sqlite"):
        path = database_url.removeprefix("sqlite:///")
        file = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=30)
        return lambda: [_pid(worker) for (worker,) in file.execute(_CLAIMED)]
    if database_url.startswith("mariadb"):
        return partial(_claims_in_mariadb, connect_mariadb(database_url))
    server = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
    return lambda: [_pid(worker) for (worker,) in server.execute(_CLAIMED)]


def _claims_in_mariadb(server: pymysql.Connection[Cursor]) -> list[int]:
    with server.cursor() as rows:
        rows.execute(_CLAIMED)
        return [_pid(worker) for (worker,) in rows.fetchall()]


def _pid(worker: str) -> int:
    return int(worker.partition("@")[0])
