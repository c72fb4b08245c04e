"""How a mirror hears its hub: a Celery application of one task, and a look now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from celery import Celery
from kombu.exceptions import KombuError
from pydantic import ValidationError

from fedqueue.endpoint import Endpoint
from fedqueue.errors import InvalidArgument
from fedqueue.gate import close_side_doors
from fedqueue.messages.notifications import Notification
from fedqueue.mirrors.following import Follower
from fedqueue.signing import SERIALIZER, BindingAMQP, Signer, SigningFailed, SigningFiles

log = logging.getLogger(__name__)

# Longer than a notification is ever held but for a large model's upload, which may be begun once more.
_VISIBLE_AGAIN: Final = 60


def build_app(
    endpoint: Endpoint,
    signing: SigningFiles | None,
    task: str,
    queue: str,
    seconds: float,
    followers: Sequence[Follower],
) -> Celery:
    """The application whose one task hears the hub; what can't be shown is heard again after `seconds`.

    With `signing` it takes signed messages alone. Raises: InvalidArgument.
    """
    broker = endpoint.broker()
    signer = None
    if signing is not None:
        try:
            signer = Signer(signing, believes_itself=True)  # of its own are those that it is to hear once more
        except SigningFailed as error:
            raise InvalidArgument("FEDQUEUE_SIGNING_*", str(error)) from error
        signer.register()
    close_side_doors(is_signed=signer is not None)
    content = "json" if signer is None else SERIALIZER
    app = Celery(
        "fedqueue.mirrors", broker=broker.url, set_as_current=False, amqp=None if signer is None else BindingAMQP
    )
    app.conf.update(
        task_serializer=content,
        accept_content=[content],
        broker_use_ssl=broker.tls,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_options(broker.url, queue),
        task_default_queue=queue,
        task_default_queue_type="quorum" if broker.url.startswith("amqp") else "classic",
        task_ignore_result=True,
        # A notification whose listener was killed, or whose mirror is away, comes again.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_consumer="fedqueue.gate:GatedConsumer",
    )

    @app.task(name=task, bind=True, max_retries=None)
    def hear(self: Any, payload: Any) -> None:
        try:
            fact = Notification.model_validate(payload)
        except ValidationError as error:
            log.error("not a notification, and left alone: %s", error)
            return
        failures = []
        for follower in followers:
            try:
                follower.hear(fact)
            except Exception as error:  # noqa: BLE001  # whatever a mirror's own client raises
                log.warning("%s: %s is heard once more in %g s: %s", follower.mirror.name, fact.key, seconds, error)
                failures.append(error)
        if failures:
            raise self.retry(exc=failures[0], countdown=seconds)

    return app


def listen(app: Celery) -> None:
    """Hear until SIGTERM."""
    _take_back(app)
    quietly = ["--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "WARNING"]
    app.worker_main(["worker", "--pool", "solo", *quietly])


def look_until(ending: threading.Event, follower: Follower, seconds: float) -> None:
    """Have the follower look at its models at once, and every `seconds`, until the end."""
    while True:
        try:
            follower.look()
        except Exception as error:  # noqa: BLE001  # whatever a mirror's own client raises
            log.warning("%s is away, and tried again in %g s: %s", follower.mirror.name, seconds, error)
        if ending.wait(seconds):
            return


def _options(url: str, queue: str) -> dict[str, Any]:
    if url.startswith("amqp"):
        return {"confirm_publish": True}
    return {
        # Keys of its own: what the hub's workers hold in those of kombu is none of its business.
        "unacked_key": f"{queue}.unacked",
        "unacked_index_key": f"{queue}.unacked_index",
        "unacked_mutex_key": f"{queue}.unacked_mutex",
        "visibility_timeout": _VISIBLE_AGAIN,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
    }


def _take_back(app: Celery) -> None:
    """What a mirror that was killed had taken from Redis is heard at once, not when the visibility timeout is over.

    Of another that lives it is heard twice, which shows nothing twice. RabbitMQ gives it back by itself.
    """
    options = app.conf.broker_transport_options | {"visibility_timeout": 0}
    with (
        app.connection_for_write(transport_options=options) as connection,
        suppress(KombuError, OSError, *connection.connection_errors),
    ):
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        qos: Any = getattr(connection.default_channel, "qos", None)
        if hasattr(qos, "restore_visible"):
            qos.restore_visible(num=None, interval=1)
