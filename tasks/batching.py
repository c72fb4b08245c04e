"""Tasks over lists of entries, which handle what else waits for them as one batch with what they were called with."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
from celery import Task, shared_task

from connectors.errors import Unavailable
from fedqueue.messages import Answer, Message, Rejection, View
from tasks.base import answer_with, come_back, read_message, reject
from tasks.draining import Taken
from tasks.hub import Hub

M = TypeVar("M", bound=Message)
Work = Callable[[Hub, Sequence[M]], Sequence[View]]

_log = structlog.get_logger(__name__)

# A message of more entries is a batch by itself.
SMALL: Final = 50
_LONGEST_REST: Final = 5.0


def batch_task(name: str, message_type: type[M], **options: Any) -> Callable[[Work[M]], Task]:
    """Make `work(hub, messages)`, which gives one view a message, the task called `name`.

    As `hub_task`, for messages that are lists whose entries `work` judges one by one. Called with a small one that
    nobody waits for, it takes what else waits for it in the queue of events along. `work` may meet a message again that
    it has met before, and must then change nothing.
    """

    def decorate(work: Work[M]) -> Task:
        def run(self: Task, payload: Any) -> dict[str, Any]:
            hub: Hub = self.app.hub
            taken = _what_else_waits(hub, self, payload)
            try:
                return _answer(hub, name, message_type, payload, taken, work).model_dump(mode="json")
            except Unavailable as error:
                if taken is not None:
                    taken.give_back()
                # Here, not by an ETA: thousands of messages that wait for theirs would all be in workers' memory.
                pause = random.uniform(0.1, min(_LONGEST_REST, 0.5 * 2 ** min(self.request.retries, 10)))  # noqa: S311
                _log.warning("task.postponed", task=name, reason=str(error), pause=round(pause, 2))
                time.sleep(pause)
                raise come_back(self, error, 0.0) from error

        run.__doc__ = work.__doc__
        task: Task = shared_task(name=name, bind=True, max_retries=None, **options)(run)
        return task

    return decorate


def _what_else_waits(hub: Hub, task: Task, payload: Any) -> Taken | None:
    """What is to be handled with the payload; None if it is to be handled alone."""
    if hub.events is None or task.request.ignore_result is not True or not isinstance(payload, dict):
        return None
    if sum(len(entries) for entries in payload.values() if isinstance(entries, list)) > SMALL:
        return None
    return hub.events.take(task.name, str(task.request.id))


def _answer(hub: Hub, name: str, message_type: type[M], payload: Any, taken: Taken | None, work: Work[M]) -> Answer:
    """The answer to `payload`; that and what was taken are handled, each message judged by itself."""
    if taken is None or not taken.payloads:
        return _answer_all(hub, name, message_type, [payload], work)[0]
    try:
        answer = _answer_all(hub, name, message_type, [payload, *taken.payloads], work)[0]
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001  # what one of them does to the batch, whatever it is, must not be
        # done to the others: they become tasks of their own.
        _log.exception("batch.failed", task=name, messages=1 + len(taken.payloads), reason=str(error))
        taken.hand_on()
        return _answer_all(hub, name, message_type, [payload], work)[0]
    taken.acknowledge()
    return answer


def _answer_all(hub: Hub, name: str, message_type: type[M], payloads: Sequence[Any], work: Work[M]) -> list[Answer]:
    read = [read_message(message_type, payload, judges_entries=True) for payload in payloads]
    messages = [message for message in read if not isinstance(message, Rejection)]
    views = iter(work(hub, messages) if messages else ())
    # Only now: should the work have to be done again, its dead letters would be kept twice.
    return [
        reject(hub, name, payload, message) if isinstance(message, Rejection) else answer_with(next(views))
        for payload, message in zip(payloads, read, strict=True)
    ]
