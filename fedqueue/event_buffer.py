"""Events gathered and sent in batches, from a thread of their own: telling the hub never holds up the training."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from fedqueue.arguments import Id, as_message, as_seconds, as_uuid
from fedqueue.asking import Rests
from fedqueue.errors import EventNotTaken, EventsNotSent
from fedqueue.messages.events import DEFAULT_X_LABEL, MAX_EVENTS, FLEvent, MetricPoint

# Of free text in one message, in characters: brokers and workers take a message whole.
_MOST_TEXT: Final = 1 << 20
# One try of the thread's to send a batch; whoever closes the buffer meanwhile waits for its end.
_TRY_SECONDS: Final = 2.0

Send = Callable[[Sequence[FLEvent], float], None]


class EventBuffer:
    """A model's events on their way to the hub. May be shared by threads; in a forked child it begins anew, empty.

    A batch that the broker does not take is kept and tried again for as long as the buffer is open. `close`, and the
    end of a `with`, sends what is left and raises EventsNotSent with what could not be sent.
    """

    def __init__(
        self,
        send: Send,
        model_id: UUID,
        run_id: UUID | None = None,
        *,
        size: int = 200,
        seconds: float = 0.5,
        most: int = 100_000,
        timeout: float = 30.0,
    ) -> None:
        """`send(events, seconds)` returns once the broker has them; `timeout` is of `close`, and of an event's room."""
        self._send = send
        self._model_id = model_id
        self._run_id = run_id
        self._size = min(size, MAX_EVENTS)
        self._seconds = as_seconds(seconds, "seconds")
        self._most = most
        self._timeout = timeout
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[FLEvent] = deque()
        self._sending: list[FLEvent] = []
        self._oldest = 0.0  # when the first of those that wait came
        self._is_hurried = False
        self._is_closed = False
        self._is_given_up = False
        self._trouble: Exception | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many the broker has not taken yet."""
        self._mind_forks()
        with self._changed:
            return len(self._waiting) + len(self._sending)

    def event(
        self,
        event_type: str,
        *,
        global_round: int | None = None,
        fl_client_name: str | None = None,
        success: bool = True,
        details: Mapping[str, Any] | None = None,
        event_id: Id | None = None,
    ) -> UUID:
        """The id of a typed event: a status, a round, anything else. Raises: InvalidArgument, EventNotTaken."""
        return self._add(
            event_id,
            event_type=event_type,
            global_round=global_round,
            fl_client_name=fl_client_name,
            success=success,
            details=dict(details or {}),
        )

    def log(
        self,
        text: str,
        *,
        success: bool = True,
        global_round: int | None = None,
        fl_client_name: str | None = None,
        details: Mapping[str, Any] | None = None,
        event_id: Id | None = None,
    ) -> UUID:
        """The id of a line of free text; with `success` False one that is over a limit is cut, not refused.

        Raises: InvalidArgument, EventNotTaken.
        """
        return self._add(
            event_id,
            log=text,
            success=success,
            global_round=global_round,
            fl_client_name=fl_client_name,
            details=dict(details or {}),
        )

    def metric(
        self,
        label: str,
        result: float,
        *,
        global_round: int | None = None,
        x_value: float | None = None,
        x_label: str = DEFAULT_X_LABEL,
        fl_client_name: str | None = None,
        event_id: Id | None = None,
    ) -> UUID:
        """The id of a point of the plot `label`, at `x_value` (None: at its round).

        Raises: InvalidArgument, EventNotTaken.
        """
        point = as_message(MetricPoint, label=label, result=result, x_value=x_value, x_label=x_label)
        return self._add(event_id, metric=point, global_round=global_round, fl_client_name=fl_client_name)

    def flush(self, timeout: float | None = None) -> None:
        """Return once the broker has everything that was added. Raises: EventsNotSent after `timeout` seconds.

        What was not sent by then is kept, and tried further.
        """
        self._mind_forks()
        seconds = self._timeout if timeout is None else as_seconds(timeout, "timeout")
        with self._changed:
            if self._is_empty():
                return
            self._is_hurried = True
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_empty, seconds):
                raise self._not_sent()

    def close(self, timeout: float | None = None) -> None:
        """Send what is left; nothing more can be added. Raises: EventsNotSent with what the broker did not take."""
        self._mind_forks()
        seconds = self._timeout if timeout is None else as_seconds(timeout, "timeout")
        with self._changed:
            self._is_closed = self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_empty, seconds)
            # Whatever the thread still tries is sent twice at worst, if the caller sends it again.
            left = None if self._is_empty() else self._not_sent()
            self._is_given_up = left is not None
            self._waiting.clear()
            self._sending = []
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if left is not None:
            raise left
        if thread is not None:
            thread.join(_TRY_SECONDS)

    def _add(self, event_id: Id | None, **fields: Any) -> UUID:
        self._mind_forks()
        event = as_message(
            FLEvent,
            event_id=as_uuid(event_id or uuid.uuid4(), "event_id"),
            model_id=self._model_id,
            run_id=self._run_id,
            **fields,
        )
        with self._changed:
            if self._is_closed:
                raise EventNotTaken("the buffer is closed: nothing can be added to it")
            if not self._changed.wait_for(self._has_room, self._timeout):
                trouble = f" ({self._trouble})" if self._trouble is not None else ""
                raise EventNotTaken(f"{self._most} events wait for the broker already{trouble}: this one was not taken")
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fedqueue-events", daemon=True)
                self._thread.start()
            if len(self._waiting) in (1, self._size):
                self._changed.notify_all()
        return event.event_id

    def _run(self) -> None:
        rests = Rests()
        while (batch := self._next_batch()) is not None:
            try:
                self._send(batch, _TRY_SECONDS)
            except Exception as error:  # noqa: BLE001  # whatever it is, the events are kept and the caller is told
                with self._changed:
                    if self._is_given_up:
                        return
                    self._trouble = error
                    # Back to their place: the order of statuses is worth keeping, though nothing depends on it.
                    self._waiting.extendleft(reversed(batch))
                    self._sending = []
                    self._changed.wait(rests.next())
            else:
                rests = Rests()
                with self._changed:
                    if self._is_given_up:
                        return
                    self._trouble = None
                    self._sending = []
                    if not self._waiting:
                        self._is_hurried = self._is_closed
                    self._changed.notify_all()

    def _next_batch(self) -> list[FLEvent] | None:
        """The next batch once it is due; None when the buffer is closed and nothing waits."""
        with self._changed:
            while not self._is_due():
                if self._is_closed:
                    return None
                left = self._oldest + self._seconds - time.monotonic() if self._waiting else None
                self._changed.wait(left)
            self._sending = next(batches(islice(self._waiting, self._size)))
            for _ in self._sending:
                self._waiting.popleft()
            self._oldest = time.monotonic()
            return self._sending

    def _is_due(self) -> bool:
        if not self._waiting:
            return False
        is_old = time.monotonic() >= self._oldest + self._seconds
        return is_old or self._is_hurried or len(self._waiting) >= self._size

    def _is_empty(self) -> bool:
        return not self._waiting and not self._sending

    def _has_room(self) -> bool:
        return self._is_closed or len(self._waiting) + len(self._sending) < self._most

    def _not_sent(self) -> EventsNotSent:
        left = [*self._sending, *self._waiting]
        return EventsNotSent(f"{len(left)} events were not sent ({self._trouble or 'no time was left'})", left)

    def _mind_forks(self) -> None:
        # What was waiting is the parent's to send, and its thread is not here.
        if self._pid != os.getpid():
            self._begin()


def batches(events: Iterable[FLEvent]) -> Iterator[list[FLEvent]]:
    """The events in messages of a bounded number and size."""
    batch: list[FLEvent] = []
    text = 0
    for event in events:
        batch.append(event)
        text += len(event.log or "") + (len(str(event.details)) if event.details else 0)
        if len(batch) == MAX_EVENTS or text >= _MOST_TEXT:
            yield batch
            batch, text = [], 0
    if batch:
        yield batch


def wired(event: FLEvent) -> dict[str, Any]:
    """The event as it travels, without what says nothing."""
    return event.model_dump(mode="json", exclude_defaults=True)
