"""Replies one by one as they come, where Flower waits for the last of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedqueue.asking import Rests


class ArrivalGrid:
    """In all else another grid: `hear` is told of each reply as soon as it is there, while others are still at work."""

    def __init__(self, grid: Grid, hear: Callable[[Message], None]) -> None:
        self._grid = grid
        self._hear = hear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies that came within so many seconds (None: all), in the order in which they came."""
        waiting = set(self._grid.push_messages(messages))
        until = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        pauses = _rests()
        while True:
            found = list(self._grid.pull_messages(waiting))
            for reply in found:
                self._hear(reply)
                pauses = _rests()
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            left = None if until is None else until - time.monotonic()
            if not waiting or (left is not None and left <= 0):
                return replies
            pause = pauses.next()
            time.sleep(pause if left is None else min(pause, left))


def _rests() -> Rests:
    return Rests(shortest=0.005, longest=1.0, factor=1.3)
