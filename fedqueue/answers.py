"""Where answers lie, and how they are fetched: under a key of a result backend, or in a reply queue on the broker.

Both are looked at, at growing intervals, rather than listened to: nothing is lost with a connection, every look is
bounded in time, and no thread waits on another's. (Celery's own listeners retry for ever when the broker is away.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from celery import Celery
from celery.app import backends
from celery.backends.base import BaseKeyValueStoreBackend
from kombu.entity import Queue
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.serialization import loads

from fedqueue.endpoint import Endpoint
from fedqueue.errors import EndpointUnknown

if TYPE_CHECKING:
    from fedqueue.signing import Signer

_REPLY_QUEUE_SECONDS: Final = 600
_JSON: Final = ("application/json", "utf-8")


class AnswerRefused(Exception):
    """What lies in an answer's place is no answer to that message that could be believed: it is let lie."""


@dataclass(frozen=True)
class Reply:
    """What a task ended in: `value` as it returned it, or the name and text of what broke it."""

    value: Any = None
    failure: str | None = None
    failure_text: str = ""


class Answers(Protocol):
    """One place of answers."""

    errors: tuple[type[BaseException], ...]

    def expect(self, task_id: str, producer: Producer) -> str | None:
        """Get ready for that task's answer, before it is sent; the name of its reply queue, if it needs one."""

    def look(self, task_id: str) -> Reply | None:
        """The answer, if it is there."""


def find_answers(endpoint: Endpoint, app: Celery, connections: Any, signer: Signer | None) -> Answers:
    """The place that the endpoint's `result_url` names. Raises: EndpointUnknown, InvalidArgument."""
    if endpoint.result_url.startswith("rpc"):
        return QueuedAnswers(connections, signer)
    url = endpoint.results().url
    kind, url = backends.by_url(url, app.loader)
    if not issubclass(kind, BaseKeyValueStoreBackend):
        scheme = endpoint.result_url.partition("://")[0]
        raise EndpointUnknown(f"answers can't be fetched over {scheme}://: result_url must be redis:// or rpc://")
    return KeyedAnswers(kind(app=app, url=url), signer)


class KeyedAnswers:
    """Answers under a key of their task's, in Redis."""

    def __init__(self, backend: BaseKeyValueStoreBackend, signer: Signer | None = None) -> None:
        self._backend = backend
        self._signer = signer
        self.errors = (
            *getattr(backend, "connection_errors", ()),
            *getattr(backend, "channel_errors", ()),
        )

    def expect(self, task_id: str, producer: Producer) -> str | None:  # noqa: ARG002  # a key needs no preparation
        """Nothing is needed."""
        return None

    def look(self, task_id: str) -> Reply | None:
        """The answer, if it is there. Raises: AnswerRefused."""
        stored = self._backend.get(self._backend.get_key_for_task(task_id))
        return _reply_of(_opened(stored, task_id, self._signer), task_id) if stored else None


class QueuedAnswers:
    """Answers as messages on the broker (rpc://), each in a queue of its own that the broker forgets after a while."""

    def __init__(self, connections: Any, signer: Signer | None = None) -> None:
        self._connections = connections
        self._signer = signer
        self.errors: tuple[type[BaseException], ...] = ()

    def expect(self, task_id: str, producer: Producer) -> str | None:
        """The reply queue's name, once the broker has it."""
        queue = _reply_queue(task_id)
        queue(producer.channel).declare()  # type: ignore[no-untyped-call]
        return str(queue.name)

    def look(self, task_id: str) -> Reply | None:
        """The answer, if it is there; its queue is gone then. Raises: AnswerRefused."""
        with self._connections.acquire(block=True, timeout=5) as connection:
            queue = _reply_queue(task_id)(connection.default_channel)
            message = queue.get(no_ack=True)  # type: ignore[no-untyped-call]
            if message is None:
                return None
            reply = _reply_of(_opened(message.body, task_id, self._signer), task_id)
            queue.delete()  # type: ignore[no-untyped-call]
            return reply


def _opened(stored: Any, task_id: str, signer: Signer | None) -> Any:
    """What was stored as an answer: JSON, and signed if answers are."""
    try:
        if signer is not None:
            return signer.open(stored)
        return loads(stored, *_JSON, accept=_JSON[:1])  # type: ignore[no-untyped-call]
    except (ValueError, KombuError) as error:
        raise AnswerRefused(f"what lies where the answer to {task_id} belongs is none: {error}") from error


def _reply_queue(task_id: str) -> Queue:
    return Queue(  # type: ignore[no-untyped-call]
        f"fedqueue.reply.{task_id}", durable=False, expires=_REPLY_QUEUE_SECONDS
    )


def _reply_of(meta: Any, task_id: str) -> Reply | None:
    # Signed or not: the answer to another message, put in this one's place, is none.
    if not isinstance(meta, Mapping) or meta.get("task_id") != task_id or "status" not in meta or "result" not in meta:
        raise AnswerRefused(f"what lies where the answer to {task_id} belongs is the answer to something else")
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
