"""Tasks over lists of entries, which handle what else waits for them as one batch with what they were called with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import structlog
from celery import Task, shared_task

from connectors.errors import Unavailable
from fedqueue.messages import Answer, Message, Rejection, View
from tasks.base import answer_with, come_back, read_message, reject
from tasks.draining import Drain, Taken
from tasks.hub import Hub

M = TypeVar("M", bound=Message)
Work = Callable[[Hub, Sequence[M]], Sequence[View]]

_log = structlog.get_logger(__name__)

# A message of more entries is a batch by itself.
SMALL: Final = 50
# How long a task goes on with what comes meanwhile: other tasks wait for its process so long.
_GO_ON_SECONDS: Final = 0.25
_BREATH_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class _Kind(Generic[M]):
    """One such task."""

    name: str
    message_type: type[M]
    work: Work[M]


_kinds: dict[str, _Kind[Any]] = {}


def batch_task(name: str, message_type: type[M], **options: Any) -> Callable[[Work[M]], Task]:
    """Make `work(hub, messages)`, which gives one view a message, the task called `name`.

    As `hub_task`, for messages that are lists whose entries `work` judges one by one. Called with a small one that
    nobody waits for, it takes along what else waits in the queue of events for any task of this kind, and goes on with
    what comes meanwhile. `work` may meet a message again that it has met before, and must then change nothing.
    """

    def decorate(work: Work[M]) -> Task:
        kind = _kinds[name] = _Kind(name, message_type, work)

        def run(self: Task, payload: Any) -> dict[str, Any]:
            hub: Hub = self.app.hub
            taken = _what_else_waits(hub, self, payload)
            try:
                answer = _answer(hub, kind, payload, taken)
                is_well = _handle(hub, taken)
            except Unavailable as error:
                taken.settle()
                raise come_back(self, error) from error
            finally:
                taken.settle()
            if hub.events is not None and taken.is_open and is_well:
                _go_on(hub.events, hub, str(self.request.id))
            return answer.model_dump(mode="json")

        run.__doc__ = work.__doc__
        task: Task = shared_task(name=name, bind=True, max_retries=None, **options)(run)
        return task

    return decorate


def _what_else_waits(hub: Hub, task: Task, payload: Any) -> Taken:
    """What is to be handled with the payload: nothing if somebody waits for it, or if it is a batch already."""
    if hub.events is None or task.request.ignore_result is not True or not isinstance(payload, dict):
        return Taken()
    if sum(len(entries) for entries in payload.values() if isinstance(entries, list)) > SMALL:
        return Taken()
    return hub.events.take(_kinds, str(task.request.id))


def _go_on(queue: Drain, hub: Hub, taker: str) -> None:
    """Handle what has come meanwhile, and again, for a while: a task each would cost more than the work itself."""
    until = time.monotonic() + _GO_ON_SECONDS
    is_well = True
    while is_well and time.monotonic() < until:
        taken = queue.take(_kinds, taker)
        if not taken:
            return
        few = len(taken) < SMALL
        try:
            is_well = _handle(hub, taken)
        finally:
            taken.settle()
        if few:
            # They come faster than one by one, or there would be none. A moment's rest makes one batch of several, and
            # leaves the processor to those who send them.
            time.sleep(_BREATH_SECONDS)


def _answer(hub: Hub, kind: _Kind[M], payload: Any, taken: Taken) -> Answer:
    """The answer to `payload`, which is handled with what was taken of its kind, each message judged by itself."""
    others = taken.payloads(kind.name)
    if others:
        try:
            answer = _answer_all(hub, kind, [payload, *others])[0]
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # whatever one of them does must not be done to the others
            _fail(taken, kind.name, error)
        else:
            taken.done(kind.name)
            return answer
    return _answer_all(hub, kind, [payload])[0]


def _handle(hub: Hub, taken: Taken) -> bool:
    """Handle what was taken, each kind as one batch; whether the hub could be reached for all of it."""
    for name in taken.tasks():
        try:
            _answer_all(hub, _kinds[name], taken.payloads(name))
        except Unavailable as error:
            # It goes back. Whoever is called with the next of it rests until the hub can be reached.
            _log.warning("batch.given_back", task=name, messages=len(taken), reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001  # as above
            _fail(taken, name, error)
        else:
            taken.done(name)
    return True


def _fail(taken: Taken, name: str, error: Exception) -> None:
    _log.exception("batch.failed", task=name, messages=len(taken.payloads(name)), reason=str(error))
    taken.failed(name)


def _answer_all(hub: Hub, kind: _Kind[M], payloads: Sequence[Any]) -> list[Answer]:
    read = [read_message(kind.message_type, payload, judges_entries=True) for payload in payloads]
    messages = [message for message in read if not isinstance(message, Rejection)]
    views = iter(kind.work(hub, messages) if messages else ())
    # Only now: should the work have to be done again, its dead letters would be kept twice.
    return [
        reject(hub, kind.name, payload, message) if isinstance(message, Rejection) else answer_with(next(views))
        for payload, message in zip(payloads, read, strict=True)
    ]
