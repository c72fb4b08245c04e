"""Taking many messages of one queue at once, none of which is lost if the taker dies at any moment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kombu.connection import Connection
from kombu.exceptions import KombuError

# What would make a message more than a call of its task with its arguments: such a one is its worker's to run.
_MUST_BE_EMPTY: Final = ("eta", "expires", "group")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages are taken: calls of these tasks that nobody waits for, so many of them, of so many bytes."""

    tasks: frozenset[str]
    count: int
    size: int
    content_type: str = "application/json"  # what signed messages are is told otherwise


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message that was taken and is not acknowledged yet. `tag` is the broker's word for it."""

    tag: Any
    headers: Mapping[str, Any]
    body: bytes
    origin: Any  # what else the broker's class must know of it


class WaitingMessages(ABC):
    """The messages of one queue. Every call may raise one of `errors`: the broker did not do its part now."""

    def __init__(self, connection: Connection, queue: str, others_to: str) -> None:
        self.connection = connection
        self.queue = queue
        self.others_to = others_to  # where workers run what is handed on
        self.errors: tuple[type[BaseException], ...] = (
            KombuError,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    @abstractmethod
    def take(self, taker: str, wanted: Wanted) -> list[WaitingMessage]:
        """The oldest messages that are wanted, up to the first that is not, which stays in the queue.

        They stay the broker's until they are acknowledged: should this process die, they come back. `taker` is the id
        of the task at whose message they are taken: when that comes again, they come with it.
        """

    @abstractmethod
    def acknowledge(self, messages: Sequence[WaitingMessage]) -> None:
        """They are done: the broker forgets them."""

    @abstractmethod
    def give_back(self, messages: Sequence[WaitingMessage]) -> None:
        """They are not done: whoever asks gets them."""

    @abstractmethod
    def hand_on(self, message: WaitingMessage) -> None:
        """Put a message as it is into the other queue, where a worker takes it as any other task."""

    def connect(self) -> Any:
        """A channel of a live connection. Raises one of `errors` within seconds if there is none to be had."""
        self.connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        return self.connection.default_channel

    def close(self) -> None:
        """Let go of the connection; what was not acknowledged comes back."""
        self.connection.close()


def waiting_messages(connection: Connection, queue: str, others_to: str) -> WaitingMessages | None:
    """The way to take from that queue; None if this broker knows none that loses nothing."""
    from connectors.broker.rabbitmq import RabbitMessages
    from connectors.broker.redis import RedisMessages

    kinds: dict[str, type[WaitingMessages]] = {"redis": RedisMessages, "amqp": RabbitMessages}
    kind = kinds.get(connection.transport.driver_type)
    return None if kind is None else kind(connection, queue, others_to)


def is_wanted(headers: Mapping[str, Any], content_type: str | None, encoding: str | None, wanted: Wanted) -> bool:
    """Whether it is a plain call of such a task, in that content, without anybody who waits for its answer."""
    return (
        headers.get("task") in wanted.tasks
        and headers.get("ignore_result") is True
        and content_type == wanted.content_type
        and (encoding or "utf-8").lower() == "utf-8"
        and "compression" not in headers
        and all(headers.get(name) is None for name in _MUST_BE_EMPTY)
    )
