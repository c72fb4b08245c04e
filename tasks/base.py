"""What every task has in common: one message in, one Answer out, refusals kept, passing faults tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import structlog
from celery import Task, shared_task
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from pydantic import ValidationError

from connectors.errors import BrokerUnavailable, Unavailable
from fedqueue.messages import Answer, Limit, Message, Rejection, View
from tasks.domain.errors import LimitExceeded, Refused, RunNotBegun
from tasks.domain.notifications import send_waiting
from tasks.hub import Hub
from tasks.storable import UNSTORABLE, find_unstorable_text, storable

M = TypeVar("M", bound=Message)

_log = structlog.get_logger(__name__)

# In the process itself: a question that needs nothing of what is away waits so long at most.
_LONGEST_REST = 2.0
_LONGEST_FIELD = 200  # characters, as dead letters keep it: a field may be named by its sender


def hub_task(
    name: str, message_type: type[M], *, asks: bool = False, **options: Any
) -> Callable[[Callable[[Hub, M], View | None]], Task]:
    """Make `work(hub, message)` the task called `name`.

    Its only argument is `message_type` as JSON; it returns an Answer as JSON. A message that is no `message_type`, or
    that `work` refuses, is answered with a Rejection, kept as a dead letter and not tried again. What only `asks` and
    is refused by `work` is answered and not kept: nothing is lost with a question, least of all whether a model is
    there. While the database, the store or the broker is away, the task comes back after a pause, for as long as it
    takes.
    """

    def decorate(work: Callable[[Hub, M], View | None]) -> Task:
        def run(self: Task, payload: Any) -> dict[str, Any]:
            hub: Hub = self.app.hub
            try:
                return _answer(hub, name, message_type, payload, work, asks=asks).model_dump(mode="json")
            except RunNotBegun as error:
                # Nothing is away: the process has other things to do meanwhile. It is tried a few times alone.
                raise come_back(self, error, rests=False) from error
            except Unavailable as error:
                raise come_back(self, error) from error

        run.__doc__ = work.__doc__
        task: Task = shared_task(name=name, bind=True, max_retries=None, **options)(run)
        return task

    return decorate


def hint(hub: Hub, task: str, message: Mapping[str, Any]) -> None:
    """Send for a task that the next sweep would find by itself: a broker that is away just now is no failure."""
    with _broker_may_be_away(task):
        hub.send(task, message, None)


def emit(hub: Hub, task: str, message: Mapping[str, Any]) -> None:
    """Send for what nobody else would find: raises BrokerUnavailable, so that the task that emits comes back."""
    try:
        hub.send(task, message, None)
    except OperationalError as error:
        raise BrokerUnavailable(f"{task} could not be sent: {error}") from error


def tell_others(hub: Hub) -> None:
    """Send the follow-ups that were just committed; what the broker does not take waits for the sweep."""
    with _broker_may_be_away("follow-ups"):
        send_waiting(hub)


@contextmanager
def _broker_may_be_away(what: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        _log.warning("hint.lost", what=what, reason=str(error))


def come_back(task: Task, error: Unavailable, *, rests: bool = True) -> BaseException:
    """What to raise so that the message comes again after a pause, behind all that waits in its queue.

    The process rests meanwhile; or, if it `rests` not, the message waits for its time in a worker's memory.
    """
    pause = random.uniform(0.1, min(_LONGEST_REST, 0.5 * 2 ** min(task.request.retries, 10)))  # noqa: S311  # no secret
    _log.warning("task.postponed", task=task.name, reason=str(error), pause=round(pause, 2))
    if rests:
        # Not by an ETA: all that waits for what is away, thousands of messages, would be in workers' memory.
        time.sleep(pause)
    try:
        return cast(BaseException, task.retry(exc=error, countdown=0 if rests else pause, throw=False))
    except Reject:
        # The broker did not take the message of the retry, and Celery would drop the task: back with the one it has.
        time.sleep(pause)
        given_back: BaseException = Reject(error, requeue=True)
        return given_back


def _answer(
    hub: Hub, name: str, message_type: type[M], payload: Any, work: Callable[[Hub, M], View | None], *, asks: bool
) -> Answer:
    message = read_message(message_type, payload)
    if isinstance(message, Rejection):
        return reject(hub, name, payload, message)
    try:
        view = work(hub, message)
    except LimitExceeded as exceeded:
        return _put_off(hub, name, payload, exceeded)
    except Refused as refused:
        rejection = Rejection(kind=refused.kind, field=refused.field, reason=refused.reason)
        if asks:
            _warn(name, rejection)
            return Answer(rejection=rejection)
        return reject(hub, name, payload, rejection)
    return answer_with(view)


def _put_off(hub: Hub, name: str, payload: Any, exceeded: LimitExceeded) -> Answer:
    """The answer to what came too early. Of a flood one letter a minute is kept: it would flood that table as well."""
    limit = Limit(rule=exceeded.rule, limit=exceeded.limit, found=exceeded.found, retry_after=exceeded.retry_after)
    rejection = Rejection(kind=exceeded.kind, field=exceeded.field, reason=exceeded.reason, limit=limit)
    number = hub.refusals.count(f"{exceeded.whose} {exceeded.rule}")
    if number is None:
        return Answer(rejection=rejection)
    more = f" ({number} such refusals since the last that was kept)" if number > 1 else ""
    reject(hub, name, payload, rejection.model_copy(update={"reason": exceeded.reason + more}))
    return Answer(rejection=rejection)


def read_message(message_type: type[M], payload: Any, *, judges_entries: bool = False) -> M | Rejection:
    """The payload as a message of that type, or why it is none. `judges_entries`: their text is left to its work."""
    unstorable = None if judges_entries else find_unstorable_text(payload)
    if unstorable is not None:
        return Rejection(kind="InvalidMessage", field=unstorable[:_LONGEST_FIELD], reason=UNSTORABLE)
    try:
        return message_type.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = storable(".".join(str(part) for part in first["loc"]))[:_LONGEST_FIELD] or None
        return Rejection(kind="InvalidMessage", field=field, reason=first["msg"])


def answer_with(view: View | None) -> Answer:
    """The answer of a task that did what it was asked for."""
    return Answer(value=None if view is None else view.model_dump(mode="json"))


def reject(hub: Hub, name: str, payload: Any, rejection: Rejection) -> Answer:
    """The answer of a task that refuses, its message kept as a dead letter."""
    _warn(name, rejection)
    hub.metadata.transact(
        lambda _: hub.metadata.add_dead_letter(
            name, storable(payload), kind=rejection.kind, field=rejection.field, reason=rejection.reason
        )
    )
    return Answer(rejection=rejection)


def _warn(name: str, rejection: Rejection) -> None:
    _log.warning("task.refused", task=name, kind=rejection.kind, field=rejection.field, reason=rejection.reason)
