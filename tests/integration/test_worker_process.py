"""One worker as production runs it: `celery -A worker worker` against a server, with signals and outages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from config.loading import load_settings
from fedqueue.messages.names import CONTROL_QUEUE
from tests.hubs import ROOT, environment, run_worker_command, running
from tests.servers import free_port, valkey_server
from worker.bootstrap import HubCelery
from worker.children import die_with_parent
from worker.health import Health, HealthReport, check_workers, default_worker_name


class Worker:
    """A running worker of one broker and one home."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, broker_url: str, log: Path) -> None:
        self.process = process
        self.log = log
        self.app = HubCelery(load_settings(env_file=None, home=home, broker_url=broker_url))

    def health(self, seconds: float = 5.0) -> HealthReport:
        return check_workers(self.app, [default_worker_name()], seconds)[0]

    def wait_until(self, health: Health, seconds: float = 5.0) -> HealthReport:
        """What it is found in that health by; asked once more it might be too busy to answer."""
        deadline = time.monotonic() + 60
        while (found := self.health(seconds)).health is not health:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def says_pong(self) -> bool:
        """Whether its main loop answers, as soon as it does."""
        name = default_worker_name()
        return bool(self.app.control.ping(destination=[name], timeout=20) == [{name: {"ok": "pong"}}])

    def pool(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def sleep(self, seconds: float) -> None:
        """Send a task that takes that long."""
        self.app.send_task("tests.sleep", args=[seconds], ignore_result=True)


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.05)


@contextmanager
def worker_running(home: Path, broker_url: str, app: str = "worker", **variables: str) -> Iterator[Worker]:
    """`celery -A APP worker` with two processes; killed with all it started when the block ends."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", app, "worker", "-c", "2"],
            cwd=ROOT,
            env=environment(home, FEDQUEUE_BROKER_URL=broker_url, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    try:
        yield Worker(process, home, broker_url, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def migrated(home: Path) -> Path:
    """A home whose database is ready."""
    assert run_worker_command(home, "migrate").returncode == 0
    return home


def test_a_plain_celery_worker_answers_a_canary_from_its_pool(migrated: Path, valkey_url: str) -> None:
    """Nothing but Celery's own command line: queues, routes and readiness come with the application."""
    with worker_running(migrated, valkey_url) as worker:
        answering = int(worker.wait_until(Health.ALIVE).detail.split()[1])
        assert answering in [process.pid for process in worker.pool()]
        inspect = worker.app.control.inspect(destination=[default_worker_name()], timeout=20)
        consumed = inspect.active_queues()[default_worker_name()]
        direct = f"{default_worker_name()}.dq2"
        assert {queue["name"] for queue in consumed} == {
            "fedqueue.control",
            "fedqueue.updates",
            "fedqueue.aggregate",
            "fedqueue.events",
            direct,
        }
        by_command = run_worker_command(migrated, "health", FEDQUEUE_BROKER_URL=valkey_url)
        assert by_command.returncode == 0


def test_a_worker_whose_pool_hangs_is_unwell_although_it_answers_a_ping(migrated: Path, valkey_url: str) -> None:
    with worker_running(migrated, valkey_url) as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        for process in worker.pool():
            process.suspend()
        assert worker.says_pong()
        found = run_worker_command(migrated, "health", "--seconds", "1", FEDQUEUE_BROKER_URL=valkey_url)
        assert found.returncode == 1
        assert "silent" in found.stdout


def test_a_worker_at_long_aggregations_in_every_process_is_busy_and_not_ill(migrated: Path, valkey_url: str) -> None:
    """Else an orchestrator would kill it in the middle of the longest rounds."""
    with worker_running(migrated, valkey_url, app="tests.slow_tasks") as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        worker.sleep(30)
        worker.sleep(30)
        assert worker.wait_until(Health.BUSY, 0.5).is_well


def test_an_idle_worker_told_to_stop_stops_at_once(migrated: Path, valkey_url: str) -> None:
    with worker_running(migrated, valkey_url) as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        worker.process.send_signal(signal.SIGTERM)
        # Well before it would turn cold, after FEDQUEUE_SOFT_SHUTDOWN_SECONDS: 20.
        assert worker.process.wait(15) == 0


def test_a_worker_told_to_stop_as_a_task_begins_stops_as_soon_as_it_is_done(migrated: Path, valkey_url: str) -> None:
    """It forgets the task, which nobody said was begun; the process waits for its last word to be heard, or 30 s."""
    with worker_running(migrated, valkey_url, app="tests.slow_tasks") as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        for process in worker.pool():
            process.suspend()
        worker.sleep(0.1)
        asked = worker.app.control.inspect(timeout=1)
        # Once it is reserved it is in a process's pipe: they are free, as far as the worker knows.
        until(lambda: (asked.reserved() or {}).get(default_worker_name()))
        worker.process.send_signal(signal.SIGTERM)
        # Its main loop is over: from here on it waits for nothing but its processes.
        until(lambda: not worker.app.control.ping(destination=[default_worker_name()], timeout=2))
        for process in worker.pool():
            process.resume()
        assert worker.process.wait(15) == 0


@pytest.mark.parametrize("remap", ["", "SIGQUIT"])
def test_a_worker_told_to_stop_gives_back_what_it_can_not_end_in_time(
    migrated: Path, valkey_url: str, remap: str
) -> None:
    """Given back, another worker has it at once; kept, it would wait for the visibility timeout: 20 minutes."""
    variables = {"FEDQUEUE_SOFT_SHUTDOWN_SECONDS": "2"} | ({"REMAP_SIGTERM": remap} if remap else {})
    with worker_running(migrated, valkey_url, app="tests.slow_tasks", **variables) as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        worker.sleep(60)
        asked = worker.app.control.inspect(timeout=1)
        until(lambda: (asked.active() or {}).get(default_worker_name()))
        worker.process.send_signal(signal.SIGTERM)
        # Well before the task would be done.
        assert worker.process.wait(40) == 0
    with redis.Redis.from_url(valkey_url, decode_responses=True) as broker:
        waiting = [json.loads(message)["headers"]["task"] for message in broker.lrange(CONTROL_QUEUE, 0, -1)]
        assert waiting.count("tests.sleep") == 1
        assert broker.hlen("unacked") == 0


def test_a_killed_workers_pool_goes_with_it(migrated: Path, valkey_url: str) -> None:
    """A pool process that lived on could still post; the fence would stop it, but it would also eat memory."""
    with worker_running(migrated, valkey_url) as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        pool = set(worker.pool())
        assert len(pool) == 2
        os.kill(worker.process.pid, signal.SIGKILL)
        until(lambda: not running(pool))


def test_a_worker_waits_for_a_broker_and_a_schema_that_come_after_it(home: Path, tmp_path: Path) -> None:
    """Under compose nothing promises an order, and a worker that gave up would have to be restarted by somebody."""
    folder = tmp_path / "broker"
    folder.mkdir()
    with valkey_server(folder) as server:
        server.stop()
        with worker_running(home, server.url) as worker:
            until(lambda: "waiting for the database" in worker.log.read_text())
            assert "run `python -m worker migrate`" in worker.log.read_text()
            assert worker.health(0.5).health is Health.UNREACHABLE
            assert run_worker_command(home, "migrate").returncode == 0
            until(lambda: "Cannot connect to" in worker.log.read_text())
            server.start()
            until(lambda: worker.health(2.0).health is Health.ALIVE)


def test_a_worker_with_a_misspelt_setting_does_not_start(migrated: Path, valkey_url: str) -> None:
    with worker_running(migrated, valkey_url, FEDQUEUE_LEASE_SECOND="3") as worker:
        assert worker.process.wait(60) == 2
        said = worker.log.read_text()
        assert "did you mean FEDQUEUE_LEASE_SECONDS?" in said
        assert "Traceback" not in said


def test_no_password_of_the_broker_reaches_the_workers_log(migrated: Path) -> None:
    """Nobody is there: exactly when everything about the connection is logged."""
    with worker_running(migrated, f"redis://:hushhush@127.0.0.1:{free_port()}/0") as worker:
        until(lambda: "Cannot connect to" in worker.log.read_text())
        assert "hushhush" not in worker.log.read_text()
