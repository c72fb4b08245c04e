"""What the embedded hub consists of: its settings, and each process's command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from config.places import logs_in
from config.settings import PREFIX, Settings
from worker.children import Child
from worker.health import embedded_worker_names

_ROOT: Final = Path(__file__).resolve().parent.parent

# On one machine a dead worker is seen at once, so its round need not wait long; a terminal should not either.
EMBEDDED_DEFAULTS: Final[dict[str, Any]] = {
    "lease_seconds": 1.5,
    "sweep_seconds": 0.5,
    "soft_shutdown_seconds": 5.0,
    # One process for a long aggregation, one for what is asked meanwhile.
    "worker_concurrency": 2,
}


def embedded_settings(settings: Settings) -> Settings:
    """`settings` with what suits one machine wherever they were left at their defaults."""
    left = {name: value for name, value in EMBEDDED_DEFAULTS.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=left)


def worker_command(arguments: Sequence[str] = ()) -> list[str]:
    """Celery's command line for a worker."""
    return [
        *_celery(),
        "worker",
        # A worker would wait a second for others to introduce themselves, and then listen to all they do.
        "--without-mingle",
        "--without-gossip",
        *arguments,
    ]


def beat_command(arguments: Sequence[str] = ()) -> list[str]:
    """Celery's command line for beat."""
    return [*_celery(), "beat", *arguments]


def process_environment(settings: Settings) -> dict[str, str]:
    """What a process needs to run under these very settings, wherever it is started."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    path = os.pathsep.join(part for part in (str(_ROOT), kept.get("PYTHONPATH", "")) if part)
    return {**kept, **settings.as_environment(), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def worker_children(settings: Settings) -> list[Child]:
    """The embedded hub's workers, not started yet."""
    environment = process_environment(settings)
    return [
        Child(
            name.partition("@")[0],
            "worker",
            worker_command(["--hostname", name]),
            environment,
            logs_in(settings.home) / f"{name.partition('@')[0]}.log",
        )
        for name in embedded_worker_names(settings)
    ]


def beat_child(settings: Settings) -> Child:
    """The embedded hub's beat, not started yet."""
    environment = process_environment(settings)
    return Child("beat", "beat", beat_command(), environment, logs_in(settings.home) / "beat.log")


def _celery() -> list[str]:
    return [sys.executable, "-m", "celery", "--quiet", "--app", "worker"]
