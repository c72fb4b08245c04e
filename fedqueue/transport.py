"""How messages leave and answers come back: Celery's wire format over kombu, nothing of the application.

Made from the URLs alone: the settings and CELERY_* variables of a service that runs Celery itself do not reach it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from amqp.exceptions import MessageNacked  # type: ignore[import-untyped]
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.pools import ProducerPool
from redis.exceptions import OutOfMemoryError

from fedqueue.answers import AnswerRefused, Reply, find_answers
from fedqueue.crowding import DEFAULT_MOST, Crowding, length_of
from fedqueue.endpoint import Endpoint, masked
from fedqueue.errors import InvalidArgument
from fedqueue.messages.names import CONTROL_QUEUE, QUEUE_OF, RABBITMQ_QUEUE_ARGUMENTS

if TYPE_CHECKING:
    from fedqueue.signing import Signer, SigningFiles

_CONNECT_SECONDS: Final = 5
_FIRST_LOOK: Final = 0.002
_LONGEST_LOOK: Final = 0.05


class BrokerAway(Exception):
    """The broker, or the place of the answers, did not do its part now; the same call may succeed later."""


class BrokerFull(BrokerAway):
    """The broker is there and well, and has more messages waiting already than it should."""


class Transport(Protocol):
    """One way to a hub. Every call is bounded in time; both raise BrokerAway, and `send` BrokerFull."""

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        """Return once the broker has the message."""

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        """The task's reply; None if there was none in that time."""

    def close(self) -> None:
        """Give the connections back."""


class CeleryTransport:
    """A hub behind a broker and a result backend. Safe to share between threads, and across a fork."""

    def __init__(self, endpoint: Endpoint, *, max_waiting: int = DEFAULT_MOST) -> None:
        """Connects to nothing yet. `max_waiting` messages may wait in a queue before this one sends no more to it.

        Raises: InvalidArgument (TLS parameters, signing files), EndpointUnknown.
        """
        self._endpoint = endpoint
        self._signer = None if endpoint.signing is None else _signer(endpoint.signing)
        self._lines = _Lines(endpoint, self._signer)
        self._crowding = Crowding(max_waiting)

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        """Return once the broker has the message. Raises: BrokerAway, BrokerFull."""
        lines = self._own_lines()
        queue = QUEUE_OF.get(task, CONTROL_QUEUE)
        try:
            with lines.producer() as producer:
                excess = self._crowding.find_excess(
                    queue, lambda: lines.length_of(queue, producer), is_awaited=answered
                )
                if excess is not None:
                    raise BrokerFull(f"{excess} messages wait in {queue} already")
                lines.app.send_task(
                    task,
                    args=[message],
                    task_id=task_id,
                    producer=producer,
                    queue=lines.queue(queue),
                    ignore_result=not answered,
                    reply_to=lines.answers.expect(task_id, producer) if answered else None,
                    retry=False,
                    add_to_parent=False,
                    # Celery would print the message's values into every log on its way.
                    argsrepr="(…)",
                    kwargsrepr="{}",
                )
        except lines.errors as error:
            kind = BrokerFull if _is_refusal(error) else BrokerAway
            raise kind(f"{masked(self._endpoint.broker_url)}: {_text(error)}") from error

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        """The task's reply; None if there was none in that time. Raises: BrokerAway."""
        lines = self._own_lines()
        until = time.monotonic() + seconds
        pause = _FIRST_LOOK
        while True:
            try:
                reply = lines.answers.look(task_id)
            except lines.errors as error:
                raise BrokerAway(f"{masked(self._endpoint.result_url)}: {_text(error)}") from error
            except AnswerRefused as refused:
                raise BrokerAway(str(refused)) from refused
            left = until - time.monotonic()
            if reply is not None or left <= 0:
                return reply
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_LOOK)

    def close(self) -> None:
        """Give this process's connections back."""
        if self._lines.pid == os.getpid():
            self._lines.close()

    def _own_lines(self) -> _Lines:
        lines = self._lines
        if lines.pid != os.getpid():
            # Kept, not closed: to close a socket shared with the parent would hang up for the parent too.
            _inherited.append(lines)
            # One assignment, no mutex: one held by another thread at the fork would never be freed here.
            self._lines = lines = _Lines(self._endpoint, self._signer)
        return lines


_inherited: list[_Lines] = []


class _Lines:
    """The connections of one process."""

    def __init__(self, endpoint: Endpoint, signer: Signer | None) -> None:
        self.pid = os.getpid()
        self.app = _app(endpoint, signer)
        address = endpoint.broker()
        broker = Connection(  # type: ignore[no-untyped-call]
            address.url,
            ssl=address.tls or False,
            connect_timeout=_CONNECT_SECONDS,
            transport_options=_transport_options(endpoint.broker_url),
        )
        self._producers = ProducerPool(broker.Pool(limit=8), limit=8)  # type: ignore[no-untyped-call]
        self.answers = find_answers(endpoint, self.app, self._producers.connections, signer)
        self.errors = (
            KombuError,
            OSError,
            *broker.connection_errors,
            *broker.channel_errors,
            *self.answers.errors,
        )
        # RabbitMQ refuses to see a queue declared in two ways: this must stay as the workers declare it.
        self._queue_arguments = dict(RABBITMQ_QUEUE_ARGUMENTS) if endpoint.broker_url.startswith("amqp") else None

    def producer(self) -> AbstractContextManager[Producer]:
        waiting = {"block": True, "timeout": _CONNECT_SECONDS}
        return cast(AbstractContextManager[Producer], self._producers.acquire(**waiting))  # type: ignore[no-untyped-call]

    def queue(self, name: str) -> Queue:
        exchange = Exchange(name, "direct")  # type: ignore[no-untyped-call]
        return Queue(  # type: ignore[no-untyped-call]
            name, exchange, routing_key=name, queue_arguments=self._queue_arguments
        )

    def length_of(self, queue: str, producer: Producer) -> int:
        return length_of(queue, producer.channel, self._queue_arguments)

    def close(self) -> None:
        self._producers.force_close_all()  # type: ignore[no-untyped-call]
        self._producers.connections.force_close_all()
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


def _signer(files: SigningFiles) -> Signer:
    from fedqueue.signing import Signer, SigningFailed

    try:
        return Signer(files)
    except SigningFailed as error:
        raise InvalidArgument("signing", str(error)) from error


def _app(endpoint: Endpoint, signer: Signer | None) -> Celery:
    app = Celery("fedqueue", set_as_current=False, fixups=[])
    serializer = "json"
    if signer is not None:
        app.amqp_cls = "fedqueue.signing:BindingAMQP"
        serializer = signer.register_own()
    broker, results = endpoint.broker(), endpoint.results()
    # Answers are looked up by us; named here, not in the configuration, which CELERY_RESULT_BACKEND would overrule.
    app.backend_cls = "disabled"
    app.conf.update(
        broker_url=broker.url,
        broker_use_ssl=broker.tls or False,
        redis_backend_use_ssl=results.tls,
        task_serializer=serializer,
        result_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        task_send_sent_event=False,
        redis_socket_timeout=_CONNECT_SECONDS,
        redis_socket_connect_timeout=_CONNECT_SECONDS,
        redis_socket_keepalive="+socket" not in endpoint.result_url,
        redis_backend_health_check_interval=15,
    )
    return app


def _is_refusal(error: BaseException) -> bool:
    """Whether a living broker said no: Redis at its `maxmemory`, a queue of RabbitMQ's at its `max-length`."""
    return any(isinstance(e, OutOfMemoryError | MessageNacked) for e in (error, error.__cause__))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
