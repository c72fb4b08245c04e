"""Contestants as processes: each in its own environment, asked over a pipe, its memory watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.peers.serving import Request

ROOT: Final = Path(__file__).resolve().parents[1]

# Which program, and whose Python runs it.
_PROGRAMS: Final = {
    "fedqueue": ("ours", None),
    "flower": ("flower", ".peers/flower"),
    "nvflare": ("nvflare", ".peers/nvflare"),
    "fma": ("fma", None),
    "limit": ("limit", None),
}
_SAMPLED_EVERY: Final = 0.005


@dataclass(frozen=True)
class Answer:
    """What a contestant said of one request."""

    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class PeerMissing(Exception):
    """A peer's environment has not been made."""


class Contestant:
    """One running contestant."""

    def __init__(self, name: str) -> None:
        """Raises: PeerMissing."""
        program, environment = _PROGRAMS[name]
        python = Path(sys.executable) if environment is None else ROOT / environment / "bin" / "python"
        if not python.exists():
            raise PeerMissing(f"{environment} is not there: run `make peers`")
        self._program = program
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.peers.{program}"],
            cwd=ROOT,
            # numpy's, on what benchmarks/differences.py gives them on purpose.
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # it has imported what it needs

    def ask(self, request: Request) -> Answer:
        """Its answer."""
        asked = asdict(request)
        for answered in ("seconds", "phases", "facts"):
            del asked[answered]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Answer(0.0, error=answer["error"]) if "error" in answer else Answer(**answer)

    def watched(self, request: Request) -> tuple[int, int]:
        """(anonymous bytes before, the most of them during the request); sampled, so rather too low than too high."""
        before = peak = self._anonymous_bytes()
        done = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not done.is_set():
                peak = max(peak, self._anonymous_bytes())
                time.sleep(_SAMPLED_EVERY)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            self.ask(request)
        finally:
            done.set()
            sampler.join()
        return before, peak

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._program} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _anonymous_bytes(self) -> int:
        rollup = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Anonymous:"))


def peak_anonymous_bytes(name: str, request: Request) -> int:
    """How much anonymous memory the request takes at most, beyond the idle process's.

    In a process of its own: one that has worked before keeps what it was given, and would seem to need nothing more.
    What is loaded for the first request (our compiled kernels) is counted. Not timed, as sampling disturbs.
    Raises: PeerMissing.
    """
    with Contestant(name) as fresh:
        before, peak = fresh.watched(request)
    return peak - before
