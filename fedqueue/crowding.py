"""Whether a queue is full: senders hold back where workers can't keep up, and the broker's memory stays bounded.

A broker takes what it is sent until it has no memory left, and then takes nothing from anybody, acknowledgements of
workers included. So whoever sends looks first how many messages wait, and keeps its own back when there are too many.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from fedqueue.messages.names import EVENTS_QUEUE, UPDATES_QUEUE

# What one worker does in a few seconds: so long waits who comes last, and no worker is ever without work.
DEFAULT_MOST: Final = 500
# Only what outsiders send in numbers. A question is answered whatever else waits.
_WATCHED: Final = (UPDATES_QUEUE, EVENTS_QUEUE)
_LOOK_EVERY: Final = 0.25  # seconds, as long as there is room aplenty


class Crowding:
    """What one process has seen of the queues' lengths. May be shared by threads: at worst they look too often."""

    def __init__(self, most: int = DEFAULT_MOST, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._seen: dict[str, tuple[float, int]] = {}  # when, and how many; what this process sent since is added

    def find_excess(self, queue: str, look: Callable[[], int], *, is_awaited: bool) -> int | None:
        """How many wait in the queue, if those are too many for one more; `look` asks the broker.

        There is room for as many again of those whose senders wait: who waits sends one at a time, and must not be
        kept out by who does not.
        """
        if queue not in _WATCHED:
            return None
        most = 2 * self._most if is_awaited else self._most
        at, waiting = self._seen.get(queue, (float("-inf"), 0))
        if self._now() >= at + _LOOK_EVERY or waiting >= self._most // 2:
            at, waiting = self._now(), look()
        if waiting >= most:
            self._seen[queue] = (at, waiting)
            return waiting
        self._seen[queue] = (at, waiting + 1)
        return None


def length_of(queue: str, channel: Any, arguments: Mapping[str, Any] | None) -> int:
    """How many messages wait in the queue, which is declared as the workers declare it."""
    declared = channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=arguments)
    waiting: int = declared.message_count
    return waiting
