"""Arguments of a call, checked before anything is sent: what breaks a rule is named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar
from uuid import UUID

from pydantic import ValidationError

from fedqueue.errors import InvalidArgument
from fedqueue.messages import Message
from fedqueue.messages.failure_reports import cut_failure_report

M = TypeVar("M", bound=Message)
Id = UUID | str


class PolicyFields(TypedDict, total=False):
    """The fields of `fedqueue.messages.Policy`, which says what each means."""

    name: str
    description: str
    aggregator: str
    aggregator_params: Mapping[str, Any] | Sequence[Any]
    requirement: str | None
    requirement_args: Mapping[str, Any] | Sequence[Any] | None
    furthest_base_agg: int | None
    allow_repeats: bool | None
    max_rounds: int | None
    update_schema: Mapping[str, Any] | None
    client_agg_results_schema: Mapping[str, Any] | None
    score_metric: str | None
    score_mode: Literal["max", "min"]
    patience: int | None
    max_norm: float | None
    silence_timeout: float | None


def as_message(kind: type[M], **fields: Any) -> M:
    """The message, or InvalidArgument naming the first field at fault; a failure report is cut to the limits."""
    try:
        return kind(**fields)
    except ValidationError as error:
        if (report := cut_failure_report(fields)) is not None and report != fields:
            return as_message(kind, **report)
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise InvalidArgument(where, first["msg"]) from error


def as_uuid(value: Id, name: str) -> UUID:
    """The UUID, or InvalidArgument naming the argument."""
    try:
        return value if isinstance(value, UUID) else UUID(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidArgument(name, f"{value!r} is no UUID") from error


def as_seconds(value: float, name: str) -> float:
    """A length of time that can be waited for, or InvalidArgument naming the argument."""
    if not math.isfinite(value) or value <= 0:
        raise InvalidArgument(name, f"must be a finite number of seconds above 0, not {value}")
    return value
