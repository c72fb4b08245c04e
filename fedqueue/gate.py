"""The gate before a worker's tasks: a message that is no call as a hub's messages are is refused, and never run.

Celery refuses other content than it was told to accept, except what bears no content type, `application/data` or
`application/text`: of such a message's body nothing is asked. On Redis, where a body may be any JSON, it would be run
as it stands, unsigned. And what Celery does not expect among headers or in a body ends its whole worker, which takes
the same message again when it is restarted.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from celery.worker.consumer import Consumer
from kombu import compression
from kombu.exceptions import KombuError
from kombu.serialization import registry

from fedqueue.signing import BOUND, CONTENT_TYPE, SigningFailed, check_binding

_JSON: Final = "application/json"
_ENCODING: Final = "utf-8"
_EMBEDDED: Final = frozenset({"callbacks", "errbacks", "chain", "chord", BOUND})
_LONGEST_ID: Final = 255
_MOST_UNPACKED: Final = 64 << 20  # bytes; far more than any message of ours has

_log = logging.getLogger(__name__)

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 1 << 16)


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 1 << 31)


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, str) and 0 < len(value) <= _LONGEST_ID)


def _is_seconds(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9)


def _are_limits(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_seconds, value)))


# What Celery works with; whatever else stands among the headers is a tracer's or the broker's, and nobody reads it.
_HEADERS: Final[Mapping[str, Check]] = {
    "task": lambda value: isinstance(value, str) and 0 < len(value) <= _LONGEST_ID,
    "id": lambda value: isinstance(value, str) and 0 < len(value) <= _LONGEST_ID,
    "eta": _is_text,
    "expires": _is_text,
    "retries": _is_count,
    "timelimit": _are_limits,
    "group": _is_id,
    "group_index": _is_count,
    "root_id": _is_id,
    "parent_id": _is_id,
    "shadow": _is_id,
    "argsrepr": _is_text,
    "kwargsrepr": _is_text,
    "origin": _is_text,
    "ignore_result": lambda value: value is None or isinstance(value, bool),
    "replaced_task_nesting": _is_count,
    "stamped_headers": lambda value: not value,
    "stamps": lambda value: not value,
}


class GatedConsumer(Consumer):
    """Celery's, behind the gate."""

    class Blueprint(Consumer.Blueprint):
        """Celery's steps without its queues for delays."""

        # On RabbitMQ it would declare 28 quorum queues, and leave them empty: direct exchanges make no use of them.
        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]  # noqa: RUF012

    refused = 0  # since this process began

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Celery's, for what passes."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            reason = find_fault(message, is_signed=self.app.conf.task_serializer != "json")
            if reason is None:
                return handle(message)
            self._refuse(message, reason)
            return None

        return on_task_received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A message that could not even be unpacked."""
        self._refuse(message, str(exc))

    def report(self, **facts: Any) -> None:
        """Have the refusal read by people."""
        _log.error("message refused: %s", ", ".join(f"{name} {value!r}" for name, value in facts.items()))

    def _refuse(self, message: Any, reason: str) -> None:
        # A trace of it, and nothing of what it holds: the one may be an attack, the other anybody's.
        GatedConsumer.refused += 1
        headers = message.headers if isinstance(message.headers, dict) else {}
        body = message.body
        self.report(
            reason=reason[:500],
            task_name=str(headers.get("task"))[:_LONGEST_ID],
            id=str(headers.get("id"))[:_LONGEST_ID],
            origin=str(headers.get("origin"))[:_LONGEST_ID],
            content_type=str(message.content_type)[:_LONGEST_ID],
            bytes=len(body) if isinstance(body, bytes | str) else None,
            refused=self.refused,
        )
        # Never back into its queue: it would come again for ever.
        message.reject_log_error(_log, self.connection_errors)


def find_fault(message: Any, *, is_signed: bool) -> str | None:
    """Why a message is no call of a task as a hub's messages are; None if it is one."""
    wanted = CONTENT_TYPE if is_signed else _JSON
    if message.content_type != wanted:
        return f"only {'signed messages' if is_signed else wanted} are taken here"
    if not isinstance(message.content_encoding, str) or message.content_encoding.lower() != _ENCODING:
        return f"its encoding is not {_ENCODING}"
    if not isinstance(message.body, bytes | str | memoryview) or not message.body:
        return "it has no body of bytes"
    headers = message.headers
    if not isinstance(headers, dict):
        return "it has no headers"
    for name, is_fit in _HEADERS.items():
        if not is_fit(headers.get(name)):
            return f"its header {name} is not what it must be"
    try:
        call = message.decode()
        if not _is_call(call):
            return "its body is not a call: arguments, named arguments and what hangs on them"
        check_binding(call[2], headers)
    except (KombuError, SigningFailed) as error:
        return str(error)
    return None


def _is_call(call: Any) -> bool:
    if not isinstance(call, list) or len(call) != 3:
        return False
    arguments, named, embedded = call
    return (
        isinstance(arguments, list)
        and isinstance(named, dict)
        and (embedded is None or (isinstance(embedded, dict) and embedded.keys() <= _EMBEDDED))
    )


def close_side_doors(*, is_signed: bool) -> None:
    """Have this process open nothing but JSON, or what is signed, wherever kombu opens messages; unpack no bombs."""
    for content_type in (CONTENT_TYPE, "application/text"):
        if content_type != CONTENT_TYPE or not is_signed:
            registry.register(content_type, None, _refuse_content, content_type)
    for name in compression.encoders():
        encoder, content_type = compression.get_encoder(name)
        decoder = _unzip if content_type == "application/x-gzip" else _refuse_packing
        compression.register(encoder, decoder, content_type)


def _refuse_content(data: Any) -> Any:  # noqa: ARG001  # that is the point
    raise ValueError("content of this type is not opened here")


def _refuse_packing(data: Any) -> bytes:  # noqa: ARG001
    raise ValueError("messages are packed by gzip or not at all")


def _unzip(data: Any) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(data, _MOST_UNPACKED)
    if not unpacking.eof:
        raise ValueError(f"it unpacks to more than {_MOST_UNPACKED} bytes, or is cut short")
    return unpacked
