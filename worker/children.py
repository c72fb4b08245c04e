"""A child process that never outlives its parent, and whose whole family can be ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_KEPT_LOG_BYTES: Final = 16 << 20


@dataclass
class Child:
    """One process in a session of its own, its output appended to `log`.

    Start it from a thread that lives as long as it may: on Linux the kernel kills it when that thread ends.
    """

    name: str
    role: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    restarts: int = 0
    started_at: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it (again)."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        _keep_short(self.log)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own session: a Ctrl-C at the terminal reaches the supervisor alone, which ends all in order.
                start_new_session=True,
                preexec_fn=die_with_parent(),  # calls one function of libc, loaded before
            )
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int | None:
        """The process id; None if it never started."""
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> str | None:
        """How it ended, for people ("exit code 1", "killed by SIGKILL"); None while it runs."""
        if self._process is None:
            return "never started"
        code = self._process.poll()
        if code is None:
            return None
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"

    def tell(self, signum: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process is not None:
            self._process.send_signal(signum)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_family(self) -> None:
        """End it and all in its session's process group, at once and for good."""
        if self._process is None:
            return
        # Its group has its id. What is left of the group after it has ended is ended too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_lines(self, count: int = 5) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 8192))
                return "\n".join(file.read().decode("utf-8", "replace").strip().splitlines()[-count:])
        except OSError:
            return ""


def _keep_short(log: Path) -> None:
    """A log that has grown long is set aside, in the place of the one set aside before."""
    if log.exists() and log.stat().st_size > _KEPT_LOG_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))


def die_with_parent() -> Callable[[], None] | None:
    """What the child calls before it becomes the program, so that SIGKILL of the parent leaves nothing behind."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before it was asked
            os._exit(1)

    return ask
