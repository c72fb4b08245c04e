"""Refused messages are kept on every database, whatever is in them."""

from __future__ import annotations

import json

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
