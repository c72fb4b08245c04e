"""A worker whose pool really hangs ends by itself; one that has a reason to be silent does not."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import redis

from fedqueue.messages.names import CONTROL_QUEUE
from tests.hubs import run_worker_command, running, stop_idle_pool
from tests.integration.test_worker_process import until, worker_running
from tests.servers import valkey_server
from worker.health import Health, default_worker_name
from worker.watchdog import EXIT_HUNG


@pytest.fixture
def migrated(home: Path) -> Path:
    """A home whose database is ready."""
    assert run_worker_command(home, "migrate").returncode == 0
    return home


@pytest.mark.slow
def test_a_worker_whose_pool_hangs_ends_with_its_pool_and_gives_its_messages_back(
    migrated: Path, valkey_url: str
) -> None:
    """Its main loop is healthy, so nobody else would end it; kept, its messages would wait for 20 minutes."""
    # Its patience must outlast what this process does between the stop and the ping, however busy the machine.
    with worker_running(migrated, valkey_url, app="tests.slow_tasks", FEDQUEUE_WATCHDOG_SECONDS="6") as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        pool = stop_idle_pool(worker.app.settings, default_worker_name(), worker.process.pid)
        assert len(pool) == 2
        worker.sleep(0.01)
        worker.sleep(0.01)
        assert worker.says_pong()
        assert worker.process.wait(60) == EXIT_HUNG
        until(lambda: not running(pool))
        said = [json.loads(line) for line in worker.log.read_text().splitlines() if '"watchdog.' in line]
    assert [line["event"] for line in said] == ["watchdog.leaving", "watchdog.left"]
    assert said[0]["level"] == "critical"
    assert sorted(said[0]["pool"]) == sorted(process.pid for process in pool)
    assert said[1]["given_back"] >= 2
    with redis.Redis.from_url(valkey_url, decode_responses=True) as broker:
        waiting = [json.loads(message)["headers"]["task"] for message in broker.lrange(CONTROL_QUEUE, 0, -1)]
        assert waiting.count("tests.sleep") == 2
        assert broker.hlen("unacked") == 0


@pytest.mark.wide
@pytest.mark.slow
def test_a_worker_with_a_reason_to_be_silent_stays(migrated: Path, tmp_path: Path) -> None:
    """The broker away, then the machine stopped, then aggregations in every process: each for twice the patience."""
    patience = 9.0
    folder = tmp_path / "broker"
    folder.mkdir()
    with (
        valkey_server(folder) as server,
        worker_running(migrated, server.url, app="tests.slow_tasks", FEDQUEUE_WATCHDOG_SECONDS=str(patience)) as worker,
    ):
        until(lambda: worker.health().health is Health.ALIVE)
        server.kill()
        time.sleep(2 * patience)
        server.start()
        until(lambda: worker.health().health is Health.ALIVE, 60)

        os.killpg(worker.process.pid, signal.SIGSTOP)
        time.sleep(2 * patience)
        os.killpg(worker.process.pid, signal.SIGCONT)
        until(lambda: worker.health().health is Health.ALIVE, 60)

        for _ in range(2):
            worker.sleep(2 * patience)
        until(lambda: worker.health(0.5).health is Health.BUSY)
        until(lambda: worker.health().health is Health.ALIVE, 60)
        assert worker.process.poll() is None
        assert "watchdog" not in worker.log.read_text()
