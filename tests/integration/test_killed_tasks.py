"""A task whose process is killed: its message is the broker's until the task is done, so it is carried out again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.hubs import run_worker_command
from tests.integration.test_worker_process import until, worker_running
from worker.health import Health, default_worker_name


@pytest.mark.slow
def test_a_task_whose_process_is_killed_is_begun_again(home: Path, valkey_url: str) -> None:
    assert run_worker_command(home, "migrate").returncode == 0
    with worker_running(home, valkey_url, app="tests.slow_tasks") as worker:
        until(lambda: worker.health().health is Health.ALIVE)
        worker.sleep(60)

        def at_work() -> set[int]:
            # To one that is named it returns with that one's answer, however late.
            asked = worker.app.control.inspect(destination=[default_worker_name()], timeout=20).active() or {}
            return {task["worker_pid"] for tasks in asked.values() for task in tasks if task["name"] == "tests.sleep"}

        until(at_work)
        (first,) = at_work()
        os.kill(first, signal.SIGKILL)
        until(lambda: at_work() - {first})
