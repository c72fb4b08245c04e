"""Listen to a hub's notifications until stopped: `python -m fedqueue.mirrors`, set up by its environment alone."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedqueue.client import Client
from fedqueue.endpoint import find_endpoint, find_signing
from fedqueue.errors import FedqueueError
from fedqueue.mirrors.following import Follower, Mirror
from fedqueue.mirrors.listening import build_app, listen, look_until
from fedqueue.remote_stores import SIGNED_URLS, open_store


class NotConfigured(Exception):
    """A variable is missing or wrong; says which."""


@dataclass(frozen=True)
class MirrorSettings:
    """What the environment asks for."""

    task: str
    queue: str
    mlflow: str | None
    experiment: str
    tensorboard: Path | None
    seconds: float


def read_settings(environ: Mapping[str, str]) -> MirrorSettings:
    """Raises: NotConfigured naming the variable."""
    task, queue = environ.get("FEDQUEUE_NOTIFY_TASK"), environ.get("FEDQUEUE_NOTIFY_QUEUE")
    if not task or not queue:
        raise NotConfigured("FEDQUEUE_NOTIFY_TASK and FEDQUEUE_NOTIFY_QUEUE must be set as on the hub's workers")
    mlflow, folder = environ.get("FEDQUEUE_MIRROR_MLFLOW"), environ.get("FEDQUEUE_MIRROR_TENSORBOARD")
    if not mlflow and not folder:
        raise NotConfigured(
            "set FEDQUEUE_MIRROR_MLFLOW (a tracking URI), FEDQUEUE_MIRROR_TENSORBOARD (a folder), or both"
        )
    try:
        seconds = float(environ.get("FEDQUEUE_MIRROR_SECONDS", "10"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise NotConfigured("FEDQUEUE_MIRROR_SECONDS must be a number above 0")
    experiment = environ.get("FEDQUEUE_MIRROR_EXPERIMENT", "fedqueue")
    return MirrorSettings(task, queue, mlflow or None, experiment, Path(folder) if folder else None, seconds)


def build_mirrors(settings: MirrorSettings) -> list[Mirror]:
    """Those that are asked for. Raises: NotConfigured if what one needs is not installed."""
    mirrors: list[Mirror] = []
    try:
        # What is on this machine first: a notification is shown by one after the other.
        if settings.tensorboard is not None:
            from fedqueue.mirrors.event_files import EventFileMirror

            mirrors.append(EventFileMirror(settings.tensorboard))
        if settings.mlflow is not None:
            from fedqueue.mirrors.mlflow_runs import MlflowMirror

            mirrors.append(MlflowMirror(settings.mlflow, settings.experiment))
    except ImportError as error:
        raise NotConfigured(f"{error.name} is not installed: pip install {error.name}") from error
    return mirrors


def main() -> int:
    """Listen until SIGTERM; 2 if the environment does not say how."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # each of its retries is told again by who asked
    try:
        settings = read_settings(os.environ)
        endpoint = find_endpoint()
        if endpoint.store_url == SIGNED_URLS:
            raise NotConfigured("FEDQUEUE_STORE_URL must name the hub's bucket here: published models are read from it")
        hub = Client()
        store = open_store(endpoint.store_url, hub)
        followers = [Follower(hub, store, mirror) for mirror in build_mirrors(settings)]
        app = build_app(endpoint, find_signing(), settings.task, settings.queue, settings.seconds, followers)
    except (NotConfigured, FedqueueError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ending = threading.Event()
    for follower in followers:
        # A thread for each: one that is away keeps no other from showing what there is.
        name = f"fedqueue-{follower.mirror.name}"
        threading.Thread(target=look_until, args=(ending, follower, settings.seconds), name=name, daemon=True).start()
    try:
        listen(app)
    finally:
        ending.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
