"""JSON Schemas of every message that services send, of every answer, and of what is around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from fedqueue.messages.contracts import CONTRACTS, Entries
from fedqueue.messages.envelope import Answer, Message, Rejection
from fedqueue.messages.notifications import Notification
from fedqueue.wire.celery_protocol import CallHeaders, Embedded, Failure, RedisEnvelope, ResultRecord

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FRAMES: Final[tuple[type[BaseModel], ...]] = (CallHeaders, Embedded, RedisEnvelope, ResultRecord, Failure)

_ENTRIES: Final = {contract.message: contract.entries for contract in CONTRACTS.values() if contract.entries}


class _Generator(GenerateJsonSchema):
    """Pydantic's, without a title for every field: it would say the field's name once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def messages() -> list[type[Message]]:
    """Every message of the contracts and every entry of one, each once."""
    found: list[type[Message]] = []
    for contract in CONTRACTS.values():
        found += [contract.message, *([contract.entries.kind] if contract.entries else [])]
    return list(dict.fromkeys(found))


def answers() -> list[type[BaseModel]]:
    """Every answer of the contracts, what all of them have in common, and what the hub tells by itself."""
    return list(dict.fromkeys([Answer, Rejection, *(contract.answer for contract in CONTRACTS.values()), Notification]))


def schema_files() -> dict[str, Schema]:
    """One schema a type, complete in itself, by file name."""
    files = {}
    for kind in (*messages(), *answers(), *FRAMES):
        collected = collect([kind], "#/$defs/{model}")
        own = collected.pop(kind.__name__)
        files[f"{kind.__name__}.json"] = {"$schema": DIALECT, **own, **({"$defs": collected} if collected else {})}
    return files


def collect(kinds: Iterable[type[BaseModel]], ref_template: str) -> dict[str, Schema]:
    """The schemas of the types and of all that they are made of, by name; `ref_template` is how one names another.

    Lists whose entries a message leaves open are given the schema of their entries.
    """
    found: dict[str, Schema] = {}
    for kind in kinds:
        schema = kind.model_json_schema(
            by_alias=True, ref_template=ref_template, schema_generator=_Generator, mode=_mode_of(kind)
        )
        found |= schema.pop("$defs", {})
        entries = _ENTRIES.get(kind) if issubclass(kind, Message) else None
        if entries is not None:
            found |= collect([entries.kind], ref_template)
            _fill_in(schema, entries, ref_template)
        found[kind.__name__] = schema
    return dict(sorted(found.items()))


def _fill_in(schema: Schema, entries: Entries, ref_template: str) -> None:
    schema["properties"][entries.field]["items"] = {"$ref": ref_template.format(model=entries.kind.__name__)}


def _mode_of(kind: type[BaseModel]) -> Literal["validation", "serialization"]:
    # What is sent to the hub is described as it is read, what the hub sends as it is written.
    return "validation" if issubclass(kind, Message) or kind in FRAMES else "serialization"
