"""How messages leave and answers come back: Celery's wire format over kombu, nothing of the application.

Made from the URLs alone: the settings and CELERY_* variables of a service that runs Celery itself do not reach it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from celery import Celery
from celery.app import backends
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.pools import ProducerPool

from fedqueue.endpoint import Endpoint, masked
from fedqueue.messages.names import AGGREGATE_QUEUE, CONTROL_QUEUE, ROUNDS_AGGREGATE

_CONNECT_SECONDS: Final = 5
_FIRST_LOOK: Final = 0.002
_LONGEST_LOOK: Final = 0.05


class BrokerAway(Exception):
    """The broker, or the place of the answers, did not do its part now; the same call may succeed later."""


@dataclass(frozen=True)
class Reply:
    """What a task ended in: `value` as it returned it, or the name and text of what broke it."""

    value: Any = None
    failure: str | None = None
    failure_text: str = ""


class Transport(Protocol):
    """One way to a hub. Every call is bounded in time; both raise BrokerAway."""

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        """Return once the broker has the message."""

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        """The task's reply; None if there was none in that time."""

    def close(self) -> None:
        """Give the connections back."""


class CeleryTransport:
    """A hub behind a broker and a result backend. Safe to share between threads, and across a fork."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lines = _Lines(endpoint)

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        lines = self._own_lines()
        try:
            with lines.producer() as producer:
                lines.app.send_task(
                    task,
                    args=[message],
                    task_id=task_id,
                    producer=producer,
                    queue=lines.queue(AGGREGATE_QUEUE if task == ROUNDS_AGGREGATE else CONTROL_QUEUE),
                    ignore_result=not answered,
                    retry=False,
                    add_to_parent=False,
                    # Celery would print the message's values into every log on its way.
                    argsrepr="(…)",
                    kwargsrepr="{}",
                )
        except lines.broker_errors as error:
            raise BrokerAway(f"{masked(self._endpoint.broker_url)}: {_text(error)}") from error

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        lines = self._own_lines()
        try:
            if isinstance(lines.answers, BaseKeyValueStoreBackend):
                return _look(lines.answers, task_id, seconds)
            return _listen(lines.app, task_id, seconds)
        except lines.answer_errors as error:
            raise BrokerAway(f"{masked(self._endpoint.result_url)}: {_text(error)}") from error

    def close(self) -> None:
        if self._lines.pid == os.getpid():
            self._lines.close()

    def _own_lines(self) -> _Lines:
        lines = self._lines
        if lines.pid != os.getpid():
            # Kept, not closed: to close a socket shared with the parent would hang up for the parent too.
            _inherited.append(lines)
            # One assignment, no mutex: one held by another thread at the fork would never be freed here.
            self._lines = lines = _Lines(self._endpoint)
        return lines


_inherited: list[_Lines] = []


class _Lines:
    """The connections of one process."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.pid = os.getpid()
        self.app, self.answers = _app(endpoint)
        broker = Connection(  # type: ignore[no-untyped-call]
            endpoint.broker_url,
            connect_timeout=_CONNECT_SECONDS,
            transport_options=_transport_options(endpoint.broker_url),
        )
        self.producers = ProducerPool(broker.Pool(limit=8), limit=8)  # type: ignore[no-untyped-call]
        self.broker_errors = (
            KombuError,
            OSError,
            *broker.connection_errors,
            *broker.channel_errors,
        )
        self.answer_errors = (
            KombuError,
            OSError,
            *getattr(self.answers, "connection_errors", ()),
            *getattr(self.answers, "channel_errors", ()),
            *self.broker_errors,
        )
        self._quorum = endpoint.broker_url.startswith("amqp")

    def producer(self) -> AbstractContextManager[Producer]:
        waiting = {"block": True, "timeout": _CONNECT_SECONDS}
        return cast(AbstractContextManager[Producer], self.producers.acquire(**waiting))  # type: ignore[no-untyped-call]

    def queue(self, name: str) -> Queue:
        # RabbitMQ refuses to see a queue declared in two ways: this must stay as the workers declare it.
        arguments = {"x-queue-type": "quorum"} if self._quorum else None
        exchange = Exchange(name, "direct")  # type: ignore[no-untyped-call]
        return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self.producers.force_close_all()  # type: ignore[no-untyped-call]
        self.producers.connections.force_close_all()
        self.app.close()


def _transport_options(broker_url: str) -> dict[str, Any]:
    # Failing fast is what keeps the caller's timeout: its own retries are above this.
    fast = {"max_retries": 1, "connect_retries_timeout": _CONNECT_SECONDS}
    if broker_url.startswith("amqp"):
        # Without it, "sent" means that the message left this machine, not that the broker has it.
        return {**fast, "confirm_publish": True}
    return {
        **fast,
        "socket_timeout": _CONNECT_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        # A Unix socket has no keep-alive, and its connection class refuses the option.
        "socket_keepalive": "+socket" not in broker_url,
        "health_check_interval": 15,
    }


def _app(endpoint: Endpoint) -> tuple[Celery, Any]:
    app = Celery("fedqueue", set_as_current=False, fixups=[])
    kind, url = backends.by_url(endpoint.result_url, app.loader)
    by_key = issubclass(kind, BaseKeyValueStoreBackend)
    # Answers that lie under a key are looked up there; the application would open a subscription a task besides.
    # Named here, not in its configuration, which CELERY_RESULT_BACKEND would overrule.
    app.backend_cls = "disabled" if by_key else endpoint.result_url
    app.conf.update(
        broker_url=endpoint.broker_url,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_send_sent_event=False,
        # One backend for all threads: theirs would each hold a connection of its own.
        result_backend_thread_safe=True,
        redis_socket_timeout=_CONNECT_SECONDS,
        redis_socket_connect_timeout=_CONNECT_SECONDS,
        redis_socket_keepalive="+socket" not in endpoint.result_url,
        redis_backend_health_check_interval=15,
    )
    return app, kind(app=app, url=url) if by_key else app.backend


def _look(answers: BaseKeyValueStoreBackend, task_id: str, seconds: float) -> Reply | None:
    """Read the answer's key at growing intervals: unlike a subscription, nothing is lost with the connection."""
    key = answers.get_key_for_task(task_id)
    until = time.monotonic() + seconds
    pause = _FIRST_LOOK
    while True:
        stored = answers.get(key)
        reply = _reply_of(answers.decode(stored)) if stored else None
        left = until - time.monotonic()
        if reply is not None or left <= 0:
            return reply
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_LOOK)


def _listen(app: Celery, task_id: str, seconds: float) -> Reply | None:
    """Wait on the reply queue, where answers come as messages (rpc://)."""
    pending = AsyncResult(task_id, app=app)
    try:
        value = pending.get(timeout=max(seconds, 0.001), propagate=False)
    except CeleryTimeoutError:
        return None
    if pending.successful():
        return Reply(value=value)
    return Reply(failure=type(value).__name__, failure_text=str(value))


def _reply_of(meta: Mapping[str, Any]) -> Reply | None:
    if meta["status"] == "SUCCESS":
        return Reply(value=meta["result"])
    if meta["status"] in ("FAILURE", "REVOKED"):
        # Read as plain text: rebuilding the exception would look its class up by the name on the wire.
        broken = meta["result"] if isinstance(meta["result"], dict) else {}
        text = broken.get("exc_message", "")
        return Reply(
            failure=str(broken.get("exc_type", meta["status"])),
            failure_text=" ".join(map(str, text)) if isinstance(text, list) else str(text),
        )
    return None


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
