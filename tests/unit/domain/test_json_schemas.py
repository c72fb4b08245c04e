"""Schemas that others write: nothing they name is fetched, nothing they do ends otherwise than in a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tasks.domain.errors import InvalidPolicy
from tasks.domain.json_schemas import find_instance_fault, find_schema_fault
from tests.unit.domain.conftest import Bench


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server that would answer any schema, and what it was asked for."""
    paths: list[str] = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "object"}')

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


@pytest.mark.parametrize("field", ["update_schema", "client_agg_results_schema"])
@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
def test_a_reference_to_elsewhere_is_refused_and_never_fetched(
    bench: Bench, asked: tuple[str, list[str]], field: str, keyword: str
) -> None:
    url, paths = asked
    with pytest.raises(InvalidPolicy, match="nothing is fetched") as refused:
        bench.model(2, **{field: {"properties": {"inner": {keyword: f"{url}/schema"}}}})
    assert refused.value.field == field
    assert paths == []


def test_a_schema_kept_from_before_fetches_nothing_either(asked: tuple[str, list[str]]) -> None:
    url, paths = asked
    fault = find_instance_fault(Draft202012Validator, {"$ref": f"{url}/schema"}, {})
    assert "nothing is fetched" in str(fault)
    assert paths == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "number"}}, "items": {"$ref": "#/$defs/a"}},
        {"$id": "https://example.org/root", "$defs": {"a": {"$id": "a"}}, "items": {"$ref": "a"}},
        {"$defs": {"a": {"$anchor": "here"}}, "$ref": "#here"},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "of no meaning here"}},
        {"properties": {"child": {"$ref": "#"}}},
    ],
)
def test_references_within_are_as_good_as_ever(schema: dict[str, Any]) -> None:
    assert find_schema_fault(schema) is None


@pytest.mark.parametrize("reference", ["#/$defs/none", "#nowhere", "other.json", "file:///etc/passwd"])
def test_a_reference_to_nowhere_is_refused(reference: str) -> None:
    assert (
        find_schema_fault({"items": {"$ref": reference}})
        == f"{reference!r} leads nowhere in it, and nothing is fetched"
    )


def test_a_schema_that_turns_in_a_circle_is_a_reason_not_a_crash() -> None:
    circle = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    assert find_schema_fault(circle) is None
    assert "without end" in str(find_instance_fault(Draft202012Validator, circle, {}))


class PanicException(BaseException):  # PyO3 names it so, and hides it
    """What the library's Rust part raises when Python's stack ends within it."""


def test_a_circle_that_ends_in_the_library_s_rust_part_is_a_reason_too() -> None:
    """Fuzzing came to it after minutes: a panic, which is no Exception."""

    def panics(schema: Any, registry: Any) -> Any:
        raise PanicException("assert_failed")

    validator: Any = panics
    assert "without end" in str(find_instance_fault(validator, {"$ref": "#"}, {}))


def test_who_ends_the_process_is_not_held_up() -> None:
    def ends(schema: Any, registry: Any) -> Any:
        raise SystemExit

    validator: Any = ends
    with pytest.raises(SystemExit):
        find_instance_fault(validator, {}, {})


def test_a_schema_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"not": schema}
    assert "too deeply" in str(find_schema_fault(schema))
    while "not" in schema:  # taken apart by hand: Python would do it by recursion
        schema = schema["not"]


@pytest.mark.parametrize("pattern", ["(", "a{4294967296}", "(?P<a>.)(?P<a>.)"])
def test_a_pattern_that_is_no_regular_expression_is_refused(pattern: str) -> None:
    """Not found before the first text met it, and then as a traceback (found by fuzzing)."""
    fault = find_schema_fault({"type": "string", "pattern": pattern})
    assert fault is not None
    assert "not a" in fault
    assert find_instance_fault(Draft202012Validator, {"pattern": pattern}, "text") is not None


def test_a_number_beyond_a_float_is_a_reason_not_a_crash() -> None:
    """JSON's whole numbers have no end (found by fuzzing)."""
    fault = find_instance_fault(Draft202012Validator, {"multipleOf": 10**400}, 1.5)
    assert fault is not None
    assert "can't be carried out" in fault
