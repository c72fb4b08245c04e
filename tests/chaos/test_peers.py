"""The hub beside FMA's logic and plain Celery, in one harness: the same updates, the same kills, the same judge."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from tests.chaos.evidence import SEED, Evidence
from tests.chaos.peers.contestants import Contestant, FmaLogic, Ours, PlainCelery
from tests.chaos.peers.ledger import VALUES, Verdict, judge
from tests.chaos.traffic import wait_until
from tests.servers import valkey_server
from worker.children import Child

UPDATES = int(os.environ.get("PEER_UPDATES", "300"))
_A_SECOND = 40
_KILL_EVERY = 0.3
# Two kills have an aggregate between them, unless there is none for so long: a slow machine is not beaten to a
# standstill.
_PATIENCE = 3.0


class Herd:
    """A contestant's workers, each started again when it has ended."""

    def __init__(self, children: list[Child]) -> None:
        self._children = children
        self._ending = threading.Event()
        # It starts them itself: the kernel ends a child with the thread that started it.
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Herd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._ending.wait(0.05):
            for child in self._children:
                if child.ended is not None:
                    child.start()
        for child in self._children:
            child.kill_family()

    def pids(self) -> list[int]:
        """All their processes: the parents, and their pools'."""
        found = []
        for child in self._children:
            if child.ended is None and child.pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found += [child.pid, *(process.pid for process in psutil.Process(child.pid).children())]
        return found


@contextmanager
def kills(herd: Herd, contestant: Contestant, every: float | None) -> Iterator[list[int]]:
    """SIGKILL to one process or another all the while; who was hit."""
    struck: list[int] = []
    draw = random.Random(f"peers {SEED}")
    ending = threading.Event()

    def strike() -> None:
        posted = 0
        while every is not None and not ending.wait(draw.uniform(0.2, 1.8) * every):
            until = time.monotonic() + _PATIENCE
            while len(contestant.aggregates()) == posted and time.monotonic() < until and not ending.wait(0.1):
                pass
            posted = len(contestant.aggregates())
            pids = herd.pids()
            if pids:
                pid = draw.choice(pids)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    struck.append(pid)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield struck
    finally:
        ending.set()
        thread.join()


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", [False, True], ids=["no-fault", "killed"])
@pytest.mark.parametrize("kind", [Ours, FmaLogic, PlainCelery], ids=lambda kind: kind.name)
def test_the_same_updates_under_the_same_kills(
    kind: type[Contestant], killed: bool, tmp_path: Path, postgres_url: str, evidence: Evidence
) -> None:
    """Ours loses nothing and counts nothing twice; what the others come to is measured, not demanded."""
    with valkey_server(tmp_path) as broker:
        contestant = kind(postgres_url, broker.url, tmp_path)
        with Herd(contestant.workers()) as herd:
            contestant.wait_for_workers()
            with kills(herd, contestant, _KILL_EVERY if killed else None) as struck:
                accepted = _send_all(contestant)
                if killed:
                    # A process that stood still for a while has struck less than it should.
                    wait_until("kills enough", lambda: len(struck) >= UPDATES / _A_SECOND, 60 + UPDATES / _A_SECOND * 5)
            contestant.finish()
            _wait_until_quiet(contestant, accepted)
        aggregates, states = contestant.aggregates(), contestant.states()
        contestant.close()
    verdict = judge(accepted, aggregates, states)
    case = f"{kind.name}, {'killed' if killed else 'no fault'}"
    evidence("peers", case, updates=len(accepted), kills=len(struck), aggregates=len(aggregates), **asdict(verdict))
    # Each was really at work: else its figures would say nothing.
    assert len(accepted) == UPDATES
    assert len(aggregates) >= UPDATES / 100
    if kind is Ours:
        assert verdict == Verdict(0, 0, 0, 0)


def _send_all(contestant: Contestant) -> list[str]:
    """From four senders at an even pace; the names of those that were accepted."""
    draw = random.Random(f"updates {SEED}")
    weights = [draw.randint(1, 100) for _ in range(UPDATES)]
    began = time.monotonic()

    def send(number: int) -> str:
        time.sleep(max(0.0, began + number / _A_SECOND - time.monotonic()))
        name = f"update {number}"
        contestant.send(name, weights[number], [float(number % 7)] * VALUES)
        return name

    with ThreadPoolExecutor(4) as senders:
        return list(senders.map(send, range(UPDATES)))


def _wait_until_quiet(contestant: Contestant, accepted: list[str]) -> None:
    """Everything counted, or nothing new for a while."""
    seen, since = -1, time.monotonic()
    while time.monotonic() < since + contestant.quiet_seconds:
        counted = {name for aggregate in contestant.aggregates() for name in aggregate.included}
        if counted >= set(accepted):
            return
        if len(counted) != seen:
            seen, since = len(counted), time.monotonic()
        contestant.hurry()
        time.sleep(0.25)
