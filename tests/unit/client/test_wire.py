"""docs/wire: what is generated is what is committed, is valid, and says what hub and clients really take and send."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints
from uuid import uuid4

import pytest
from celery import Celery
from jsonschema import Draft7Validator, Draft202012Validator
from kombu.message import Message as Delivered

from config.loading import load_settings
from fedqueue.gate import find_fault
from fedqueue.messages import names
from fedqueue.messages.contracts import CONTRACTS, HUBS_OWN
from fedqueue.messages.events import FLEvent
from fedqueue.wire.__main__ import files
from fedqueue.wire.asyncapi import document
from fedqueue.wire.examples import EXAMPLES
from fedqueue.wire.schemas import Schema, schema_files
from tests.readme import table_under
from worker.bootstrap import HubCelery

ROOT = Path(__file__).parents[3]
WIRE = ROOT / "docs" / "wire"
SPECIFICATION = ROOT / ".peers/node/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"

SCHEMAS = schema_files()
ASYNCAPI = document()


def validator(name: str) -> Draft202012Validator:
    """By the schema file of that type."""
    return Draft202012Validator(SCHEMAS[f"{name}.json"], format_checker=Draft202012Validator.FORMAT_CHECKER)


def part_of_document(pointer: str) -> Draft7Validator:
    """By a schema within the AsyncAPI document, as readers of such documents resolve it."""
    return Draft7Validator({**ASYNCAPI, "$ref": f"#/{pointer}"})


# --- the files ------------------------------------------------------------------------------------


def test_the_committed_files_are_those_that_are_generated() -> None:
    """If this fails: `make wire`, and look at what has changed for others."""
    committed = {path.relative_to(WIRE).as_posix(): path.read_text("utf-8") for path in WIRE.rglob("*.json")}
    assert committed == files()


def test_it_is_written_anew_and_what_nothing_is_made_of_any_more_goes(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "Forgotten.json").write_text("{}")
    subprocess.run([sys.executable, "-m", "fedqueue.wire", tmp_path], cwd=ROOT, check=True)
    written = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.json")}
    assert written == files()


def test_the_page_s_table_is_the_contracts() -> None:
    def link(name: str) -> str:
        return f"[{name}](wire/schemas/{name}.json)"

    wanted = []
    for task, contract in CONTRACTS.items():
        of = f" of {link(contract.entries.kind.__name__)}" if contract.entries else ""
        message = link(contract.message.__name__) + of
        queue = contract.queue.removeprefix("fedqueue.")
        wanted.append([f"`{task}`", f"`{queue}`", message, link(contract.answer.__name__)])
    assert table_under(ROOT / "docs" / "wire.md", "Tasks") == wanted


# --- the contracts --------------------------------------------------------------------------------


def test_the_contracts_are_what_the_tasks_take_and_answer() -> None:
    """Told by the tasks themselves: by the functions that do their work."""
    app = HubCelery(load_settings(env_file=None, broker_url="memory://"))
    app.loader.import_default_modules()
    found = {}
    for name, task in app.tasks.items():
        if name in HUBS_OWN or name.startswith("celery."):
            continue
        held: Mapping[str, Any] = inspect.getclosurevars(task.run).nonlocals
        kind = held.get("kind")  # a task of batches keeps both in one
        message, work = (kind.message_type, kind.work) if kind else (held["message_type"], held["work"])
        returned = get_type_hints(work)["return"]
        found[name] = (message, returned.__args__[0] if kind else returned)
    assert found == {name: (contract.message, contract.answer) for name, contract in CONTRACTS.items()}


def test_every_task_is_a_service_s_or_the_hub_s_own() -> None:
    on_the_wire = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert set(CONTRACTS) | HUBS_OWN == on_the_wire - set(names.QUEUES)
    assert not set(CONTRACTS) & HUBS_OWN


# --- schemas and examples -------------------------------------------------------------------------


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_no_bound_is_lost_on_the_way_into_a_schema() -> None:
    """Pydantic writes bounds that it can't place under names of its own, which mean nothing to a validator."""

    def words(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(words, part))
        return set(part).union(*map(words, part.values())) if isinstance(part, dict) else set()

    assert not words(SCHEMAS) & {"ge", "le", "gt", "lt", "min_length", "max_length", "multiple_of"}
    event = EXAMPLES[names.EVENTS_INGEST]["events"][0]
    validator("FLEvent").validate(event)
    assert not validator("FLEvent").is_valid(event | {"global_round": -1})
    assert not validator("FLEvent").is_valid(event | {"global_round": 2**31})


@pytest.mark.parametrize("task", CONTRACTS)
def test_an_example_is_a_message_by_the_hub_by_its_schema_and_by_the_document(task: str) -> None:
    contract, example = CONTRACTS[task], EXAMPLES[task]
    contract.message.model_validate(example)
    validator(contract.message.__name__).validate(example)
    payload = part_of_document(f"components/messages/{task}/payload")
    payload.validate([[example], {}, {}])
    if contract.entries is not None:
        for entry in example[contract.entries.field]:
            contract.entries.kind.model_validate(entry)
            validator(contract.entries.kind.__name__).validate(entry)


@pytest.mark.parametrize("task", CONTRACTS)
def test_a_field_that_nobody_knows_is_refused_by_all_three(task: str) -> None:
    contract, spoilt = CONTRACTS[task], {**EXAMPLES[task], "num_example": 10}
    with pytest.raises(ValueError, match="num_example"):
        contract.message.model_validate(spoilt)
    assert not validator(contract.message.__name__).is_valid(spoilt)
    assert not part_of_document(f"components/messages/{task}/payload").is_valid([[spoilt], {}, {}])


def test_one_event_by_itself_may_stand_for_a_list() -> None:
    event = EXAMPLES[names.EVENTS_INGEST]["events"][0]
    FLEvent.model_validate(event)
    payload = part_of_document(f"components/messages/{names.EVENTS_INGEST}/payload")
    payload.validate([[event], {}, {}])
    assert not payload.is_valid([[event | {"event_id": None}], {}, {}])
    assert not payload.is_valid([[event], {}])


# --- what is around a message ---------------------------------------------------------------------


def sent_by_celery() -> tuple[Schema, list[Any], Schema]:
    """Headers, body and properties of a call as Celery's own producer makes them."""
    with Celery("any", broker="memory://", set_as_current=False) as app:
        call = app.amqp.as_task_v2(str(uuid4()), names.MODELS_GET, [EXAMPLES[names.MODELS_GET]], ignore_result=False)
    return call.headers, json.loads(json.dumps(call.body)), call.properties


def test_celery_s_own_calls_are_as_the_schemas_say() -> None:
    headers, body, _properties = sent_by_celery()
    validator("CallHeaders").validate(headers)
    part_of_document(f"components/messages/{names.MODELS_GET}/headers").validate(headers)
    part_of_document(f"components/messages/{names.MODELS_GET}/payload").validate(body)


WRONG_HEADERS: dict[str, Any] = {
    "task": "",
    "id": 7,
    "eta": 7,
    "expires": 12.5,
    "retries": -1,
    "timelimit": [1],
    "group": "",
    "root_id": "x" * 256,
    "parent_id": [],
    "shadow": "",
    "argsrepr": {},
    "kwargsrepr": 1,
    "origin": 1,
    "ignore_result": "no",
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_a_header_that_the_gate_turns_away_is_wrong_by_its_schema(name: str) -> None:
    """What a worker's gate lets through and the schema of headers are two lists of one thing."""
    headers, body, _properties = sent_by_celery()
    content = {"content_type": "application/json", "content_encoding": "utf-8", "body": json.dumps(body)}
    assert find_fault(Delivered(**content, headers=headers), is_signed=False) is None  # type: ignore[no-untyped-call]
    spoilt = headers | {name: WRONG_HEADERS[name]}
    fault = find_fault(Delivered(**content, headers=spoilt), is_signed=False)  # type: ignore[no-untyped-call]
    assert fault == f"its header {name} is not what it must be"
    assert not validator("CallHeaders").is_valid(spoilt)


# --- the document ---------------------------------------------------------------------------------


def test_every_reference_of_the_document_leads_somewhere() -> None:
    def targets(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(targets, part))
        if not isinstance(part, dict):
            return set()
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(targets, part.values()))

    found = targets(ASYNCAPI)
    assert len(found) > 100
    for target in found:
        place: Any = ASYNCAPI
        for step in target.removeprefix("#/").split("/"):
            assert step in place, f"{target} leads nowhere"
            place = place[step]


def test_a_record_of_an_answer_is_told_from_one_of_another_task() -> None:
    record = part_of_document(f"components/schemas/{names.MODELS_DELETE}.answer")
    written = {"task_id": str(uuid4()), "status": "SUCCESS", "result": {"value": {"deleted": 1}, "rejection": None}}
    record.validate(written)
    refused = {"kind": "UnknownModel", "field": "model_id", "reason": "there is no model", "limit": None}
    record.validate(written | {"result": {"value": None, "rejection": refused}})
    record.validate(written | {"status": "FAILURE", "result": {"exc_type": "WorkerLostError", "exc_message": ["…"]}})
    other = {"value": {"deleted": "one"}, "rejection": None}
    faults: list[dict[str, Any]] = [{"status": "PENDING"}, {"result": other}, {"result": []}]
    for wrong in faults:
        assert not record.is_valid(written | wrong), wrong


@pytest.mark.wide
def test_the_document_is_what_asyncapi_s_own_schema_asks_for() -> None:
    if not SPECIFICATION.exists():
        pytest.skip("AsyncAPI's schema is not there: make peers")
    official = Draft7Validator(json.loads(SPECIFICATION.read_text()))
    official.validate(ASYNCAPI)
    faults: dict[tuple[str, ...], Any] = {
        ("asyncapi",): "2.6.0",
        ("operations", names.UPDATES_SUBMIT, "action"): "publish",
        ("channels", names.UPDATES_QUEUE, "address"): 7,
        ("components", "messages", names.UPDATES_SUBMIT, "payload"): "an update",
    }
    for path, wrong in faults.items():
        spoilt = copy.deepcopy(ASYNCAPI)
        place: Any = spoilt
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = wrong
        assert not official.is_valid(spoilt), path
