"""Updates walked by the validator as the lists that they were: what it finds is what it would find in the lists."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator

from connectors.records import DataFormat, FederatedModel
from connectors.storage import FileModelDataConnector
from tasks.domain.update_schema import find_breach

UPDATES = [
    [],
    [1, 2, 4],
    [0.5],
    [0, -0.0],
    [3, 1, 3],
    [[]],
    [[], []],
    [[1, 2], [3]],
    [[1, 2], [1, 2]],
    [[1, 2], [1, 3], [1, 2]],
    [1, [2, 3]],
    [1, [1], 1],
    [[[1, 2], [3, 4]], [5]],
    [[[1, 2], [1, 2]]],
    [[[0.0], [-0.0]]],
    [[[], []]],
    [[[[1]], [[2]]], [[[3]], [[4]]]],
    list(range(5000)),  # more than one piece
    [[[at, at + 1] for at in range(3000)], 7],
]

SCHEMAS: list[Any] = [
    {},
    True,
    False,
    {"type": "array"},
    {"type": "object"},
    {"type": ["number", "null"]},
    {"items": {"type": "number"}},
    {"items": True},
    {"items": False},
    {"items": {"type": "array"}},
    {"items": {"type": "integer"}},
    {"items": {"minimum": 1, "maximum": 4}},
    {"items": {"exclusiveMinimum": 0, "exclusiveMaximum": 4999}},
    {"items": {"multipleOf": 2}},
    {"items": {"items": {"items": {"type": "number", "maximum": 2}}}},
    {"prefixItems": [{"type": "array", "maxItems": 2}, {"minimum": 2}], "items": False},
    {"prefixItems": [{"type": "number"}], "items": {"type": "number"}},
    {"minItems": 2},
    {"maxItems": 2},
    {"uniqueItems": True},
    {"uniqueItems": False},
    {"items": {"uniqueItems": True}},
    {"contains": {"const": 2}},
    {"contains": {"const": 4999}, "minContains": 1},
    {"contains": {"minimum": 2}, "minContains": 2, "maxContains": 3},
    {"const": [1, 2, 4]},
    {"enum": [[[1, 2], [3]], [0.5]]},
    {"items": {"enum": [[1, 2], 1, 2, 4, [3]]}},
    {"not": {"maxItems": 2}},
    {"allOf": [{"minItems": 1}, {"items": {"type": "array"}}]},
    {"anyOf": [{"items": {"type": "array"}}, {"maxItems": 1}]},
    {"oneOf": [{"items": {"type": "number"}}, {"minItems": 2}]},
    {"oneOf": [{"minItems": 9000}, {"type": "string"}]},
    {"if": {"minItems": 2}, "then": {"items": {"type": "number"}}, "else": {"minItems": 1}},
    {"prefixItems": [True], "unevaluatedItems": False},
    {"prefixItems": [True], "allOf": [{"prefixItems": [True, True]}], "unevaluatedItems": {"type": "number"}},
    {"$defs": {"tree": {"anyOf": [{"type": "number"}, {"items": {"$ref": "#/$defs/tree"}}]}}, "$ref": "#/$defs/tree"},
    {"$id": "urn:a", "anyOf": [{"$id": "urn:b", "$defs": {"n": {"maxItems": 1}}, "$ref": "#/$defs/n"}]},
]


@pytest.fixture
def store(tmp_path: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path)


def breach(store: FileModelDataConnector, text: str, schema: Any) -> str | None:
    ref = store.push_model_data_to_storage(FederatedModel(id=1, uuid=uuid4()), text.encode())
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        return find_breach(schema, reader)


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: json.dumps(update)[:40])
def test_it_finds_what_the_validator_finds_in_the_lists_themselves(store: FileModelDataConnector, update: Any) -> None:
    text = json.dumps(update)
    lists = json.loads(text, parse_int=float)
    for schema in SCHEMAS:
        expected = next(Draft202012Validator(schema).iter_errors(lists), None)
        found = breach(store, text, schema)
        if expected is None:
            assert found is None, schema
        else:
            assert found is not None, schema
            path, _, message = found.partition(": ")
            assert path == expected.json_path, schema
            # A long list is cut short; which of several fitting schemas is named first is the library's own affair.
            if "under each of" not in message:
                assert message[:100] == expected.message[:100], schema


def test_most_of_the_schemas_above_let_some_updates_through_and_refuse_others() -> None:
    """Else the comparison would compare nothing."""
    outcomes = [{Draft202012Validator(schema).is_valid(update) for update in UPDATES} for schema in SCHEMAS]
    assert outcomes.count({True, False}) >= 28


def test_a_long_list_is_shown_by_its_beginning(store: FileModelDataConnector) -> None:
    found = breach(store, json.dumps([0.5] * 100_000), {"maxItems": 2})
    assert found is not None
    assert found.startswith("$: [0.5, 0.5, ")
    assert found.endswith("… is too long")
    assert len(found) < 300


HOSTILE: dict[str, tuple[str, Any]] = {
    "numbers": ("[" + "0.5," * 100_000 + "0]", {"items": {"maximum": 1}}),
    "empty lists": ("[[" + "[]," * 100_000 + "[]]]", {"items": {"items": {"maxItems": 1}}}),
    "a mistake at every number": (
        "[" + "2," * 100_000 + "2]",
        {"not": {"anyOf": [{"items": {"maximum": 1}}, {"items": {"minimum": 3}}]}},
    ),
    "a list to be shown": ("[[" + "[]," * 100_000 + "[]]]", {"maxItems": 0}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_its_memory_does_not_grow_with_the_update(store: FileModelDataConnector, name: str) -> None:
    """As objects these are 3 MB and more, and the errors of the third 300; what is allowed is a few pieces."""
    text, schema = HOSTILE[name]
    ref = store.push_model_data_to_storage(FederatedModel(id=1, uuid=uuid4()), text.encode())
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        tracemalloc.start()
        try:
            find_breach(schema, reader)
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 19, peak


def test_sorting_for_duplicates_takes_nine_bytes_a_number(store: FileModelDataConnector) -> None:
    text = json.dumps([float(at) for at in range(100_000)])
    ref = store.push_model_data_to_storage(FederatedModel(id=1, uuid=uuid4()), text.encode())
    with closing(store.open(ref, DataFormat.JSON)) as reader:
        tracemalloc.start()
        try:
            assert find_breach({"uniqueItems": True}, reader) is None
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 9 * 100_000 + (1 << 19)


def test_a_list_too_long_for_the_librarys_square_time_is_refused(store: FileModelDataConnector) -> None:
    found = breach(store, json.dumps([1] * 10_001), {"items": True, "unevaluatedItems": False})
    assert found == "$: unevaluatedItems is for lists of up to 10000 items, this one has 10001"
