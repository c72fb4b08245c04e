"""The hub as an AsyncAPI 3.0 document: its queues, what it receives there, and what it answers.

Source: the AsyncAPI Specification, version 3.0.0. A schema in such a document is JSON Schema draft 07 with more words:
those of the messages keep to what that and the 2020-12 dialect of the schema files have in common, and a call is
described by a list of `items`, which later became `prefixItems`.
"""

from __future__ import annotations

from typing import Any, Final

from fedqueue.messages import names
from fedqueue.messages.contracts import CONTRACTS, Contract
from fedqueue.messages.notifications import Notification
from fedqueue.version import __version__
from fedqueue.wire.celery_protocol import CallHeaders, Embedded, Failure
from fedqueue.wire.examples import EXAMPLES
from fedqueue.wire.schemas import FRAMES, Schema, answers, collect, messages

VERSION: Final = "3.0.0"
_JSON: Final = "application/json"
_SCHEMAS: Final = "#/components/schemas/"

_PURPOSES: Final = {
    names.CONTROL_QUEUE: "Models, clients, institutions, questions.",
    names.UPDATES_QUEUE: "Clients' updates.",
    names.EVENTS_QUEUE: "What FL servers tell of their runs, and what is written of it.",
}
_REDIS_KEYS: Final = "celery-task-meta-"

_DESCRIPTION: Final = """\
The durable aggregation hub of a federated-learning deployment. Every operation is a call of a Celery task: one JSON \
object, a message, as the only argument. docs/wire.md shows what that is byte by byte on Redis and on RabbitMQ.

The payload of a call is the JSON text `[[message], {}, {}]`. On Redis it travels as base64 within an envelope \
(schemas/RedisEnvelope.json), on RabbitMQ as it is, its headers those of AMQP."""


def document() -> Schema:
    """The whole document."""
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "fedqueue",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "servers": {
            "redis": {
                "host": "redis.example:6379",
                "protocol": "redis",
                "description": "Carries calls and keeps answers. Its address is the deployment's: FEDQUEUE_BROKER_URL.",
            },
            "rabbitmq": {
                "host": "rabbitmq.example:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The other kind of broker; answers come back over it, too.",
            },
        },
        "channels": {
            **{queue: _queue(queue) for queue in _PURPOSES},
            "answers": _answers(),
            "notifications": _notifications(),
        },
        "operations": {
            **{contract.task: _receive(contract) for contract in CONTRACTS.values()},
            "notify": {
                "action": "send",
                "channel": {"$ref": "#/channels/notifications"},
                "summary": "What happened, told to the one task that FEDQUEUE_NOTIFY_TASK names.",
                "messages": [{"$ref": "#/channels/notifications/messages/Notification"}],
            },
        },
        "components": {
            "messages": {
                **{contract.task: _call(contract) for contract in CONTRACTS.values()},
                **{_answer_name(contract): _answer(contract) for contract in CONTRACTS.values()},
                "Notification": _notification(),
            },
            "schemas": {
                **collect((*messages(), *answers(), *FRAMES), _SCHEMAS + "{model}"),
                **{_answer_name(contract): _record(contract) for contract in CONTRACTS.values()},
            },
            "correlationIds": {
                "call": {
                    "location": "$message.header#/id",
                    "description": "Of an answer: task_id in its payload, correlation_id among its properties.",
                }
            },
        },
    }


def _answer_name(contract: Contract) -> str:
    return f"{contract.task}.answer"


def _queue(queue: str) -> Schema:
    tasks = [task for task, contract in CONTRACTS.items() if contract.queue == queue]
    arguments = ", ".join(f"{name}={value}" for name, value in names.RABBITMQ_QUEUE_ARGUMENTS.items())
    return {
        "address": queue,
        "description": f"{_PURPOSES[queue]} On Redis a list; on RabbitMQ a durable queue with {arguments}.",
        "messages": {task: {"$ref": f"#/components/messages/{task}"} for task in tasks},
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": queue, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _answers() -> Schema:
    return {
        "address": None,
        "description": f"On Redis the key {_REDIS_KEYS}ID, ID being the call's; over rpc:// the queue that it named.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in map(_answer_name, CONTRACTS.values())},
    }


def _notifications() -> Schema:
    return {
        "address": None,
        "description": "The queue that FEDQUEUE_NOTIFY_QUEUE names: docs/notifications.md.",
        "messages": {"Notification": {"$ref": "#/components/messages/Notification"}},
    }


def _receive(contract: Contract) -> Schema:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{contract.queue}"},
        "summary": _first_line(contract.message.__doc__),
        "messages": [{"$ref": f"#/channels/{contract.queue}/messages/{contract.task}"}],
        "reply": {
            "address": {
                "location": "$message.header#/reply_to",
                "description": f"Over rpc:// the property reply_to; on Redis the key {_REDIS_KEYS}ID.",
            },
            "channel": {"$ref": "#/channels/answers"},
            "messages": [{"$ref": f"#/channels/answers/messages/{_answer_name(contract)}"}],
        },
    }


def _call(contract: Contract) -> Schema:
    message: Schema = {"$ref": _SCHEMAS + contract.message.__name__}
    if contract.entries is not None and contract.entries.kind.__name__ == "FLEvent":
        message = {"anyOf": [message, {"$ref": _SCHEMAS + "FLEvent"}]}
    return {
        "name": contract.message.__name__,
        "title": contract.task,
        "summary": _first_line(contract.message.__doc__),
        "contentType": _JSON,
        "correlationId": {"$ref": "#/components/correlationIds/call"},
        "headers": _headers(contract.task),
        "payload": _call_of(message),
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}},
        "examples": [{"payload": [[EXAMPLES[contract.task]], {}, {}]}],
    }


def _headers(task: str) -> Schema:
    return {
        "allOf": [
            {"$ref": _SCHEMAS + CallHeaders.__name__},
            {
                "type": "object",
                "properties": {
                    "task": {"const": task},
                    "reply_to": {
                        "type": "string",
                        "description": "No header but a property of the message: where to answer, over rpc://.",
                    },
                    "correlation_id": {
                        "type": "string",
                        "description": "No header but a property of the message: the same as id.",
                    },
                },
            },
        ],
        "type": "object",
    }


def _call_of(message: Schema) -> Schema:
    return {
        "type": "array",
        "description": "The task's arguments, its named ones (none), and what Celery hangs on a call (nothing).",
        "items": [
            {"type": "array", "items": [message], "minItems": 1, "maxItems": 1},
            {"type": "object", "maxProperties": 0},
            {"anyOf": [{"$ref": _SCHEMAS + Embedded.__name__}, {"type": "null"}]},
        ],
        "minItems": 3,
        "maxItems": 3,
    }


def _answer(contract: Contract) -> Schema:
    return {
        "name": contract.answer.__name__,
        "title": f"what {contract.task} answers",
        "summary": _first_line(contract.answer.__doc__),
        "contentType": _JSON,
        "payload": {"$ref": _SCHEMAS + _answer_name(contract)},
    }


def _record(contract: Contract) -> Schema:
    """Celery's record of that task's outcome, down to the view within it."""
    value = {"anyOf": [{"$ref": _SCHEMAS + contract.answer.__name__}, {"type": "null"}]}
    rejection = {"anyOf": [{"$ref": _SCHEMAS + "Rejection"}, {"type": "null"}]}
    answer = {
        "type": "object",
        "properties": {"value": value, "rejection": rejection},
        "required": ["value", "rejection"],
    }
    return {
        "allOf": [
            {"$ref": _SCHEMAS + "ResultRecord"},
            {
                "if": {"type": "object", "properties": {"status": {"const": "SUCCESS"}}},
                "then": {"type": "object", "properties": {"result": answer}},
                "else": {"type": "object", "properties": {"result": {"$ref": _SCHEMAS + Failure.__name__}}},
            },
        ]
    }


def _notification() -> Schema:
    return {
        "name": Notification.__name__,
        "summary": _first_line(Notification.__doc__),
        "contentType": _JSON,
        "headers": {"$ref": _SCHEMAS + CallHeaders.__name__},
        "payload": _call_of({"$ref": _SCHEMAS + Notification.__name__}),
    }


def _first_line(docstring: str | None) -> Any:
    return (docstring or "").partition("\n")[0]
