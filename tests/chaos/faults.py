"""What every run with faults around the hub has: workers, submissions all the while, one verdict at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from config.settings import Settings
from tests.chaos.evidence import SEED
from tests.chaos.facts import Facts
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.traffic import Told, Traffic, settled, traffic_running, wait_until

SWEEP: Final = 0.5


def hub_settings(folder: Path, broker_url: str, database_url: str | None = None, **others: Any) -> Settings:
    """A hub with short leases and sweeps, two processes a worker."""
    chosen: dict[str, Any] = {
        "home": folder / "home",
        "broker_url": broker_url,
        "lease_seconds": 1.0,
        "sweep_seconds": SWEEP,
        "retry_base_seconds": 0.05,
        "retry_cap_seconds": 0.2,
        "worker_concurrency": 2,
        "soft_shutdown_seconds": 1.0,
    }
    if database_url is not None:
        chosen["database_url"] = database_url
    return Settings(**chosen | others)


@dataclass
class Outcome:
    """How a run ended, once all was quiet."""

    told: Told
    facts: Facts
    took: float

    @property
    def wrong(self) -> list[str]:
        """All that must not be: broken invariants, submissions that were not counted once, contradicting answers."""
        return [
            *self.told.problems,
            *violations(self.facts, quiet=True),
            *unaccounted(self.facts, self.told.accepted),
        ]

    def figures(self) -> dict[str, int | float]:
        """For the evidence of every such run."""
        return {
            "violations": len(self.wrong),
            "updates": len(self.told.accepted),
            "aggregates": len(self.facts.aggregates),
            "unanswered_for_a_while": self.told.unanswered,
            "quiet_after_seconds": round(self.took, 2),
        }


class Run:
    """Workers with submissions all the while."""

    def __init__(self, settings: Settings, fleet: Fleet, traffic: Traffic) -> None:
        self.settings = settings
        self.fleet = fleet
        self._traffic = traffic
        self._answered = 0

    def wait_for_answers(self, more: int = 4, seconds: float = 60.0) -> float:
        """Return when that many more submissions were accepted than when this was last asked; how long it took."""
        began = time.monotonic()
        self.note_answers()
        wanted = self._answered + more
        wait_until(f"answer number {wanted}", lambda: self.accepted >= wanted, seconds)
        self.note_answers()
        return time.monotonic() - began

    def note_answers(self) -> None:
        """What was accepted so far is no news to `wait_for_answers`."""
        self._answered = self.accepted

    @property
    def accepted(self) -> int:
        """Submissions accepted so far."""
        return len(self._traffic.told().accepted)

    def count(self, *words: str) -> int:
        """How many lines of the workers' logs hold all of those words."""
        return sum(all(word in line for word in words) for line in self.fleet.said().splitlines())

    def wait_to_hear(self, *words: str, times: int = 1, seconds: float = 60.0) -> None:
        """Return when so many more lines of the logs hold all of those words."""
        wanted = self.count(*words) + times
        wait_until(f"{words} in the logs", lambda: self.count(*words) >= wanted, seconds)

    def end(self, seconds: float = 60.0) -> Outcome:
        """No more submissions; the outcome when all is quiet. Raises: AssertionError if it does not become so."""
        told = self._traffic.finish(seconds)
        facts, took = settled(self.settings.database_url, seconds)
        return Outcome(told, facts, took)


@contextmanager
def hub_under_traffic(
    settings: Settings,
    folder: Path,
    *,
    clients: Settings | None = None,
    workers: int = 2,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """Workers of those settings, and clients, of other settings if need be: they may have another way to the broker."""
    with (
        fleet_running(settings, folder / "logs", workers, variables) as fleet,
        traffic_running(clients or settings, folder, SEED) as traffic,
    ):
        run = Run(settings, fleet, traffic)
        run.wait_for_answers()
        yield run
