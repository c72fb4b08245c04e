"""Flower as its users run it: a SuperLink that simulates SuperNodes, and `flwr run` for an app."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from worker.children import die_with_parent

ROOT: Final = Path(__file__).resolve().parents[2]
APP: Final = Path(__file__).resolve().parent
_START_SECONDS: Final = 60.0

_CONFIG = """[superlink]
default = "local"

[superlink.local]
address = "127.0.0.1:{port}"
insecure = true
options.num-supernodes = {clients}
options.backend.client-resources.num-cpus = 1
"""


class FlowerFailed(Exception):
    """Flower did not do what it was asked to; what it said lies in the file named."""


@dataclass(frozen=True)
class Flower:
    """A SuperLink that runs, and the environment that its commands need."""

    programs: Path
    folder: Path
    superlink: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    def start(self, **config: str | int | bool) -> Training:
        """The app's training, under way."""
        words = [f"{name.replace('_', '-')}={_toml(value)}" for name, value in config.items()]
        log = self.folder / f"run{len(list(self.folder.glob('run*.log')))}.log"
        process = subprocess.Popen(
            [str(self.programs / "flwr"), "run", str(APP), "--stream", "--run-config", " ".join(words)],
            env=dict(self.environment),
            cwd=self.folder,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )
        return Training(self, process, log)


@dataclass(frozen=True)
class Training:
    """One `flwr run`."""

    flower: Flower
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, seconds: float) -> str:
        """What it said, when it is over. Raises: FlowerFailed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise FlowerFailed(f"the training was not over in {seconds:g} s: {self.log}") from error
        said = self.log.read_text(errors="replace")
        if code or "Strategy execution finished" not in said:
            raise FlowerFailed(f"the training failed: {self.log}\n{said[-4000:]}")
        return said

    def kill_server_app(self) -> None:
        """SIGKILL to the process that runs the ServerApp, and to all that came of it.

        The SuperLink stays, and its SuperExec, which starts a process for each run.
        """
        for process in psutil.Process(self.flower.superlink.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if not any("superexec" in word for word in process.cmdline()):
                    process.kill()
        self.process.kill()
        self.process.wait()


@contextmanager
def flower_running(programs: Path, folder: Path, home: Path, clients: int) -> Iterator[Flower]:
    """A SuperLink of its own, with so many simulated SuperNodes; the app finds the hub of that home."""
    folder.mkdir(parents=True, exist_ok=True)
    port, control = _free_port(), _free_port()
    (folder / "config.toml").write_text(_CONFIG.format(port=port, clients=clients), encoding="utf-8")
    # Of this repository the ServerApp sees what others install, and nothing else.
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    if not (packages / "fedqueue").exists():
        (packages / "fedqueue").symlink_to(ROOT / "fedqueue")
    environment = {
        "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        "HOME": str(folder),
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # The simulation starts Ray, by forks, while the ServerApp evaluates the initial model in another thread. A fork
        # beside a product that OpenBLAS does in several threads hangs for ever, and the run is given up a minute later.
        "OPENBLAS_NUM_THREADS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": str(packages),
        "FEDQUEUE_HOME": str(home),
    }
    command = [
        *(str(programs / "flower-superlink"), "--insecure", "--simulation"),
        "--disable-runtime-dependency-installation",
        *("--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}"),
    ]
    log = folder / "superlink.log"
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent(),
    )
    try:
        _wait_for(process, port, log)
        yield Flower(programs, folder, process, environment)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise FlowerFailed(f"the SuperLink did not start: {log}\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _toml(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f"'{value}'"
