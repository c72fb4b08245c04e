"""Refused messages are kept on every database, whatever is in them."""

from __future__ import annotations

import json
from datetime import datetime, time
from decimal import Decimal
from uuid import UUID

import pytest

from tasks.storable import find_unstorable_text, storable


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"name": "fine ✓", "data": [1, 2.5, [None]]}, None),
        ({"name": "a\0b"}, "name"),
        ({"metrics": {"x": "\ud800"}}, "metrics.x"),
        ({"data": [1, [2, "\0"]]}, "data.1.1"),
        ({"a\0": 1}, "(a field's name)"),
        ("\0", ""),
    ],
)
def test_text_that_no_database_keeps_is_found(payload: object, place: str | None) -> None:
    assert find_unstorable_text(payload) == place


def test_what_can_not_be_stored_is_spelt_out() -> None:
    kept = storable({"a": float("nan"), "b": [float("-inf"), 1.5], "c": "x\0y\ud800", "d\0": None})
    assert kept == {"a": "nan", "b": ["-inf", 1.5], "c": "x\\x00y\\ud800", "d\\x00": None}
    json.dumps(kept, allow_nan=False).encode()


def test_what_is_nested_deeper_than_pythons_stack_is_found_and_kept_in_part() -> None:
    """It would end the task with no answer, and the message would be gone."""
    nested: list[object] = []
    for _ in range(5_000):
        nested = [nested]
    found = find_unstorable_text({"a": nested})
    assert found is not None
    assert found.startswith("a.0.0.")
    assert json.dumps(storable(nested)).count("[") == 101
    shallow: dict[str, object] = {}
    for _ in range(100):
        shallow = {"a": shallow}
    assert find_unstorable_text(shallow) is None
    assert storable(shallow) == shallow


def test_what_only_kombus_json_can_say_is_kept_as_text() -> None:
    """A refused message with a date in it could not be kept: its task ended in a traceback (found by fuzzing)."""
    odd = {"a": b"x\0", "b": datetime(2026, 1, 1), "c": UUID(int=1), "d": Decimal("NaN"), "e": time(1)}
    kept = storable(odd)
    json.dumps(kept, allow_nan=False).encode()
    assert kept["b"] == "2026-01-01 00:00:00"
    assert "\0" not in kept["a"]
    assert find_unstorable_text(odd) == "a"
    assert find_unstorable_text({"list": [1, b""]}) == "list.1"
    assert find_unstorable_text({"a": odd["b"], "b": odd["c"]}) is None
