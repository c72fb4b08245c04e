"""The piecewise parser against the whole one: it must accept the same texts and read the same numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from connectors.errors import ModelDataError
from connectors.records import ReasonCode
from connectors.storage import Limits, number_lists
from connectors.storage.fma_json import parse_fma_json


@pytest.fixture(params=[1, 7, 1 << 16], ids=lambda size: f"pieces of {size}", autouse=True)
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So short that every text is cut in every place."""
    monkeypatch.setattr(number_lists, "_PIECE", request.param)


def _wanted(text: str) -> dict[str, Any] | None:
    """What the whole parser makes of it; None where it is not model data."""
    try:
        data = json.loads(text, parse_int=float, parse_constant=lambda _: None)
    except ValueError:
        return None
    if not isinstance(data, list):
        return None
    if all(type(value) is float for value in data):
        layers = {"values": data}
    else:
        layers = {str(position): layer for position, layer in enumerate(data)}
    try:
        arrays = {name: np.array(layer) for name, layer in layers.items()}
    except ValueError:  # ragged
        return None
    if any(array.size and (array.dtype != np.float64 or not np.isfinite(array).all()) for array in arrays.values()):
        return None
    return arrays


def _found(text: str) -> dict[str, Any] | None:
    try:
        return parse_fma_json(text.encode(), Limits())
    except ModelDataError:
        return None


def _same(found: dict[str, Any] | None, wanted: dict[str, Any] | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return list(found) == list(wanted) and all(
        found[name].shape == wanted[name].shape and np.array_equal(found[name], wanted[name]) for name in wanted
    )


def _text(draw: np.random.Generator) -> str:
    def number() -> str:
        return str(draw.choice(["0", "-0", "1", "12", "-3.25", "1e3", "2E-2", "1.5e+300", "7", "0.1"]))

    def tensor(shape: tuple[int, ...]) -> str:
        if not shape:
            return number()
        space = str(draw.choice(["", " ", "\n\t"]))
        return f"[{space}" + f"{space},{space}".join(tensor(shape[1:]) for _ in range(shape[0])) + f"{space}]"

    shapes = [tuple(draw.integers(0, 4, size=draw.integers(0, 4)).tolist()) for _ in range(draw.integers(0, 4))]
    return "[" + ", ".join(tensor(shape) for shape in shapes) + "]"


def test_lists_of_numbers_are_read_as_the_whole_parser_reads_them() -> None:
    draw = np.random.default_rng(2)
    for _ in range(300):
        text = _text(draw)
        assert _same(_found(text), _wanted(text)), text


def test_damaged_texts_are_refused_where_the_whole_parser_refuses_them() -> None:
    draw = np.random.default_rng(3)
    refused = 0
    for _ in range(3000):
        text = list(_text(draw))
        for _change in range(draw.integers(1, 3)):
            place = int(draw.integers(0, len(text)))
            text[place : place + int(draw.integers(0, 2))] = [str(draw.choice(list('[],0-.e" +tN{')))]
        damaged = "".join(text)
        found = _found(damaged)
        refused += found is None
        assert _same(found, _wanted(damaged)), damaged
    assert 1000 < refused < 2900


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (b"[[1], 2, 3, x]", ReasonCode.CORRUPT, "not JSON: b'x' is no value"),
        (b"[1,, 2]", ReasonCode.CORRUPT, "not JSON"),
        (b"[1, 2,]", ReasonCode.CORRUPT, "not JSON"),
        (b"[,[1]]", ReasonCode.CORRUPT, "not JSON"),
        (b"[1 2]", ReasonCode.CORRUPT, "not JSON"),
        (b"[[1] [2]]", ReasonCode.CORRUPT, "a comma or ] must follow"),
        (b"[[1],]", ReasonCode.CORRUPT, "a value must follow the comma"),
        (b"[01]", ReasonCode.CORRUPT, "not JSON"),
        (b"[[1, 2], [3, 4]", ReasonCode.CORRUPT, "it ends too early"),
        (b'[1, 2, "a]", 3]', ReasonCode.SCHEMA, r"^\[2\] is text"),
        (b"[[1], {}]", ReasonCode.SCHEMA, r"^\[1\] is an object"),
        (b"[[0, 1, false]]", ReasonCode.SCHEMA, r"^\[0\]\[2\] is true or false"),
        (b"[1, 2, 3, 4, 5, 1e999]", ReasonCode.NOT_FINITE, r"^\[5\] is beyond"),
        (b"[1, Infinity]", ReasonCode.NOT_FINITE, "Infinity"),
        (b"true", ReasonCode.SCHEMA, "the data is true or false"),
        (b"[" + b"1" * (1 << 22) + b"]", ReasonCode.SCHEMA, r"^\[0\] is longer than any number"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_reason_names_the_place(text: bytes, code: ReasonCode, says: str) -> None:
    with pytest.raises(ModelDataError, match=says) as caught:
        parse_fma_json(text, Limits())
    assert caught.value.reason_code is code
