"""What every call of the client comes down to: a message sent until it is answered, and the answer read.

The rooms of the client are mixins of this: `client.py` itself, `run_calls.py`, `trust_calls.py` and others beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ValidationError

from fedqueue.arguments import Id, as_message, as_seconds, as_uuid
from fedqueue.asking import Asking
from fedqueue.errors import HubFailed, LimitExceeded, Rejected
from fedqueue.messages import Answer, Message, ModelRef, Rejection, View

V = TypeVar("V", bound=View)


class Calls:
    """One who asks a hub."""

    timeout: float
    _asking: Asking

    def _ask_of(
        self,
        task: str,
        view: type[V],
        model_id: Id,
        timeout: float | None,
        kind: type[Message] = ModelRef,
        **fields: Any,
    ) -> V:
        model_id = as_uuid(model_id, "model_id")
        return self._ask(task, as_message(kind, model_id=model_id, **fields), view, {}, timeout)

    def _ask(
        self,
        task: str,
        message: Message | Mapping[str, Any],
        view: type[V],
        repeat_with: Mapping[str, UUID],
        timeout: float | None,
    ) -> V:
        wired = message.model_dump(mode="json") if isinstance(message, Message) else message
        returned = self._asking.ask(task, wired, self._timeout(timeout), repeat_with)
        try:
            answer = Answer.model_validate(returned)
            if answer.rejection is not None:
                raise _refused(answer.rejection)
            return view.model_validate(answer.value)
        except ValidationError as error:
            raise HubFailed(
                f"{task} answered what this client can't read ({error}): are both of one version?"
            ) from error

    def _timeout(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else as_seconds(timeout, "timeout")


def _refused(rejection: Rejection) -> Rejected:
    limit = rejection.limit
    if limit is None:
        return Rejected(rejection.kind, rejection.field, rejection.reason)
    return LimitExceeded(
        rejection.field,
        rejection.reason,
        rule=limit.rule,
        limit=limit.limit,
        found=limit.found,
        retry_after=limit.retry_after,
    )
