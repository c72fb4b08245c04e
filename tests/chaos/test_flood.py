"""Ten times what the workers can do, for as long as it lasts: memory stays flat, rounds go on, and nobody is starved.

A flood comes from processes that submit to one model without waiting, and to another more than may wait for its round.
Beside it another client submits to a third, and asks how the flooded one stands. CHAOS_SECONDS makes the wide form
longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import pytest

from config.settings import Settings
from fedqueue import Client
from tests.chaos.evidence import Evidence
from tests.chaos.fleet import fleet_running
from tests.chaos.flooder import Plan
from tests.chaos.gauges import Gauges, gauged, nothing_waits
from tests.chaos.grounds import broker_on, database_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.questions import questions_to
from tests.chaos.traffic import settled, wait_until
from tests.hubs import ROOT, environment
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

LONG: Final = float(os.environ.get("CHAOS_SECONDS", "60"))
_SHORT: Final = 6.0
# What is offered beside what is done. That the queue is at its limit is asked of every run; how far beyond it one gets
# depends on how the cores are shared and how fast the disk is (14 to 20 times as measured), and is asked of the long
# form alone, which has a machine to itself.
_TIMES: Final = 10 if LONG >= 300 else 3

_PROCESSES: Final = 2
_THREADS: Final = 4
_SIZE: Final = 50
# So few that another client's turn comes soon, on a slow machine too.
_WAITING: Final = 40
# An update of the slow model, and what may wait of each client's: one of these, any number of the others.
_SLOW_SIZE: Final = 10_000
_OPEN_BYTES: Final = 80_000

# A process has its buffers, an allocator its arenas: what grew without end would show far beyond these in any run.
_SLACK: Final = 1.15
_SLACK_MIB: Final = 24.0


@dataclass(frozen=True)
class Target:
    """A model and its clients."""

    model: UUID
    clients: list[UUID]


@dataclass
class Flood:
    """The flooding processes and what they journal."""

    plans: list[Path]
    running: list[subprocess.Popen[bytes]]
    posted: set[UUID] = field(default_factory=set)
    accepted: list[Accepted] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def stop(self) -> None:
        """Let them end, and read what they say."""
        for path in self.plans:
            path.with_suffix(".stop").touch()
        for process, path in zip(self.running, self.plans, strict=True):
            assert process.wait(150) == 0, path.with_suffix(".log").read_text()
        for path in self.plans:
            for journal in path.parent.glob(f"{path.stem}.*.journal"):
                for line in journal.read_text().splitlines():
                    self._add(json.loads(line))

    def _add(self, entry: dict[str, object]) -> None:
        match entry:
            case {"counted": dict() as counted}:
                self.counted.update(counted)
            case {"accepted": str() as submission}:
                self.accepted.append(Accepted(UUID(submission), 1.0))
                self.posted.add(UUID(submission))
            case {"posted": str() as submission}:
                self.posted.add(UUID(submission))


@contextmanager
def flood_running(settings: Settings, folder: Path, flooded: Target, slow: Target) -> Iterator[Flood]:
    """Submissions as fast as they are taken."""
    plans = [folder / f"flood{number}.json" for number in range(_PROCESSES)]
    running = []
    for number, path in enumerate(plans):
        Plan(
            settings.broker_url,
            settings.result_url,
            model=str(flooded.model),
            client=str(flooded.clients[number]),
            size=_SIZE,
            slow_model=str(slow.model),
            slow_client=str(slow.clients[number]),
            slow_size=_SLOW_SIZE,
            threads=_THREADS,
            max_waiting=_WAITING,
        ).write(path)
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.flooder", str(path)],
                cwd=ROOT,
                env=environment(folder),
                stderr=path.with_suffix(".log").open("w"),
                preexec_fn=die_with_parent(),
            )
        )
    try:
        yield Flood(plans, running)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


class Neighbour(threading.Thread):
    """An ordinary client of another model, who also asks how the flooded one stands."""

    def __init__(self, settings: Settings, own: Target, flooded: UUID) -> None:
        super().__init__(name="neighbour", daemon=True)
        self.accepted: list[Accepted] = []
        self.took: list[float] = []
        self.asked: list[float] = []
        self._settings = settings
        self._own, self._client, self._flooded = own.model, own.clients[0], flooded
        self._ending = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        """Submit and ask, in turns, until stopped."""
        try:
            with Client(self._settings.broker_url, self._settings.result_url, timeout=120, max_waiting=_WAITING) as hub:
                while not self._ending.wait(0.1):
                    began = time.monotonic()
                    submission_id = uuid4()
                    hub.submit_update(self._own, self._client, [1.0, 2.0], num_examples=2, submission_id=submission_id)
                    self.accepted.append(Accepted(submission_id, 2.0))
                    self.took.append(time.monotonic() - began)
                    began = time.monotonic()
                    hub.get_model(self._flooded)
                    self.asked.append(time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  # told by stop(), in the test's own thread
            self._failure = error

    def stop(self) -> None:
        """End it. Raises what went wrong."""
        self._ending.set()
        self.join()
        if self._failure is not None:
            raise self._failure


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_flood_leaves_memory_flat_and_rounds_going(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    _flood("sqlite", "valkey", _SHORT, tmp_path, request, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600 + 3 * LONG)
@pytest.mark.parametrize(
    ("database", "broker"), [("postgresql", "redis"), ("postgresql", "rabbitmq"), ("mariadb", "valkey")]
)
def test_a_long_flood_leaves_memory_flat_and_rounds_going(
    database: str, broker: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    _flood(database, broker, LONG, tmp_path, request, evidence)


def _flood(
    database: str, broker: str, seconds: float, folder: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    with database_on(database, folder, request) as url, broker_on(broker, folder) as server:
        settings = Settings(
            home=folder / "home",
            database_url=url,
            broker_url=server.url,
            sweep_seconds=1.0,
            client_open_bytes=_OPEN_BYTES,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with fleet_running(settings, folder / "logs", workers=1) as fleet:
            with Client(settings.broker_url, settings.result_url, timeout=60) as hub:
                flooded = _model(hub, _SIZE, None)
                own = _model(hub, 2, None)
                slow = _model(hub, _SLOW_SIZE, "require_x_updates", [1_000])
            neighbour = Neighbour(settings, own, flooded.model)
            with flood_running(settings, folder, flooded, slow) as flood, questions_to(url) as questions:
                neighbour.start()

                def heads() -> list[int]:
                    return [head for (head,) in questions.ask("SELECT head FROM federated_model ORDER BY id")][:2]

                # Only then: what a process takes for its first tasks it takes once.
                wait_until("round of each model", lambda: min(heads()) >= 3, 180)
                began, before = time.monotonic(), heads()
                done_before = questions.count("SELECT COUNT(*) FROM model_update")
                with gauged(fleet, server.pid) as gauges:
                    while time.monotonic() < began + seconds or not _is_telling(heads(), before, gauges, neighbour):
                        assert time.monotonic() < began + 150 + 3 * seconds, (before, heads(), len(neighbour.asked))
                        time.sleep(0.5)
                took, after = time.monotonic() - began, heads()
                done = questions.count("SELECT COUNT(*) FROM model_update") - done_before
                neighbour.stop()
                flood.stop()
            with HubCelery(settings) as app:
                nothing_waits(app, 120)
            with Client(settings.broker_url, settings.result_url, timeout=60) as hub:
                hub.edit_model(slow.model, requirement=None)
            facts, _ = settled(url, 60)
            said, restarts, letters = fleet.said(), fleet.restarts, _count_letters(url)
    first, last = gauges.workers_mib()
    found = violations(facts, quiet=True)
    lost = unaccounted(facts, [*neighbour.accepted, *flood.accepted])
    rows = {update["submission_id"] for update in facts.updates}
    offered, refused = flood.counted["offered"], flood.counted.total() - flood.counted["offered"]
    evidence(
        "flood",
        f"{database} and {broker}",
        offered_per_second=offered / took,
        done_per_second=done / took,
        refused=refused,
        refused_by_a_limit=flood.counted["client_open_bytes"],
        letters_kept=letters,
        aggregates=sum(after) - sum(before),
        of_another_model=after[1] - before[1],
        longest_wait_of_another_client=max(neighbour.took),
        longest_wait_of_a_question=max(neighbour.asked),
        memory_first_mib=first,
        memory_last_mib=last,
        broker_peak_mib=gauges.broker_peak_mib(),
        most_waiting=gauges.most_waiting(),
        updates=len(facts.updates),
        violations=len(found) + len(lost),
    )
    assert found == []
    assert lost == []
    assert rows <= flood.posted | {submission.submission_id for submission in neighbour.accepted}
    assert {update["status"] for update in facts.updates} == {"COMPLETE"}
    assert last <= first * _SLACK + _SLACK_MIB, "the workers grew"
    # Who waits may go twice as far; and as each looks before it sends, together they may overshoot by one each.
    assert gauges.most_waiting() <= 2 * _WAITING + _PROCESSES * _THREADS + 1
    assert restarts == 0, said[-4000:]
    assert flood.counted["busy"] > 0, "the queue was never full: this run has shown nothing"
    assert flood.counted["client_open_bytes"] > 0, "no limit was met: this run has shown nothing"
    if seconds > _SHORT:
        assert offered >= _TIMES * done, "no flood: this run has shown nothing"
    # One a minute, client and process of the pool, whatever was refused.
    assert 1 <= letters <= _PROCESSES * 2 * (1 + (took + 240) / 60)


def _is_telling(heads: list[int], before: list[int], gauges: Gauges, neighbour: Neighbour) -> bool:
    """Whether both models have gone on, and there is enough to compare."""
    has_gone_on = all(now >= then + 2 for now, then in zip(heads, before, strict=True))
    return has_gone_on and len(gauges.readings) >= 6 and len(neighbour.asked) >= 3


def _model(hub: Client, size: int, requirement: str | None, arguments: list[int] | None = None) -> Target:
    model = hub.create_model(
        initial=[0.0] * size, requirement=requirement, requirement_args=arguments, allow_repeats=True
    ).model_id
    return Target(model, [hub.register_client(model).client_id for _ in range(_PROCESSES)])


def _count_letters(url: str) -> int:
    with questions_to(url) as questions:
        return questions.count("SELECT COUNT(*) FROM dead_letter")
