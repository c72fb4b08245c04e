"""What runs beside the hub: MLflow's tracking server, and the mirror, each as its users start it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from examples.mirrors.tracking import Tracking
from worker.children import Child

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAMS: Final = ROOT / ".peers/mirrors/bin"
NOTIFY: Final = {"FEDQUEUE_NOTIFY_TASK": "fedqueue.mirrors.hear", "FEDQUEUE_NOTIFY_QUEUE": "fedqueue.mirrors"}


def tracking_server(folder: Path, port: int | None = None) -> tuple[Child, Tracking]:
    """`mlflow server` on SQLite and a folder for artifacts, to be started; a port of its own if none is named."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    command = [
        *(str(PROGRAMS / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")),
    ]
    server = Child("mlflow", "tracking server", command, _environment(folder), folder / "server.log")
    return server, Tracking(f"http://127.0.0.1:{port}")


def mirror(folder: Path, home: Path, **variables: str) -> Child:
    """`python -m fedqueue.mirrors` for the hub of that home, to be started; it looks twice a second."""
    # Of this repository it sees what others install, and nothing else.
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    if not (packages / "fedqueue").exists():
        (packages / "fedqueue").symlink_to(ROOT / "fedqueue")
    said = {"FEDQUEUE_HOME": str(home), "FEDQUEUE_MIRROR_SECONDS": "0.5", **NOTIFY, **variables}
    environment = _environment(folder) | {"PYTHONPATH": str(packages)} | said
    return Child(
        "mirror",
        "mirror",
        [str(PROGRAMS / "python"), "-P", "-m", "fedqueue.mirrors"],
        environment,
        folder / "mirror.log",
    )


@contextmanager
def started(child: Child) -> Iterator[Child]:
    """The process, started; killed with all it started when the block ends."""
    child.start()
    try:
        yield child
    finally:
        child.kill_family()


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{PROGRAMS}:{os.environ.get('PATH', '')}",
        "HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
