"""A network that delays, throttles, stalls, cuts or silently loses connections: no update is lost, nobody hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.faults import Run, hub_settings, hub_under_traffic
from tests.chaos.grounds import broker_on, database_on
from tests.proxy import Proxy, proxy_to

# A packet's way across an ocean and back; a connection of 1 Mbit/s.
_DELAY = 0.05
_BYTES_PER_SECOND = 125_000.0


@dataclass
class Ways:
    """The ways between a hub's parts, each through a network of its own."""

    worker_to_broker: Proxy
    worker_to_database: Proxy
    client_to_broker: Proxy

    def each(self) -> dict[str, Proxy]:
        """By name."""
        return vars(self)


@contextmanager
def hub_behind_networks(database: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Run, Ways]]:
    """Workers and clients under traffic, nothing of which reaches a server directly."""
    with (
        database_on(database, folder, request) as database_url,
        broker_on("valkey", folder) as broker,
        proxy_to(broker.url) as workers_broker,
        proxy_to(broker.url) as clients_broker,
        proxy_to(database_url) as workers_database,
    ):
        ways = Ways(workers_broker, workers_database, clients_broker)
        settings = hub_settings(
            folder, workers_broker.url(broker.url), workers_database.url(database_url), max_attempts=100
        )
        clients = hub_settings(folder, clients_broker.url(broker.url), database_url)
        with hub_under_traffic(settings, folder, clients=clients) as run:
            yield run, ways


def throttled(way: Proxy, run: Run) -> None:
    way.delay, way.bytes_per_second = _DELAY, _BYTES_PER_SECOND
    run.wait_for_answers(4, 120)
    way.delay, way.bytes_per_second = 0.0, float("inf")


def cut(way: Proxy, run: Run) -> None:
    assert way.cut(), "nothing was connected"
    run.wait_for_answers(2, 120)


def stalled(way: Proxy, run: Run) -> None:
    # Longer than the lease: whoever has a round is taken for dead, and is not.
    way.hold()
    time.sleep(run.settings.lease_seconds * 1.5)
    way.release()
    run.wait_for_answers(2, 120)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slow_stalling_and_cutting_network_loses_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    faults: list[Callable[[Proxy, Run], None]] = [cut, stalled, throttled]
    with hub_behind_networks("postgresql", tmp_path, request) as (run, ways):
        for way in ways.each().values():
            for fault in faults:
                fault(way, run)
        outcome = run.end(90)
        restarts = run.fleet.restarts
    evidence(
        "network",
        "delay, 1 Mbit/s, stall, reset on each way",
        ways=len(ways.each()),
        faults=len(faults) * len(ways.each()),
        connections=sum(way.carried for way in ways.each().values()),
        workers_restarted=restarts,
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert restarts == 0, "a worker outlives its network"


# The longest that each of them waits for a word: config/celery.py, connectors/sql/patience.py, fedqueue/transport.py;
# and a minute for a busy machine.
_NOTICED = {"worker_to_broker": 2 * 15 + 5, "worker_to_database": 60 + 5, "client_to_broker": 2 * 5}
_SPARE = 60.0


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_half_open_connections_are_noticed_in_time(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    """Neither end hears that the other is gone; only the limits of what is waited for tell."""
    with hub_behind_networks(database, tmp_path, request) as (run, ways):
        took, lost = {}, {}
        for name, way in ways.each().items():
            lost[name] = way.lose()
            took[name] = run.wait_for_answers(8, _NOTICED[name] + _SPARE)
        # Then all at once.
        for way in ways.each().values():
            way.lose()
        took["all"] = run.wait_for_answers(8, sum(_NOTICED.values()) + _SPARE)
        outcome = run.end(180)
    evidence(
        "network",
        f"half-open connections, {database}",
        connections_lost=sum(lost.values()),
        **{f"{name}_answers_again_after": round(seconds, 1) for name, seconds in took.items()},
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert all(lost.values()), f"nothing was connected on a way: {lost}"
