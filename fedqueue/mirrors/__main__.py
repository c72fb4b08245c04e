"""Listen to a hub's notifications until stopped: `python -m fedqueue.mirrors`, set up by its environment alone."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from fedqueue.client import Client
from fedqueue.endpoint import find_endpoint, find_signing
from fedqueue.errors import FedqueueError
from fedqueue.messages.notifications import Notification
from fedqueue.mirrors.following import Follower, Mirror
from fedqueue.remote_stores import SIGNED_URLS, open_store

log = logging.getLogger("fedqueue.mirrors")


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
        if settings.mlflow is not None:
            from fedqueue.mirrors.mlflow_runs import MlflowMirror

            mirrors.append(MlflowMirror(settings.mlflow, settings.experiment))
        if settings.tensorboard is not None:
            from fedqueue.mirrors.event_files import EventFileMirror

            mirrors.append(EventFileMirror(settings.tensorboard))
    except ImportError as error:
        raise NotConfigured(f"{error.name} is not installed: pip install {error.name}") from error
    return mirrors


def build_app(settings: MirrorSettings, follower: Follower) -> Celery:
    """The Celery application whose one task hears the hub. Raises: EndpointUnknown, InvalidArgument."""
    endpoint = find_endpoint()
    broker = endpoint.broker()
    app = Celery("fedqueue.mirrors", broker=broker.url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=broker.tls,
        broker_connection_retry_on_startup=True,
        task_default_queue=settings.queue,
        task_default_queue_type="quorum" if broker.url.startswith("amqp") else "classic",
        task_ignore_result=True,
        # A notification whose listener was killed, or whose mirror is away, comes again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
    )

    @app.task(name=settings.task, bind=True, max_retries=None)
    def hear(self: Any, payload: dict[str, Any]) -> None:
        try:
            follower.hear(Notification.model_validate(payload))
        except Exception as error:
            # A tracking server or hub that is away: the fact is not lost, and those behind it wait.
            log.warning("not shown yet: %s", error)
            raise self.retry(exc=error, countdown=settings.seconds) from error

    return app


def main() -> int:
    """Listen until SIGTERM; 2 if the environment does not say how."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = read_settings(os.environ)
        if find_signing() is not None:
            raise NotConfigured("a hub that signs its messages can't be mirrored yet: FEDQUEUE_SIGNING_KEY is set")
        store_url = find_endpoint().store_url
        if store_url == SIGNED_URLS:
            raise NotConfigured("FEDQUEUE_STORE_URL must name the hub's bucket here: published models are read from it")
        hub = Client()
        follower = Follower(hub, open_store(store_url, hub), build_mirrors(settings))
        app = build_app(settings, follower)
    except (NotConfigured, FedqueueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ending = threading.Event()

    def look_now_and_then() -> None:
        while not ending.wait(settings.seconds):
            try:
                follower.look()
            except Exception:
                log.exception("the mirrors could not be brought up to date; tried again in %g s", settings.seconds)

    looking = threading.Thread(target=look_now_and_then, name="fedqueue-mirrors", daemon=True)
    looking.start()
    try:
        app.worker_main(["worker", "--pool", "solo", "--without-mingle", "--without-gossip", "--loglevel", "WARNING"])
    finally:
        ending.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
