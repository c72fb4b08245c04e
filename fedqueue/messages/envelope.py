"""What every message and every answer has in common."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from fedqueue.messages.names import INLINE_DATA_LIMIT

# Row ids and counters as every database can keep them.
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _fits_in_a_message(data: JsonValue) -> JsonValue:
    if len(json.dumps(data, separators=(",", ":"))) > INLINE_DATA_LIMIT:
        raise ValueError(
            f"is more than {INLINE_DATA_LIMIT // 1024} KiB of JSON: put it in the store and say where it lies"
        )
    return data


# Model data within a message. Brokers keep messages in memory, databases those that were refused.
InlineData = Annotated[JsonValue, AfterValidator(_fits_in_a_message)]


class Message(BaseModel):
    """One task's only argument. JSON; a field that is not declared is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    v: Literal[1] = Field(default=1, description="Version of this message.")


class View(BaseModel):
    """Part of an answer. A newer hub may add fields: an older client leaves them unread."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Limit(View):
    """What was met: nothing is wrong with the message, and later it may be accepted as it is."""

    rule: str = Field(description="The hub's setting, e.g. client_open_updates.")
    limit: int
    found: int = Field(description="What there was already, and what this one would have added.")
    retry_after: float = Field(description="Seconds after which it is worth while to send the same message again.")


class Rejection(View):
    """Why a message was refused: it was not carried out, will not be tried again, and is kept as a dead letter.

    Of those that a limit refuses, the first a minute is kept, and says how many there were. A question for what is not
    there is answered alone.
    """

    kind: str = Field(description="Stable name of the rule, e.g. InvalidMessage, UnknownModel, UnknownAggregator.")
    field: str | None = Field(default=None, description="The field at fault, dotted.")
    reason: str = Field(description="What was wrong and what to do, for people.")
    limit: Limit | None = Field(default=None, description="The limit that was met, if it was one.")


class Answer(View):
    """What a task returns to a caller that asked for it: a value, or the reason why there is none."""

    value: dict[str, Any] | None = None
    rejection: Rejection | None = None
