"""Real workers, killed and stopped all the while real clients send: nothing lost, nothing counted twice.

Workers die at every failpoint of the protocol, at random moments, and in the middle of rounds; they sleep for longer
than their lease. CHAOS_SECONDS makes the wide form longer, CHAOS_SEED repeats the draws of a run (the moments are the
machine's).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import create_engine

from config.settings import Settings
from examples.fma.peer import PYTHON, FmaDeployment
from tests.chaos.astray import astray
from tests.chaos.evidence import PROPERTY, SEED, Evidence
from tests.chaos.failpoint_plugin import PLUGIN, deaths, failpoint_environment, turn_off, turn_on
from tests.chaos.failpoints import ALL, Failpoint
from tests.chaos.fleet import fleet_running
from tests.chaos.grounds import BROKERS, DATABASES, broker_on, database_on
from tests.chaos.havoc import Havoc
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.log_tally import OVERTAKEN, LogTally
from tests.chaos.questions import questions_to
from tests.chaos.traffic import Load, Told, reminded, settled, traffic_running
from tests.deployments import disagreements
from worker.redelivery import give_back_unacknowledged

LONG: Final = float(os.environ.get("CHAOS_SECONDS", "60"))

WORKERS: Final = 2

_RESCUED: Final = "SELECT COUNT(*) FROM round WHERE state = 'RESCUED'"


@dataclass(frozen=True)
class Bar:
    """What a run must have done, or it has shown nothing. It goes on until it has, for `ceiling` seconds at most."""

    seconds: float
    kills: int
    at_each_failpoint: int
    failpoints: tuple[Failpoint, ...]
    probability: float  # of a death at a failpoint that had its share
    rescued: int
    fenced: int
    ceiling: float
    load: Load


# What every update comes by, on its way into the hub and through a round.
_ALWAYS: Final = tuple(
    point for point in ALL if point.partition(".")[0] in ("submission", "claim", "combine", "post", "outbox", "hint")
)
_SHORT: Final = Bar(
    8.0,
    30,
    1,
    _ALWAYS,
    0.003,
    rescued=3,
    fenced=1,
    ceiling=240,  # a zombie takes a blow at the right moment: on a slow machine there is one in half a minute
    load=Load(models=6, json_models=1, parameters=8_000, submitters=5, tellers=1),
)
_LONG: Final = Bar(
    LONG,
    # 300 in a minute, 10,000 in half an hour.
    max(int(5 * LONG), int(LONG // 1800) * 10_000),
    5,
    ALL,
    0.006,
    rescued=int(LONG / 2),
    fenced=max(1, int(LONG / 20)),
    # On a quick machine the rarest failpoint has had its share after a hundred seconds of the minute's run.
    ceiling=600 + 3 * LONG,
    load=Load(models=10, json_models=2, parameters=8_000, submitters=6, tellers=4),
)


@pytest.mark.slow
@pytest.mark.timeout(_SHORT.ceiling + 600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_workers_that_die_and_sleep_lose_nothing_and_count_nothing_twice(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    _chaos(database, "valkey", _SHORT, tmp_path, request, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(_LONG.ceiling + 600)
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("database", DATABASES)
def test_nor_do_they_on_any_ground_for_longer(
    database: str, broker: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    _chaos(database, broker, _LONG, tmp_path, request, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(_LONG.ceiling + 600)
@pytest.mark.skipif(not PYTHON.exists(), reason=".peers/fma is not there: run `make peers`")
def test_nor_do_they_beside_an_fma_deployment(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    """In a database that Django has made: FMA's tables say the same in the end, and its tree is one to django-mptt."""
    fma = FmaDeployment(tmp_path / "fma")
    fma.migrate()
    fma.developer()
    _chaos("fma-sqlite", "valkey", _LONG, tmp_path, request, evidence, fma)
    engine = create_engine(f"sqlite:///{fma.home}/fma.db")
    assert disagreements(engine) == []
    engine.dispose()
    rebuilt = fma.rebuild()
    assert rebuilt["aggregates"]
    assert rebuilt["changed"] == []


def _chaos(
    database: str,
    kind: str,
    bar: Bar,
    folder: Path,
    request: pytest.FixtureRequest,
    evidence: Evidence,
    fma: FmaDeployment | None = None,
) -> None:
    points = folder / "failpoints"
    variables = failpoint_environment(
        points,
        SEED,
        probability=bar.probability,
        eager=0.5,
        enough=bar.at_each_failpoint,
        points=bar.failpoints,
    )
    turn_off(points)  # until all is set up
    with (
        database_on(database, folder, request) if fma is None else nullcontext(f"sqlite:///{fma.home}/fma.db") as url,
        broker_on(kind, folder) as broker,
        closing(LogTally(folder / "logs")) as said,
    ):
        settings = _settings(folder, url, broker.url, fma)
        with (
            fleet_running(settings, folder / "logs", WORKERS, variables) as fleet,
            traffic_running(settings, folder, SEED, bar.load) as traffic,
            reminded(settings, traffic.models),
        ):
            havoc = Havoc(fleet, SEED)
            havoc.start()
            turn_on(points)
            began = time.monotonic()
            with questions_to(url) as questions:
                while time.monotonic() < began + bar.seconds or _lacking(
                    bar, havoc, points, said.count(OVERTAKEN), questions.count(_RESCUED)
                ):
                    time.sleep(0.5)
                    if time.monotonic() > began + bar.ceiling or not havoc.is_alive():
                        break
            took = time.monotonic() - began
            havoc.stop()
            turn_off(points)
            told = traffic.finish(150)
            # What killed parents had taken: on Redis it would come back by the visibility timeout.
            assert kind == "rabbitmq" or give_back_unacknowledged(settings) == ""
            facts, quiet_after = settled(url, 120)
            lost = _astray_in_the_end(url, told, 120)
            fenced = said.count(OVERTAKEN)
    died = _died(bar, points)
    rescued = sum(row["state"] == "RESCUED" for row in facts.rounds)
    found = [*violations(facts, quiet=True), *unaccounted(facts, told.accepted), *lost]
    evidence(
        "process",
        f"{database} and {kind}",
        seconds=took,
        kills=havoc.kills + died.total(),
        stops=havoc.struck["stop child"],
        restarts=fleet.restarts,
        rescued=rescued,
        fenced=fenced,
        updates=len(told.accepted),
        rejected=len(told.rejected),
        unanswered=told.unanswered,
        events=len(told.events),
        aggregates=len(facts.aggregates),
        failpoints=len(died),
        killed_at_failpoints=died.total(),
        least_hit_failpoint=min(died.values()),
        violations=len(found),
        quiet_after_seconds=quiet_after,
    )
    each = ", ".join(f"{point} {times}" for point, times in sorted(died.items()))
    request.node.user_properties.append((PROPERTY, f"deaths at failpoints on {database} and {kind}: {each}"))
    assert told.problems == []
    assert found == []
    counted = {update["submission_id"] for update in facts.updates if update["status"] == "COMPLETE"}
    assert counted == {submission.submission_id for submission in told.accepted}, "and nothing else was counted"
    assert {u["submission_id"] for u in facts.updates if u["status"] == "INVALID"} == set(told.rejected)
    lacking = _lacking(bar, havoc, points, fenced, rescued)
    assert not lacking, f"this run has shown nothing of these: {', '.join(lacking)}"


def _settings(folder: Path, database_url: str, broker_url: str, fma: FmaDeployment | None) -> Settings:
    return Settings(
        metadata_connector="sqlalchemy" if fma is None else "django",
        fma_media=None if fma is None else fma.media,
        home=folder / "home",
        database_url=database_url,
        broker_url=broker_url,
        lease_seconds=0.8,
        sweep_seconds=1.0,
        retry_base_seconds=0.05,
        retry_cap_seconds=0.2,
        # Healthy updates are struck again and again here: none of them may be taken for poison.
        max_attempts=100,
        # Each task of a killed process keeps one of its worker's places until it is given up for lost.
        worker_concurrency=8,
        soft_shutdown_seconds=1.0,
        plugins=(PLUGIN,),
        # Nobody hears: what counts is that it was sent.
        notify_task="tests.told",
        notify_queue="tests.told",
    )


def _died(bar: Bar, points: Path) -> Counter[str]:
    """How often at each failpoint, those included at which nobody has died."""
    died = deaths(points)
    return Counter({str(point): died[point] for point in bar.failpoints})


def _lacking(bar: Bar, havoc: Havoc, points: Path, fenced: int, rescued: int) -> list[str]:
    """What the run has not reached yet."""
    died = deaths(points)
    few = [f"{point}: {died[point]}" for point in bar.failpoints if died[point] < bar.at_each_failpoint]
    counts = {
        "kills": (havoc.kills + died.total(), bar.kills),
        "rescued": (rescued, bar.rescued),
        "fenced": (fenced, bar.fenced),
    }
    return few + [f"{what}: {count} of {least}" for what, (count, least) in counts.items() if count < least]


def _astray_in_the_end(database_url: str, told: Told, seconds: float) -> list[str]:
    """What is still astray when all have had time to arrive."""
    deadline = time.monotonic() + seconds
    while (found := astray(database_url, told)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found
