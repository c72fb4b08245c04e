"""What is around a message on its way: Celery's task protocol 2, kombu's envelope on Redis, the record of an answer.

Described as far as this hub relies on it. Source: the Celery manual, "Message Protocol", version 2.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskId = Annotated[str, Field(min_length=1, max_length=255)]
NothingHere = Annotated[list[Any], Field(max_length=0)] | None


class _Frame(BaseModel):
    """Others may add fields: tracers do, and newer versions of Celery."""

    model_config = ConfigDict(extra="allow", frozen=True)


class CallHeaders(_Frame):
    """Celery's headers of a call. `task` and `id` must be there; without `ignore_result: false` nothing is answered."""

    task: str = Field(min_length=1, max_length=255, description="The task's name, e.g. fedqueue.updates.submit.")
    id: TaskId = Field(description="A new UUID for each call. Sent again under the same id, it is answered there.")
    root_id: TaskId | None = Field(default=None, description="The same as id.")
    parent_id: TaskId | None = None
    lang: str = Field(default="py", description="What the sender is written in; nobody reads it.")
    ignore_result: bool | None = Field(default=None, description="false: the sender waits for the answer.")
    expires: str | None = Field(
        default=None, max_length=1 << 16, description="ISO 8601 with an offset; begun later, the call is dropped."
    )
    eta: str | None = Field(default=None, max_length=1 << 16, description="ISO 8601: not before. Best left null.")
    retries: int | None = Field(default=None, ge=0, lt=1 << 31, description="0; the hub's own count.")
    timelimit: list[float | None] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="Hard and soft, in seconds; [null, null]: as the hub has it.",
    )
    group: TaskId | None = None
    shadow: TaskId | None = None
    origin: str | None = Field(default=None, max_length=1 << 16, description="Who sends, for the hub's log.")
    argsrepr: str | None = Field(
        default=None, max_length=1 << 16, description="The arguments as logs may show them. Best without their values."
    )
    kwargsrepr: str | None = Field(default=None, max_length=1 << 16)


class Binding(BaseModel):
    """In a signed body: the call that it was signed for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(description="As the header task.")
    id: TaskId = Field(description="As the header id.")


class Embedded(BaseModel):
    """The third part of a call's body: what Celery hangs on a call. Nothing of it is needed; {} will do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    callbacks: NothingHere = None
    errbacks: NothingHere = None
    chain: NothingHere = None
    chord: None = None
    signed: Binding | None = Field(default=None, description="Of signed messages alone.")


class DeliveryInfo(_Frame):
    """Where an envelope was put."""

    exchange: str = Field(description='Empty, or the queue\'s name: "" is the default exchange.')
    routing_key: str = Field(description="The queue's name.")


class EnvelopeProperties(_Frame):
    """What AMQP has as properties of a message."""

    correlation_id: TaskId = Field(description="The header id.")
    reply_to: str = Field(default="", description="Where answers go over rpc://; on Redis nobody reads it.")
    delivery_mode: Literal[1, 2] = Field(default=2, description="2: persistent.")
    delivery_info: DeliveryInfo
    delivery_tag: str = Field(min_length=1, description="A new UUID for every copy that is pushed.")
    priority: int = Field(default=0, description="0: the hub has queues instead of priorities.")
    body_encoding: Literal["base64"] = "base64"


class RedisEnvelope(BaseModel):
    """One entry of a queue on Redis, which is a list: pushed on its left as JSON text."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    body: str = Field(
        pattern=r"^[A-Za-z0-9+/]+={0,2}$", description="base64 of the call's body: [[message], {}, {}] as JSON."
    )
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    content_type: Literal["application/json", "application/data"] = Field(
        alias="content-type", description="application/data: a signed body."
    )
    headers: CallHeaders
    properties: EnvelopeProperties


class Failure(_Frame):
    """What broke a task: a fault of the hub or of what it leans on, never a verdict on the message."""

    exc_type: str = Field(description="E.g. WorkerLostError, TimeLimitExceeded.")
    exc_message: Any = Field(default=None, description="Its words: a list, or text.")
    exc_module: str | None = None


class ResultRecord(_Frame):
    """Celery's record of what came of a call. An Answer lies in `result`; it is final when `status` is one of these."""

    task_id: TaskId = Field(description="The header id of the call. Of another call: not your answer.")
    status: Literal["SUCCESS", "FAILURE", "REVOKED"]
    result: Any = Field(description="Of SUCCESS: the Answer. Of the others: the Failure.")
    traceback: str | None = None
    children: list[Any] | None = None
    date_done: str | None = Field(default=None, description="ISO 8601.")
