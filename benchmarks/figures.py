"""Distributions of durations, and the facts of the machine that they were measured on."""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

_PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "numpy", "safetensors")


@dataclass(frozen=True)
class Distribution:
    """Percentiles by nearest rank, in milliseconds: each is a value that was measured."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


def distribution(seconds: Sequence[float]) -> Distribution:
    """The distribution of durations given in seconds. Raises: ValueError if there are none."""
    if not seconds:
        raise ValueError("nothing was measured")
    ordered = sorted(value * 1000 for value in seconds)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Distribution(len(ordered), rank(0.5), rank(0.9), rank(0.99), ordered[-1])


def machine_facts(folder: Path) -> dict[str, Any]:
    """What the figures depend on: cores, processor, versions, and what one fsync costs where the store lies."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "fsync_ms": round(_fsync_ms(folder), 3),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _fsync_ms(folder: Path, tries: int = 50) -> float:
    """The median of writing 4 KiB into a new file and having it on disk."""
    took = []
    for _ in range(tries):
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1000
