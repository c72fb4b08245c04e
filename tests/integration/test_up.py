"""`python -m worker up`: one command, a whole hub, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from celery.utils.nodenames import worker_direct

from config.loading import load_settings
from fedqueue import Client
from fedqueue.messages.names import MODELS_LATEST
from tests.hubs import RunningHub, hub_running, run_worker_command, running, stop_idle_pool
from worker.bootstrap import HubCelery
from worker.health import embedded_worker_names
from worker.watchdog import EXIT_HUNG


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One hub for the tests that only look."""
    with hub_running(tmp_path_factory.mktemp("up") / "home") as started:
        yield started


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with hub_running(tmp_path / "home") as started:
        yield started


def _wait_for_another(hub: RunningHub, name: str, before: int, seconds: float = 60.0) -> None:
    """Return once that process's place is taken by a new one."""
    hub.wait_for(f"another {name}", lambda: hub.pid_of(name) != before, seconds)


def test_one_command_starts_a_hub_that_says_how_to_reach_it(shared_hub: RunningHub) -> None:
    assert shared_hub.events("ready")[0]["seconds"] > 0
    assert {e["name"] for e in shared_hub.events("started")} == {"server", "worker1", "worker2", "beat"}
    endpoint = shared_hub.home / "endpoint.json"
    found = json.loads(endpoint.read_text())
    assert set(found) == {"broker_url", "result_url", "store_url"}
    assert found["store_url"] == f"file://{shared_hub.home}/store"
    assert stat.S_IMODE(endpoint.stat().st_mode) == 0o600

    health = shared_hub.command("health", "--json")
    assert health.returncode == 0, health.stdout
    assert [report["health"] for report in json.loads(health.stdout)] == ["alive", "alive"]

    status = json.loads(shared_hub.command("status", "--json").stdout)
    assert status["models"] == 0
    assert [worker["health"] for worker in status["workers"]] == ["alive", "alive"]
    assert set(status["queues"]) == {"fedqueue.control", "fedqueue.updates", "fedqueue.aggregate", "fedqueue.events"}


def test_only_its_user_may_talk_to_the_private_server(shared_hub: RunningHub) -> None:
    broker = json.loads((shared_hub.home / "endpoint.json").read_text())["broker_url"]
    socket = Path(broker.removeprefix("redis+socket://").partition("?")[0])
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_a_killed_process_is_started_again_and_said(hub: RunningHub) -> None:
    """Server, worker or beat: none of them is the one that must not die."""
    for name in ("worker1", "beat", "server"):
        before = hub.pid_of(name)
        pool = psutil.Process(before).children(recursive=True)
        os.kill(before, signal.SIGKILL)
        _wait_for_another(hub, name, before)
        assert hub.events("died", name)[-1]["detail"].startswith("killed by SIGKILL")
        # Killed it is by then; a busy machine may let it die a moment later.
        hub.wait_for(f"the end of {name}'s pool", lambda pool=pool: not running(set(pool)))  # type: ignore[misc]
    hub.wait_for("health", lambda: hub.command("health").returncode == 0)


def test_what_a_killed_worker_had_begun_is_begun_again_at_once(hub: RunningHub) -> None:
    """Left to Redis, a submission that died with its worker would wait for the visibility timeout: 20 minutes."""
    settings = load_settings(env_file=None, home=hub.home)
    app = HubCelery(settings)
    name = next(each for each in embedded_worker_names(settings) if each.startswith("worker1@"))
    worker = hub.pid_of("worker1")
    pool = psutil.Process(worker).children()
    for process in pool:
        process.suspend()
    # In the worker's own queue, so that no other takes it; as late to be acknowledged as a submission.
    waiting = [
        app.send_task(MODELS_LATEST, args=[{"model_id": str(uuid4())}], queue=worker_direct(name), ignore_result=False)
        for _ in pool
    ]
    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        hub.wait_for("both taken", lambda: client.hlen("unacked") >= len(pool))
    os.kill(worker, signal.SIGKILL)
    answers = [each.get(timeout=60) for each in waiting]
    assert [answer["rejection"]["kind"] for answer in answers] == ["UnknownModel"] * len(pool)


@pytest.mark.wide
@pytest.mark.slow
def test_a_worker_whose_pool_hangs_is_replaced_within_a_minute(hub: RunningHub) -> None:
    """Its main loop is healthy and its process lives: only a task in the pool can tell."""
    hung = hub.pid_of("worker1")
    settings = load_settings(env_file=None, home=hub.home)
    name = next(each for each in embedded_worker_names(settings) if each.startswith("worker1@"))
    stop_idle_pool(settings, name, hung)
    _wait_for_another(hub, "worker1", hung, 60)
    # The supervisor's canaries or the worker's own, whichever were due first.
    left = [event for event in hub.events("died", "worker1") if f"exit code {EXIT_HUNG}" in event["detail"]]
    assert {event["pid"] for event in [*hub.events("hung"), *left]} == {hung}
    hub.wait_for("health", lambda: hub.command("health").returncode == 0)


def test_ctrl_c_ends_everything_in_order(tmp_path: Path) -> None:
    # Idle workers wait for nothing, so that this is not waited for; but a busy machine may take long to end them.
    patience = 60
    with hub_running(tmp_path / "home", {"FEDQUEUE_SOFT_SHUTDOWN_SECONDS": str(patience)}) as hub:
        family = hub.family()
        assert len(family) >= 8, "the supervisor, server, beat, two workers with two processes each"
        hub.process.send_signal(signal.SIGINT)
        assert hub.process.wait(patience - 10) == 0
        assert running(family) == []
        assert not (hub.home / "endpoint.json").exists()
        # Beat has nothing to lose, and is waited for three seconds only.
        killed = {event["name"] for event in hub.events("killed")}
        assert killed <= {"beat"}, "all others ended by themselves"


def test_a_stopped_hubs_database_is_whole_in_its_one_file(hub: RunningHub, tmp_path: Path) -> None:
    """Whoever copies a stopped hub's file has everything, though none of its processes closed it and another has it."""
    with Client(json.loads((hub.home / "endpoint.json").read_text())["broker_url"]) as client:
        created = client.create_model()
    with closing(sqlite3.connect(hub.home / "fedqueue.db")) as another:
        another.execute("SELECT * FROM federated_model").fetchall()
        for process in psutil.Process(hub.process.pid).children(recursive=True):
            # A worker's pool dies with it, perhaps before its turn comes.
            with suppress(psutil.NoSuchProcess):
                process.kill()
        hub.process.send_signal(signal.SIGINT)
        assert hub.process.wait(60) == 0
        copy = shutil.copy(hub.home / "fedqueue.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(copy)) as file:
        assert file.execute("SELECT uuid FROM federated_model").fetchall() == [(created.model_id.hex,)]


def test_a_killed_supervisor_takes_everything_with_it(hub: RunningHub) -> None:
    """Else a private server nobody knows of would go on, and the next `up` find its folder in use."""
    family = hub.family()
    hub.process.kill()
    hub.process.wait()
    deadline = time.monotonic() + 60
    while running(family) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(family) == []
    with hub_running(hub.home) as again:
        assert again.events("ready")


def test_a_second_hub_in_the_same_home_is_refused_and_told_who_is_there(shared_hub: RunningHub) -> None:
    second = shared_hub.command("up")
    assert second.returncode == 2
    assert second.stderr == (
        f"error: an embedded hub runs in {shared_hub.home} already (process {shared_hub.process.pid}): "
        "use it, stop it, or set FEDQUEUE_HOME to another folder\n"
    )
    assert shared_hub.command("health").returncode == 0


def test_a_home_with_a_path_too_long_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    with hub_running(tmp_path / ("deep" * 20) / "a home") as hub:
        assert hub.command("health").returncode == 0


def test_health_without_a_hub_is_an_exit_code_and_a_reason(tmp_path: Path) -> None:
    found = run_worker_command(tmp_path, "health", "--seconds", "1")
    assert found.returncode == 1
    assert "unreachable" in found.stdout
    assert "Traceback" not in found.stderr


def test_a_start_that_cannot_succeed_ends_with_the_reason_and_nothing_running(tmp_path: Path) -> None:
    found = run_worker_command(tmp_path, "up", REDIS_SERVER="/nowhere/server")
    assert found.returncode == 2
    assert "REDIS_SERVER names /nowhere/server" in found.stderr
    assert "Traceback" not in found.stderr
