"""Coalescing: a task takes what else waits for its kind along with it, so that a burst costs a transaction a batch.

A message that comes alone is handled alone, at once: nothing waits for a batch to fill. Only where messages pile up are
they taken together, up to `COUNT` or `SIZE`. They are acknowledged when their effects are committed; until then they
are the broker's, which gives them again if this process dies. So they may come twice, which their event ids make
harmless. Nothing depends on it: where the broker fails here, messages are handled one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import structlog
from kombu.connection import Connection

from connectors.broker import WaitingMessage, WaitingMessages, Wanted, waiting_messages
from fedqueue.signing import BOUND, CONTENT_TYPE, Signer, check_binding

# Of messages, and of their bytes as the broker has them: what a pool process may hold of them at a time.
COUNT: Final = 500
SIZE: Final = 1 << 20

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Drain:
    """Takes from one queue, over a connection that is made when first needed. Of one process, and one thread.

    `connect` returns a connection of kombu's, not connected yet. A message that turns out to be no plain call of
    its task goes to the queue `others_to`, where a worker runs it as any other. With a `signer` what is taken is what
    was signed; whether it was signed well shows here, too, and what was not is refused by that worker.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        queue: str,
        others_to: str,
        *,
        count: int = COUNT,
        size: int = SIZE,
        signer: Signer | None = None,
    ) -> None:
        self._connect = connect
        self._queue = queue
        self._others_to = others_to
        self._count = count
        self._size = size
        self._signer = signer
        self._waiting: WaitingMessages | None = None
        self._no_way = False

    def take(self, tasks: Collection[str], taker: str) -> Taken:
        """What else waits for those tasks; `taker` is the id of the task that will handle it. Raises nothing."""
        content_type = "application/json" if self._signer is None else CONTENT_TYPE
        wanted = Wanted(frozenset(tasks), self._count, self._size, content_type)
        taken = Taken(self)
        for message in self._ask("take", lambda waiting: waiting.take(taker, wanted)) or ():
            try:
                taken.add(message, payload_of(message, self._signer))
            except ValueError as error:
                _log.warning("message.handed_on", task=message.headers.get("task"), reason=str(error))
                self.hand_on([message])
        return taken

    def acknowledge(self, messages: Sequence[WaitingMessage]) -> None:
        """See `Taken`."""
        self._ask("acknowledge", lambda waiting: waiting.acknowledge(messages))

    def give_back(self, messages: Sequence[WaitingMessage]) -> None:
        """See `Taken`."""
        self._ask("give back", lambda waiting: waiting.give_back(messages))

    def hand_on(self, messages: Sequence[WaitingMessage]) -> None:
        """See `Taken`."""
        self._ask("hand on", lambda waiting: [waiting.hand_on(message) for message in messages])

    def close(self) -> None:
        """Let go of the connection; what was not acknowledged comes back."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.close()

    def _ask(self, what: str, do: Callable[[WaitingMessages], T]) -> T | None:
        """What the broker answers; None if it does not: then all that was taken comes back by itself."""
        if self._waiting is None and not self._no_way:
            self._waiting = waiting_messages(self._connect(), self._queue, self._others_to)
            self._no_way = self._waiting is None
        if self._waiting is None:
            return None
        try:
            return do(self._waiting)
        except self._waiting.errors as error:
            _log.warning("draining.failed", what=what, queue=self._queue, reason=str(error))
            self.close()
            return None


class Taken:
    """Messages that were taken with a task, by task and in their order. `settle` is its end, whatever happens."""

    def __init__(self, drain: Drain | None = None) -> None:
        """Without a drain it is empty, and stays so."""
        self._drain = drain
        self._messages: dict[str, list[WaitingMessage]] = {}
        self._payloads: dict[str, list[Any]] = {}
        self._done: list[WaitingMessage] = []
        self._failed: list[WaitingMessage] = []

    @property
    def is_open(self) -> bool:
        """Whether more may be taken when these are settled."""
        return self._drain is not None

    def __len__(self) -> int:
        """How many messages nothing is known of yet."""
        return sum(len(messages) for messages in self._messages.values())

    def add(self, message: WaitingMessage, payload: Any) -> None:
        """Count it among them."""
        task = str(message.headers["task"])
        self._messages.setdefault(task, []).append(message)
        self._payloads.setdefault(task, []).append(payload)

    def tasks(self) -> list[str]:
        """Whose messages there are."""
        return list(self._messages)

    def payloads(self, task: str) -> list[Any]:
        """What that task would be called with, the oldest first."""
        return self._payloads.get(task, [])

    def done(self, task: str) -> None:
        """The effects of the task's messages are committed."""
        self._done += self._messages.pop(task, [])
        self._payloads.pop(task, None)

    def failed(self, task: str) -> None:
        """Together the task's messages could not be handled."""
        self._failed += self._messages.pop(task, [])
        self._payloads.pop(task, None)

    def settle(self) -> None:
        """Acknowledge what is done; make a task each of what failed; give back the rest, for whoever asks next.

        If the broker does not hear of it, they come twice.
        """
        rest = [message for messages in self._messages.values() for message in messages]
        done, failed = self._done, self._failed
        self._messages, self._payloads, self._done, self._failed = {}, {}, [], []
        if self._drain is None:
            return
        if rest:
            self._drain.give_back(rest)
        if failed:
            self._drain.hand_on(failed)
        if done:
            self._drain.acknowledge(done)


def payload_of(message: WaitingMessage, signer: Signer | None = None) -> Any:
    """The only argument that the task is called with. Raises: ValueError if it is called in any other way, or if a
    `signer` finds it not signed."""
    opened: Any
    try:
        opened = json.loads(message.body) if signer is None else signer.open(message.body)
        arguments, named, embedded = opened
    except (ValueError, TypeError) as error:
        raise ValueError(f"its body is not a call: {error}") from error
    if not isinstance(arguments, list) or len(arguments) != 1 or named != {}:
        raise ValueError("it is not called with one argument")
    if not isinstance(embedded, dict | None) or any(inner for name, inner in (embedded or {}).items() if name != BOUND):
        raise ValueError("other tasks hang on it")
    check_binding(embedded, message.headers)
    return arguments[0]
