"""The broker is disposable: emptied or killed in the middle of the work, it takes nothing with it but time."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
import pytest
import redis
from kombu.connection import Connection

from config.celery import HELD_SECONDS, celery_settings
from config.settings import Settings
from fedqueue import Client
from tests.chaos.evidence import Evidence
from tests.chaos.facts import read_facts
from tests.chaos.faults import SWEEP, hub_settings, hub_under_traffic
from tests.chaos.fleet import fleet_running
from tests.chaos.grounds import broker_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.traffic import settled, wait_until
from tests.proxy import Proxy, proxy_to
from tests.servers import Server, valkey_server

Blow = Callable[[Server], None]

_STRIKES: Final = 10

# Sweeps so rare that the work itself, also on a busy machine, takes little of the time between them.
_RARE: Final = 10.0
# A fifth of their time is left to the work itself.
_TWO_SWEEPS: Final = 2 * _RARE * 1.2


def flush(broker: Server) -> None:
    """Everything a Redis-like broker holds, gone: queues, messages in flight, answers, what it knew of its queues."""
    with redis.Redis.from_url(broker.url) as line:
        line.flushall()


def purge(broker: Server) -> None:
    """Everything that waits in RabbitMQ's queues, gone; what a worker holds comes back when its connection ends."""
    queues = celery_settings(Settings(broker_url=broker.url))["task_queues"]
    with Connection(broker.url) as line, line.channel() as channel:  # type: ignore[no-untyped-call]
        for queue in queues:
            channel.queue_purge(queue.name)


def end_connections(broker: Server) -> None:
    """Every client's connection, closed by the server."""
    with redis.Redis.from_url(broker.url) as line:
        line.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def kill(broker: Server) -> None:
    """SIGKILL, and a new start half a second later."""
    broker.kill()
    time.sleep(0.5)
    broker.start()


def stop_for(seconds: float) -> Blow:
    """SIGSTOP: it is there, and does not answer."""

    def stop(broker: Server) -> None:
        broker.pause()
        time.sleep(seconds)
        broker.resume()

    return stop


def sleep_for(seconds: float) -> Blow:
    """It takes commands, and answers them when it has slept."""

    def sleep(broker: Server) -> None:
        with redis.Redis.from_url(broker.url, socket_timeout=seconds + 30) as line:
            line.execute_command("DEBUG", "SLEEP", str(seconds))

    return sleep


class Bench:
    """A broker, and the network that leads to it."""

    def __init__(self, broker: Server, network: Proxy | None) -> None:
        self.broker = broker
        self._network = network

    @property
    def url(self) -> str:
        """Where the hub finds the broker."""
        return self.broker.url if self._network is None else self._network.url(self.broker.url)

    def strike(self, blow: Blow | None) -> None:
        """That blow; None: reset every connection on its way."""
        if blow is not None:
            blow(self.broker)
            return
        assert self._network is not None
        assert self._network.cut(), "nothing was connected"


def strike_all(
    kind: str, blows: Sequence[tuple[str, Blow | None]], folder: Path, evidence: Evidence, *, patience: float = 60.0
) -> None:
    """Strike the broker again and again, each time when submissions are answered again."""
    with ExitStack() as stack:
        broker = stack.enter_context(broker_on(kind, folder, debug=True))
        has_network = any(blow is None for _, blow in blows)
        bench = Bench(broker, stack.enter_context(proxy_to(broker.url)) if has_network else None)
        settings = hub_settings(folder, bench.url)
        run = stack.enter_context(hub_under_traffic(settings, folder))
        for _, blow in blows:
            bench.strike(blow)
            run.wait_for_answers(3, patience)
        outcome = run.end(patience + 30)
        restarts = run.fleet.restarts
    evidence(
        "broker",
        kind,
        **Counter(name for name, _ in blows),
        workers_restarted=restarts,
        sweeps_until_quiet=round(outcome.took / SWEEP, 1),
        **outcome.figures(),
    )
    assert outcome.wrong == []
    assert len(outcome.told.accepted) >= 3 * len(blows)


@pytest.mark.slow
def test_a_broker_that_is_emptied_and_struck_in_mid_run_loses_nothing(tmp_path: Path, evidence: Evidence) -> None:
    blows: list[tuple[str, Blow | None]] = [
        *[("flushes", flush)] * 4,
        ("restarts", Server.restart),
        *[("connections_closed", end_connections)] * 3,
        *[("flushes", flush)] * 5,
        ("kills", kill),
        ("stops", stop_for(2.0)),
    ]
    strike_all("valkey", blows, tmp_path, evidence)


# Longer than the 15 s that a socket is waited for.
_LONG: Final = 17.0


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_redis_that_is_emptied_and_silent_for_long_loses_nothing(
    kind: str, tmp_path: Path, evidence: Evidence
) -> None:
    blows: list[tuple[str, Blow | None]] = [
        *[("flushes", flush)] * 5,
        *[("restarts", Server.restart)] * 2,
        ("sleeps_of_17_s", sleep_for(_LONG)),
        *[("connections_closed", end_connections)] * 5,
        ("stops_of_17_s", stop_for(_LONG)),
        *[("flushes", flush)] * 4,
        *[("kills", kill)] * 3,
        *[("connections_reset", None)] * 3,
        ("flushes", flush),
    ]
    strike_all(kind, blows, tmp_path, evidence, patience=120)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rabbitmq_that_is_emptied_and_struck_loses_nothing(tmp_path: Path, evidence: Evidence) -> None:
    blows: list[tuple[str, Blow | None]] = [
        *[("purges", purge)] * 5,
        *[("connections_reset", None)] * 3,
        ("stops_of_5_s", stop_for(5.0)),
        *[("purges", purge)] * 4,
        *[("kills", kill)] * 2,
        ("restarts", Server.restart),
    ]
    strike_all("rabbitmq", blows, tmp_path, evidence, patience=120)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submissions_that_nobody_waits_for_survive_kills_and_broken_connections(
    tmp_path: Path, evidence: Evidence
) -> None:
    """Nobody sends them again. What a worker held comes back when it has not said for a minute that it lives."""
    accepted, kills = [], 0
    with valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker.url, max_attempts=100)
        with (
            fleet_running(settings, tmp_path / "logs") as fleet,
            Client(settings.broker_url, settings.result_url) as hub,
        ):
            model = hub.create_model(initial=[[0.0]], requirement=None, allow_repeats=True).model_id
            client = hub.register_client(model).client_id
            for strike in range(_STRIKES):
                for number in range(1, 21):
                    submission = hub.submit_update(model, client, [[1.0]], num_examples=number, wait=False)
                    accepted.append(Accepted(submission, number))
                # In the midst of them.
                if strike % 2:
                    end_connections(broker)
                    continue
                wait_until("worker to be killed", fleet.parents, 60)
                for worker in fleet.parents()[:1]:
                    with suppress(ProcessLookupError):
                        os.killpg(worker, signal.SIGKILL)
                        kills += 1
            began = time.monotonic()
            wait_until(
                "all of them in the database",
                lambda: len(read_facts(settings.database_url).updates) == len(accepted),
                4 * HELD_SECONDS,
            )
            took = time.monotonic() - began
            facts, _ = settled(settings.database_url, 60)
            restarts = fleet.restarts
    wrong = [*violations(facts, quiet=True), *unaccounted(facts, accepted)]
    evidence(
        "broker",
        "valkey, submissions that nobody waits for",
        violations=len(wrong),
        updates=len(accepted),
        kills=kills,
        connections_closed=_STRIKES // 2,
        workers_restarted=restarts,
        all_there_after_seconds=round(took, 1),
    )
    assert wrong == []
    assert kills >= 1


@pytest.mark.slow
def test_updates_whose_every_hint_was_lost_are_counted_within_two_sweeps(tmp_path: Path, evidence: Evidence) -> None:
    """No message says that these rounds are due: not one was ever sent, and the queues were emptied besides."""
    with valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker.url, sweep_seconds=_RARE)
        with fleet_running(settings, tmp_path / "logs"):
            models = _paused_with_an_update_each(settings, 5)
            with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), timeout=30)) as file:
                file.execute("UPDATE federated_model SET allow_aggregation = 1")
                file.commit()
            flush(broker)
            facts, took = settled(settings.database_url, 60)
    evidence(
        "broker",
        "valkey, no hint ever sent",
        violations=len(violations(facts, quiet=True)),
        updates=len(facts.updates),
        sweeps_until_quiet=round(took / _RARE, 1),
    )
    assert sorted(model["head"] for model in facts.models) == [1] * len(models)
    assert violations(facts, quiet=True) == []
    assert took <= _TWO_SWEEPS


def test_a_worker_that_nobody_sends_to_still_takes_over_from_the_dead(tmp_path: Path) -> None:
    """A round whose worker is gone for good, on a broker that knows nothing of it."""
    with valkey_server(tmp_path) as broker:
        # The dead one's lease is over, whatever its length; the other's is not, on a slow machine either.
        settings = hub_settings(tmp_path, broker.url, sweep_seconds=_RARE, lease_seconds=30.0)
        with fleet_running(settings, tmp_path / "logs", workers=1):
            _paused_with_an_update_each(settings, 1)
            with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), timeout=30)) as file:
                file.execute("UPDATE federated_model SET allow_aggregation = 1, fence = 7, lease_until = 1")
                file.execute("UPDATE model_update SET status = 'RUNNING', claim = 7, attempts = 1")
                file.execute(
                    "INSERT INTO round (model_id, fence, number, state, num_updates, updates_done, bytes_done, worker, "
                    "started_at) VALUES (1, 7, 1, 'CLAIMED', 1, 0, 0, '1@gone', CURRENT_TIMESTAMP)"
                )
                file.commit()
            flush(broker)
            facts, took = settled(settings.database_url, 60)
    assert [row["state"] for row in facts.rounds] == ["RESCUED", "POSTED"]
    assert violations(facts, quiet=True) == []
    assert took <= _TWO_SWEEPS


def _paused_with_an_update_each(settings: Settings, count: int) -> list[UUID]:
    """Models that aggregate nothing yet, each with an update that waits."""
    models = []
    with Client(settings.broker_url, settings.result_url, settings.store_url) as hub:
        for _ in range(count):
            model = hub.create_model(initial={"w": np.zeros(3, np.float32)}, requirement=None).model_id
            client = hub.register_client(model).client_id
            hub.pause_model(model)
            hub.submit_update(model, client, {"w": np.ones(3, np.float32)}, num_examples=1)
            models.append(model)
    assert all(update["status"] == "PENDING" for update in read_facts(settings.database_url).updates)
    return models
