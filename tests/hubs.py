"""An embedded hub as a process of its own, for tests: `python -m worker up` as anybody would run it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from config.settings import Settings
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

ROOT = Path(__file__).resolve().parent.parent


def environment(home: Path, **variables: str) -> dict[str, str]:
    """What a command runs in: this one's environment, none of its settings, and those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FEDQUEUE_", "CELERY_"))}
    return kept | {"FEDQUEUE_HOME": str(home), "PYTHONPATH": str(ROOT)} | variables


def run_worker_command(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m worker ARGUMENTS`, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        cwd=ROOT,
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


class RunningHub:
    """A started `up`, its events read as it says them."""

    def __init__(self, process: subprocess.Popen[str], home: Path, output: Path) -> None:
        self.process = process
        self.home = home
        self._output = output
        self.seen: set[int] = set()

    def events(self, kind: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """What it has said so far, of that kind, about that process."""
        said = [json.loads(line) for line in self._output.read_text().splitlines() if line.endswith("}")]
        return [e for e in said if kind in (None, e["event"]) and name in (None, e.get("name"))]

    def pid_of(self, name: str) -> int:
        """The process id it last gave for that name."""
        pid: int = self.events("started", name)[-1]["pid"]
        return pid

    def wait_for(self, what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
        """Return once `holds`; fail with all that was said otherwise."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, f"up ended before {what}:\n{self._output.read_text()}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{self._output.read_text()}"
            time.sleep(0.02)

    def family(self) -> set[psutil.Process]:
        """Every process that came of it and still runs."""
        found = set()
        for pid in {e["pid"] for e in self.events("started")} | {self.process.pid}:
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {psutil.Process(pid), *psutil.Process(pid).children(recursive=True)}
        return found

    def command(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`python -m worker ARGUMENTS` on this hub's home."""
        return run_worker_command(self.home, *arguments, **variables)


def running(processes: set[psutil.Process]) -> list[psutil.Process]:
    """Those of them that still run (a zombie does not)."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def stop_idle_pool(settings: Settings, worker: str, parent: int) -> set[psutil.Process]:
    """Stop that worker's pool at a moment when no process has a task: one stopped in a task may be at a long one."""
    with HubCelery(settings) as app:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pool = set(psutil.Process(parent).children())
            for process in pool:
                process.suspend()
            # The main loop answers, whatever its pool does.
            active = app.control.inspect(destination=[worker], timeout=5.0).active() or {}
            if pool and active and not any(active.values()):
                return pool
            for process in pool:
                process.resume()
            time.sleep(0.05)
    raise AssertionError("the pool was never idle")


@contextmanager
def hub_running(home: Path, variables: Mapping[str, str] | None = None) -> Iterator[RunningHub]:
    """`python -m worker up --json`, ready; ended with the block, by force if need be."""
    home.mkdir(parents=True, exist_ok=True)
    output = home.with_name(home.name + ".out")
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "up", "--json"],
            cwd=ROOT,
            env=environment(home, **(variables or {})),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    hub = RunningHub(process, home, output)
    family: set[psutil.Process] = set()
    try:
        hub.wait_for("ready", lambda: hub.events("ready"), 60)
        yield hub
    finally:
        family = hub.family()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for each in running(family):
            # The kernel ends a child with its parent: one killed here may take the next along.
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
