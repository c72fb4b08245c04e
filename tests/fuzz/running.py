"""Running one parser over many inputs, in a process of its own that may not hang, grow or keep a file open.

The parser answers True (it took the input) or False (it refused it, in the way that it promises). Any other exception
is a crash; so is an input that takes longer than `CASE_SECONDS`, a process that grows by more than the cap, and a file
descriptor that is left open. The input is kept in FUZZ_FINDINGS, where that names a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from types import FrameType
from typing import Final

CASE_SECONDS: Final = 10.0
MEMORY_CAP: Final = 256 << 20  # bytes that the process may grow by, for inputs of some kilobytes
_MOST_CRASHES: Final = 20
_EVERY: Final = 500  # inputs between two looks at descriptors

Parse = Callable[[bytes], bool]


class Hang(BaseException):
    """An input took too long. No Exception, so that no parser takes it for a damaged input."""


@dataclass
class Findings:
    """What a run has come to."""

    executions: int = 0
    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0
    grown_mib: float = 0.0
    crashes: list[str] = field(default_factory=list)


def fuzz(
    make: Callable[[], tuple[Parse, Callable[[], bytes]]], *, seconds: float, most: float = inf, least: int = 200
) -> Findings:
    """Run for `seconds` or `most` inputs, whichever is over first, but for `least` inputs however long they take.

    `make` gives the parser and the source of its inputs.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            text = json.dumps(asdict(_run(*make(), seconds=seconds, most=most, least=least)))
        except BaseException:  # noqa: BLE001  # told to the test, which fails by it
            text = json.dumps(asdict(Findings(crashes=[traceback.format_exc()])))
        with os.fdopen(writing, "w") as out:
            out.write(text)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Findings(crashes=[f"the process died of it, status {status}"])
    return Findings(**json.loads(text))


def _run(parse: Parse, draw: Callable[[], bytes], *, seconds: float, most: float, least: int) -> Findings:
    found = Findings()
    _silence()
    signal.signal(signal.SIGALRM, _alarm)
    base = _peak()
    # An allocation that the header of a small file asks for fails at once, instead of bringing down the machine.
    limit = _address_space() + 4 * MEMORY_CAP
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    open_before = _descriptors()
    began = time.monotonic()
    while found.executions < least or (time.monotonic() - began < seconds and found.executions < most):
        data = draw()
        found.executions += 1
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
        try:
            if parse(data):
                found.accepted += 1
            else:
                found.refused += 1
        except (Exception, Hang):  # noqa: BLE001  # that is what is looked for
            found.crashes.append(f"{_keep(data)}\n{traceback.format_exc()[-3000:]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if found.executions % _EVERY == 0 and _descriptors() > open_before:
            found.crashes.append(f"{_descriptors() - open_before} descriptors are left open, of the last {_EVERY}")
            open_before = _descriptors()
        if len(found.crashes) >= _MOST_CRASHES:
            break
    found.seconds = time.monotonic() - began
    if _descriptors() > open_before:
        found.crashes.append("descriptors are left open")
    found.grown_mib = (_peak() - base) / (1 << 20)
    if _peak() - base > MEMORY_CAP:
        found.crashes.append(f"the process grew by {found.grown_mib:.0f} MiB")
    return found


def _silence() -> None:
    """Python's parser warns of odd literals: thousands of them here."""
    warnings.simplefilter("ignore")


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"more than {CASE_SECONDS} s")


def _keep(data: bytes) -> str:
    folder = os.environ.get("FUZZ_FINDINGS")
    name = hashlib.sha256(data).hexdigest()[:16]
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(data)
    return f"input {name}: {data[:2000]!r}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
