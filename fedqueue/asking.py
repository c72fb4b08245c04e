"""Ask until answered: the rules by which a message is sent again.

Every message that changes something carries an id of its sender's, so a repeat is harmless and silence may be met
with one: a broker that was restarted may have forgotten the message, and a worker that was killed the answer.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from fedqueue.errors import HubBusy, HubFailed, HubUnavailable, NoAnswer
from fedqueue.transport import BrokerAway, BrokerFull, Transport

_FIRST_REST: Final = 0.05
_LONGEST_REST: Final = 2.0
_LONGEST_RESEND: Final = 60.0

# What ends a task without a word about the message: the worker was killed, or what it leans on was away.
_PASSING: Final = frozenset(
    {
        "ConnectionError",  # the answer could not be written down, as it seemed
        "DatabaseUnavailable",
        "OperationalError",
        "SoftTimeLimitExceeded",
        "StoreMisconfigured",
        "StoreUnavailable",
        "TaskRevokedError",  # as Celery calls a task that it cancelled for its broker was gone
        "Terminated",
        "TimeLimitExceeded",
        "TimeoutError",
        "Unavailable",
        "WorkerLostError",
        "WorkerShutdown",
        "WorkerTerminate",
    }
)


@dataclass
class Rests:
    """Pauses that grow, jittered so that clients stopped by one outage do not come back all at once."""

    shortest: float = _FIRST_REST
    longest: float = _LONGEST_REST
    factor: float = 2.0
    draw: Callable[[], float] = random.random
    _next: float = field(default=0.0, init=False)

    def next(self) -> float:
        """Seconds: between half and all of the current pause, which then grows."""
        pause = self._next or self.shortest
        self._next = min(pause * self.factor, self.longest)
        return pause * (0.5 + 0.5 * self.draw())


@dataclass(frozen=True)
class Asking:
    """Sends a message until it is answered or the time is over."""

    transport: Transport
    resend_after: float  # seconds of silence before the first repeat; each further one waits twice as long
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def ask(self, task: str, message: Mapping[str, Any], seconds: float, repeat_with: Mapping[str, UUID]) -> Any:
        """What the task returned.

        Raises: HubBusy, HubUnavailable, NoAnswer (after `seconds`; whether it was carried out is unknown), HubFailed.
        """
        deadline = self.now() + seconds
        rests = Rests(draw=self.draw)
        task_id = str(uuid.uuid4())
        silence = self.resend_after
        trouble = ""
        is_sent = False
        while True:
            try:
                is_sent = self._send(task, message, task_id, is_sent)
                reply = self.transport.receive(task_id, max(0.0, min(silence, deadline - self.now())))
            except BrokerAway as away:
                if not self._rest(rests, deadline):
                    raise _not_sent(task, seconds, away, repeat_with) from away
                continue
            if reply is None:
                silence = min(silence * 2, _LONGEST_RESEND)
                if self.now() >= deadline:
                    hint = trouble or "is a worker running and reading its queue?"
                    raise NoAnswer(f"{task}: no answer within {seconds:g} s ({hint})", repeat_with)
                continue
            if reply.failure is None:
                return reply.value
            trouble = f"{reply.failure}: {reply.failure_text}"
            if reply.failure not in _PASSING:
                raise HubFailed(f"{task} broke at the hub, whose log says more: {trouble}")
            # A new place for the next answer: the failure lies in the old one.
            task_id = str(uuid.uuid4())
            if not self._rest(rests, deadline):
                raise NoAnswer(f"{task}: no answer within {seconds:g} s (last: {trouble})", repeat_with)

    def post(self, task: str, message: Mapping[str, Any], seconds: float, repeat_with: Mapping[str, UUID]) -> None:
        """Return once the broker has the message. Raises: HubBusy, HubUnavailable."""
        deadline = self.now() + seconds
        rests = Rests(draw=self.draw)
        task_id = str(uuid.uuid4())
        while True:
            try:
                self.transport.send(task, message, task_id=task_id, answered=False)
            except BrokerAway as away:
                if not self._rest(rests, deadline):
                    raise _not_sent(task, seconds, away, repeat_with) from away
            else:
                return

    def _send(self, task: str, message: Mapping[str, Any], task_id: str, is_sent: bool) -> bool:
        try:
            # The same task id each time: whichever copy is answered, the answer lies in the same place.
            self.transport.send(task, message, task_id=task_id, answered=True)
        except BrokerFull:
            # A copy of what waits in that very queue would only make it longer.
            if not is_sent:
                raise
        return True

    def _rest(self, rests: Rests, deadline: float) -> bool:
        """Pause; False, at once, if the time is over."""
        left = deadline - self.now()
        if left <= 0:
            return False
        self.sleep(min(rests.next(), left))
        return True


def _not_sent(task: str, seconds: float, away: BrokerAway, repeat_with: Mapping[str, UUID]) -> HubUnavailable:
    if isinstance(away, BrokerFull):
        return HubBusy(f"{task}: no room within {seconds:g} s ({away})", repeat_with)
    return HubUnavailable(f"{task}: no broker within {seconds:g} s ({away})", repeat_with)
