"""A worker told to stop in the middle of everything: it ends in time, and another has its messages at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from config.settings import Settings
from fedqueue import Client
from fedqueue.messages import names
from tests.chaos import held
from tests.chaos.evidence import Evidence
from tests.chaos.facts import read_facts
from tests.chaos.grounds import broker_on, database_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.traffic import settled, wait_until
from tests.production import read_compose, seconds_of
from worker.bootstrap import HubCelery, build_metadata
from worker.children import Child
from worker.health import check_workers
from worker.plan import process_environment, worker_command

_SOFT_SECONDS = 2.0
_QUEUED = 12
# What Docker gives a container before it kills it.
_GRACE = seconds_of(read_compose({"POSTGRES_PASSWORD": "x", "REDIS_PASSWORD": "x"})["x-hardened"]["stop_grace_period"])


@contextmanager
def worker_running(settings: Settings, name: str, folder: Path, hold: Path) -> Iterator[Child]:
    """One worker, ready; killed with the block if it still runs."""
    environment = process_environment(settings) | {held.VARIABLE: str(hold)}
    child = Child(name, "worker", worker_command(["--hostname", name]), environment, folder / f"{name}.log")
    child.start()
    try:
        with HubCelery(settings) as app:
            wait_until(f"{name} ready", lambda: check_workers(app, [name], 2.0)[0].is_well, 90)
        yield child
    finally:
        child.kill_family()


def waiting(settings: Settings, queue: str) -> int:
    """Messages in the queue that nobody has taken."""
    with HubCelery(settings) as app, app.connection_for_read() as connection, connection.channel() as channel:
        found: int = channel.queue_declare(queue=queue, passive=True).message_count
        return found


def unacknowledged(settings: Settings) -> int:
    """Messages that Redis keeps for somebody who took them; RabbitMQ puts them back into their queue by itself."""
    if settings.broker_url.startswith("amqp"):
        return 0
    with HubCelery(settings) as app, app.connection_for_read() as connection:
        found: int = connection.default_channel.client.hlen("unacked")
        return found


def submit(hub: Client, model: UUID, client: UUID, *, wait: bool) -> Accepted:
    values = {"w": np.ones(10, np.float32)}
    if wait:
        view = hub.submit_update(model, client, values, num_examples=2, timeout=60)
        return Accepted(view.submission_id, 2.0)
    return Accepted(hub.submit_update(model, client, values, num_examples=2, wait=False), 2.0)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])
def test_a_loaded_worker_ends_in_time_and_another_goes_on_with_all_it_had(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with broker_on(broker, tmp_path) as server, database_on("sqlite", tmp_path, request) as url:
        settings = Settings(
            home=tmp_path / "home",
            database_url=url,
            broker_url=server.url,
            lease_seconds=2.0,
            sweep_seconds=0.5,
            worker_concurrency=2,
            soft_shutdown_seconds=_SOFT_SECONDS,
            plugins=(held.PLUGIN,),
        )
        settings.home.mkdir()
        metadata = build_metadata(settings)
        metadata.update_database()
        metadata.close()
        accepted: list[Accepted] = []
        with (
            worker_running(settings, "told@localhost", tmp_path, hold) as told,
            Client(settings.broker_url, settings.result_url, settings.store_url) as hub,
        ):
            initial = {"w": np.zeros(10, np.float32)}
            models = [
                hub.create_model(initial=initial, requirement=None, allow_repeats=True, aggregator=aggregator).model_id
                for aggregator in (held.AGGREGATOR, held.AGGREGATOR, "fedavg")
            ]
            clients = [hub.register_client(model).client_id for model in models]
            for model, client in zip(models[:2], clients[:2], strict=True):
                accepted.append(submit(hub, model, client, wait=True))
            # Both processes are in the middle of a round, and stay there.
            wait_until("two rounds under way", lambda: len(list(tmp_path.glob("*.holding"))) == 2, 60)
            accepted += [submit(hub, models[2], clients[2], wait=False) for _ in range(_QUEUED)]
            began = time.monotonic()
            told.tell(signal.SIGTERM)
            assert told.wait(_GRACE), "Docker would have killed it"
            took = time.monotonic() - began
            how = told.ended

        def given_back() -> bool:
            rounds = waiting(settings, names.AGGREGATE_QUEUE)
            updates = waiting(settings, names.UPDATES_QUEUE)
            return rounds >= 2 and updates >= _QUEUED and unacknowledged(settings) == 0

        wait_until("all messages back in their queues, 20 minutes before a timeout", given_back, 20)
        hold.unlink()
        with worker_running(settings, "other@localhost", tmp_path, hold):
            wait_until("all updates", lambda: len(read_facts(url).updates) >= len(accepted), 60)
            facts, _ = settled(url, 60)
    wrong = len(violations(facts, quiet=True)) + len(unaccounted(facts, accepted))
    evidence(
        "graceful_stop",
        f"sqlite and {broker}",
        updates=len(accepted),
        rounds_under_way=2,
        grace_seconds=_GRACE,
        ended_after_seconds=took,
        violations=wrong,
    )
    assert how == "exit code 0"
    assert unaccounted(facts, accepted) == []
    assert violations(facts, quiet=True) == []
    assert len(facts.updates) == len(accepted), "and nothing twice"
