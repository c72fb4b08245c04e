"""JSON lists of numbers, parsed piece by piece.

Not by `json.loads` of the whole text: it makes an object of 24 to 64 bytes of every number and every empty list, so
that 256 MiB of "[]," would become five gigabytes. Here a number takes eight bytes and a list none, and whatever has no
place in model data is refused where it stands, before the rest is looked at.
"""

from __future__ import annotations

import json
import re
from array import array
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from connectors.errors import ModelDataError
from connectors.records import ReasonCode

FloatArray = NDArray[np.float64]

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_NUMBER: Final = re.compile(rb"[ \t\n\r]*-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[ \t\n\r]*")
_PIECE: Final = 1 << 16  # bytes of text that become Python objects at once
_MOST_DIGITS: Final = 1 << 20
_MAX_DIMENSIONS: Final = 64  # numpy's own limit
_KINDS: Final = {b'"': "text", b"t": "true or false", b"f": "true or false", b"n": "null", b"{": "an object"}
_OPEN, _CLOSE, _COMMA = b"[", b"]", b","


@dataclass(slots=True)
class _List:
    """One list that is open: how many elements it has so far, and the shape that they share."""

    count: int = 0
    inner: tuple[int, ...] = ()


class NumberLists:
    """A parse of one text; `flat` or `layers` is what it held."""

    def __init__(self, text: bytes, max_layers: int) -> None:
        """Raises: ModelDataError: CORRUPT (no JSON), SCHEMA (something else than numbers in lists), SHAPE (ragged
        within a layer), NOT_FINITE, TOO_LARGE (more layers than `max_layers`); the reason names the place: [1][2].
        """
        self.flat: FloatArray | None = None
        self.layers: list[FloatArray] = []
        self._text = text
        self._max_layers = max_layers
        self._at = 0
        self._lists: list[_List] = []  # those open, outermost first
        self._values = array("d")  # of the layer that is being read; of the outermost list until it holds a list
        self._is_flat = True
        self._parse()
        if self._is_flat:
            self.flat = _as_array(self._values)

    def _parse(self) -> None:
        self._skip_space()
        if self._next() != _OPEN:
            self._refuse_kind(self._text[self._at : self._at + _MOST_DIGITS].rstrip())
        self._open()
        while self._lists:
            self._skip_space()
            if self._next() == _OPEN:
                self._open()
                continue
            if self._next() != _CLOSE:
                self._take_numbers()
            elif self._lists[-1].count:
                self._corrupt("a value must follow the comma")
            # After a value: what ends one or several lists, or a comma and the next value.
            while self._lists:
                self._skip_space()
                if self._next() == _CLOSE:
                    self._close()
                elif self._next() == _COMMA and self._lists[-1].count:
                    self._at += 1
                    break
                else:
                    self._corrupt("a comma or ] must follow the value")
        self._skip_space()
        if self._at != len(self._text):
            self._corrupt("something follows the outermost list")

    def _next(self) -> bytes:
        if self._at == len(self._text):
            self._corrupt("it ends too early")
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None, "the pattern matches nothing, too"
        self._at = found.end()

    # --- lists

    def _open(self) -> None:
        if len(self._lists) > _MAX_DIMENSIONS:
            path = self._path()
            raise ModelDataError(ReasonCode.SCHEMA, f"{path[:200]} is nested deeper than {_MAX_DIMENSIONS} lists")
        if len(self._lists) == 1:
            self._end_flat()
        self._lists.append(_List())
        self._at += 1

    def _close(self) -> None:
        closed = self._lists.pop()
        self._at += 1
        if not self._lists:
            return
        shape = (closed.count, *closed.inner)
        if len(self._lists) == 1:
            self._add_layer(_as_array(self._values).reshape(shape))
            self._values = array("d")
        else:
            self._hold_to_shape(shape)
        self._lists[-1].count += 1

    def _hold_to_shape(self, shape: tuple[int, ...]) -> None:
        outer = self._lists[-1]
        if outer.count == 0:
            outer.inner = shape
        elif outer.inner != shape:
            raise ModelDataError(
                ReasonCode.SHAPE,
                f"{self._path()} has shape {list(shape)} where {self._path(self._lists[:-1])}[0] has "
                f"{list(outer.inner)}: a layer is rectangular",
            )

    def _end_flat(self) -> None:
        """The outermost list holds a list: its numbers so far were layers of their own."""
        if self._is_flat:
            self._is_flat = False
            numbers, self._values = self._values, array("d")
            self._add_scalars(numbers)

    def _add_scalars(self, numbers: array[float]) -> None:
        self._check_layers(len(numbers))
        self.layers += [np.array(number, np.float64) for number in numbers]

    def _add_layer(self, layer: FloatArray) -> None:
        self._check_layers(1)
        self.layers.append(layer)

    def _check_layers(self, more: int) -> None:
        count = len(self.layers) + more
        if count > self._max_layers:
            raise ModelDataError(ReasonCode.TOO_LARGE, f"{count} layers or more, the limit is {self._max_layers}")

    # --- numbers

    def _take_numbers(self) -> None:
        """The numbers from here to the next bracket, or as many as one piece of text holds."""
        end = self._end_of_numbers()
        numbers = self._as_numbers(end)
        values = array("d", numbers)
        if not _are_finite(values):
            self._lists[-1].count += int(np.argmin(np.isfinite(values)))
            raise ModelDataError(ReasonCode.NOT_FINITE, f"{self._path()} is beyond what a float64 can hold")
        if len(self._lists) > 1:
            self._hold_to_shape(())
        if len(self._lists) > 1 or self._is_flat:
            self._values += values
        else:
            self._add_scalars(values)
        self._lists[-1].count += len(numbers)
        self._at = end

    def _end_of_numbers(self) -> int:
        """Where the numbers end: before the next bracket, or before a comma that another number follows."""
        size = _PIECE
        while True:
            limit = min(self._at + size, len(self._text))
            close = self._text.find(_CLOSE, self._at, limit)
            end = self._text.find(_OPEN, self._at, limit if close < 0 else close)
            if end >= 0:  # a list begins: the comma before it is not the numbers'
                comma = self._text.rfind(_COMMA, self._at, end)
                return end if comma < 0 else comma
            if close >= 0:
                return close
            comma = self._text.rfind(_COMMA, self._at, limit)
            if comma >= 0:
                return comma
            if limit == len(self._text):
                self._refuse(limit)
            if size > _MOST_DIGITS:
                if self._text[self._at : self._at + 1] in _KINDS:
                    self._refuse_kind(self._text[self._at : limit])
                raise ModelDataError(ReasonCode.SCHEMA, f"{self._path()} is longer than any number: {size} bytes")
            size *= 2

    def _as_numbers(self, end: int) -> list[float]:
        try:
            text = self._text[self._at : end].decode()
            # Whole numbers straight to float: an integer of a million digits is then infinite, not a slow parse.
            numbers = json.loads(f"[{text}]", parse_int=float, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):  # no JSON, or the beginning of something else than numbers
            self._refuse(end)
        if not numbers or set(map(type, numbers)) != {float}:
            self._refuse(end)
        return numbers  # type: ignore[no-any-return]

    def _refuse(self, end: int) -> NoReturn:
        """Say what stands before `end` that is no number."""
        for token in self._text[self._at : min(end, self._at + _MOST_DIGITS)].split(_COMMA):
            if not _NUMBER.fullmatch(token):
                self._refuse_kind(token.strip(b" \t\n\r"))
            self._lists[-1].count += 1
        self._at = end
        self._corrupt("it ends too early")

    def _refuse_kind(self, start: bytes) -> NoReturn:
        kind = "a number" if not self._lists and _NUMBER.fullmatch(start) else _KINDS.get(start[:1])
        if kind is None or (start[:1] in (b"t", b"f", b"n") and start not in (b"true", b"false", b"null")):
            self._corrupt(f"{start[:20]!r} is no value")
        raise ModelDataError(
            ReasonCode.SCHEMA,
            f"{self._path() or 'the data'} is {kind}: model data is a list of numbers, or of lists of numbers",
        )

    def _path(self, lists: list[_List] | None = None) -> str:
        return "".join(f"[{each.count}]" for each in (self._lists if lists is None else lists))

    def _corrupt(self, reason: str) -> NoReturn:
        raise ModelDataError(ReasonCode.CORRUPT, f"not JSON: {reason} (byte {self._at})")


def _as_array(values: array[float]) -> FloatArray:
    return np.frombuffer(values, np.float64) if values else np.empty(0, np.float64)


def _are_finite(values: array[float]) -> bool:
    # Innermost lists are often of one number or a few: numpy takes longer to begin than they take.
    return all(map(isfinite, values)) if len(values) < 16 else bool(np.isfinite(values).all())


def _refuse_constant(token: str) -> Any:
    raise ModelDataError(ReasonCode.NOT_FINITE, f"the data contains {token}")
