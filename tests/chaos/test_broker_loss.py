"""The broker is disposable: emptied or killed in the middle of the work, it takes nothing with it but time."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import redis

from config.settings import Settings
from fedqueue import Client
from tests.chaos.facts import read_facts
from tests.chaos.fleet import fleet_running
from tests.chaos.invariants import unaccounted, violations
from tests.chaos.traffic import settled, traffic_running, wait_until
from tests.servers import Server, valkey_server

_SWEEP = 0.5


def hub_settings(folder: Path, broker: Server) -> Settings:
    return Settings(
        home=folder / "home",
        broker_url=broker.url,
        lease_seconds=1.0,
        sweep_seconds=_SWEEP,
        retry_base_seconds=0.05,
        retry_cap_seconds=0.2,
        worker_concurrency=2,
        soft_shutdown_seconds=1.0,
    )


def flush(broker: Server) -> None:
    """Everything the broker holds, gone: queues, messages in flight, answers, and what it knew of its queues."""
    with redis.Redis.from_url(broker.url) as line:
        line.flushall()


@pytest.mark.slow
def test_a_broker_that_is_emptied_and_killed_in_mid_run_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker)
        with fleet_running(settings, tmp_path / "logs"), traffic_running(settings, tmp_path, seed=1) as traffic:
            answered = [0]

            def goes_on() -> bool:
                return len(traffic.told().accepted) > answered[0] + 4

            for strike in (flush, flush, flush, Server.kill, flush, Server.kill):
                wait_until("answer after the last blow", goes_on, 30)
                answered[0] = len(traffic.told().accepted)
                strike(broker)
                if strike is Server.kill:
                    time.sleep(0.5)
                    broker.start()
            wait_until("answer after the last blow", goes_on, 30)
            told = traffic.finish(40)
            facts, took = settled(settings.database_url, 20)
    with capsys.disabled():
        sys.stdout.write(
            f"\nbroker emptied 4 times and killed 2 times: {len(told.accepted)} updates accepted, "
            f"{len(facts.aggregates)} aggregates; quiet after {took:.1f} s\n"
        )
    assert told.problems == []
    assert violations(facts, quiet=True) == []
    assert unaccounted(facts, told.accepted) == []
    assert len(told.accepted) >= 30


def test_updates_whose_every_hint_was_lost_are_counted_within_two_sweeps(tmp_path: Path) -> None:
    """No message says that these rounds are due: not one was ever sent, and the queues were emptied besides."""
    with valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker)
        with fleet_running(settings, tmp_path / "logs"):
            models = _paused_with_an_update_each(settings, 5)
            with closing(sqlite3.connect(settings.database_url.removeprefix("sqlite:///"), timeout=30)) as file:
                file.execute("UPDATE federated_model SET allow_aggregation = 1")
                file.commit()
            flush(broker)
            facts, took = settled(settings.database_url, 20)
    assert sorted(model["head"] for model in facts.models) == [1] * len(models)
    assert violations(facts, quiet=True) == []
    # Two sweeps, each up to a fifth later than its time, and a second for five rounds on a busy machine.
    assert took <= 2 * _SWEEP * 1.2 + 1.0


def test_a_worker_that_nobody_sends_to_still_takes_over_from_the_dead(tmp_path: Path) -> None:
    """A round whose worker is gone for good, on a broker that knows nothing of it."""
    with valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker)
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
            facts, took = settled(settings.database_url, 20)
    assert [row["state"] for row in facts.rounds] == ["RESCUED", "POSTED"]
    assert violations(facts, quiet=True) == []
    assert took <= 3 * _SWEEP * 1.2 + 1.0


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
