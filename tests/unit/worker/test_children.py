"""Child processes that never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.hubs import ROOT
from worker.children import Child


def child(folder: Path, code: str) -> Child:
    """A Python process that runs `code`."""
    return Child("child", "worker", [sys.executable, "-c", code], dict(os.environ), folder / "logs" / "child.log")


def test_it_runs_in_a_session_of_its_own_and_its_output_is_kept(tmp_path: Path) -> None:
    """A Ctrl-C at the terminal must reach the supervisor alone."""
    made = child(tmp_path, "import os; print(os.getsid(0) == os.getpid())")
    made.start()
    assert made.wait(10)
    assert made.ended == "exit code 0"
    assert made.last_lines() == "True"


@pytest.mark.parametrize(
    ("code", "ended"),
    [("raise SystemExit(3)", "exit code 3"), ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL")],
)
def test_how_it_ended_is_said_for_people(tmp_path: Path, code: str, ended: str) -> None:
    made = child(tmp_path, code)
    assert made.ended == "never started"
    made.start()
    assert made.wait(10)
    assert made.ended == ended


def test_its_whole_family_is_ended_with_it(tmp_path: Path) -> None:
    made = child(
        tmp_path, "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    made.start()
    while not made.last_lines():
        time.sleep(0.01)
    grandchild = psutil.Process(int(made.last_lines()))
    made.kill_family()
    assert made.ended == "killed by SIGKILL"
    _, alive = psutil.wait_procs([grandchild], timeout=5)
    assert alive == [] or alive[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent_code = (
        "import time; from pathlib import Path; from tests.unit.worker.test_children import child\n"
        f"made = child(Path({str(tmp_path)!r}), 'import time; time.sleep(60)'); made.start()\n"
        "print(made.pid, flush=True); time.sleep(60)"
    )
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    orphan = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([orphan], timeout=5)
    assert alive == [] or alive[0].status() == psutil.STATUS_ZOMBIE


def test_a_log_that_has_grown_long_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    made = child(tmp_path, "print('new')")
    made.log.parent.mkdir()
    with made.log.open("wb") as file:
        file.truncate((16 << 20) + 1)
    made.start()
    assert made.wait(10)
    assert made.log.read_text() == "new\n"
    assert made.log.with_suffix(".log.1").stat().st_size == (16 << 20) + 1
