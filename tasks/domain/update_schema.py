"""An update's JSON held to its model's `update_schema`, without ever being in memory as Python's lists.

The validator is jsonschema's. It walks the tensors that the store has read from the text (eight bytes a number, large
ones in a file that the kernel may page out) as if they were the lists, and numbers become objects as it comes to them:
all at once they take 24 to 64 bytes each, and 256 MiB of "[]," would be five gigabytes. Keywords that the library
carries out by gathering items or errors are carried out here.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Final, overload

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from connectors.model_data import Array, TensorReader
from connectors.records import TensorSpec
from tasks.domain.json_schemas import find_instance_fault

_PIECE: Final = 1 << 12  # numbers that are Python objects at once
_LONGEST_SHOWN: Final = 200

# The library's way of it takes time with the square of the list's length.
_MOST_UNEVALUATED: Final = 10_000

# What every number of a stored model satisfies.
_ANY_NUMBER: Final[tuple[Any, ...]] = ({"type": "number"}, {}, True)


def find_breach(schema: Mapping[str, Any], reader: TensorReader) -> str | None:
    """Where and how FMA's JSON breaks the schema, the first place found; None if it does not.

    A number is what is kept of it, a float64: 1 and 1.0 are the same, as in JSON Schema itself, and 1e400 was refused
    before. Memory: some 4,096 numbers as objects, whatever the update's size; `uniqueItems` sorts a copy, nine bytes a
    number; `unevaluatedItems` refuses lists of more than 10,000.
    Source: https://json-schema.org/draft/2020-12
    """
    return find_instance_fault(_Validator, schema, _as_lists(reader))


# --- tensors as lists ---------------------------------------------------------------------------------------------


class _Numbers:
    """A tensor's elements, flattened, some of them as Python's floats."""

    def __init__(self, reader: TensorReader, name: str, size: int) -> None:
        self._reader = reader
        self._name = name
        self._size = size
        self._begin = 0
        self._piece: list[float] = []

    def __getitem__(self, position: int) -> float:
        if not self._begin <= position < self._begin + len(self._piece):
            self._begin = position - position % _PIECE
            self._piece = self.read(self._begin, min(self._begin + _PIECE, self._size)).tolist()
        return self._piece[position - self._begin]

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        return self._reader.read(self._name, start, stop)


class _List(Sequence[Any]):
    """A list of an update: numbers or lists, made when they are asked for."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> _List: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = range(len(self))[index]
        if isinstance(found, int):
            return self._item(found)
        if found.step != 1:
            raise ValueError(f"a list is cut in whole pieces, not by steps of {found.step}")
        return self._part(found.start, found.stop)

    @abstractmethod
    def _item(self, position: int) -> Any:
        """The item at that position, of those that there are."""

    @abstractmethod
    def _part(self, start: int, stop: int) -> _List:
        """Items [start, stop)."""

    @abstractmethod
    def are_unique(self) -> bool:
        """Whether no two items are equal."""

    def _text(self) -> Iterator[str]:
        yield "["
        for position, item in enumerate(self):
            yield ", " if position else ""
            if isinstance(item, _List):
                yield from item._text()
            else:
                yield repr(item)
        yield "]"

    def __repr__(self) -> str:
        shown = ""
        for piece in self._text():
            shown += piece
            if len(shown) > _LONGEST_SHOWN:
                return f"{shown[:_LONGEST_SHOWN]}…"
        return shown


class _Tensor(_List):
    """A rectangular list of numbers, or of lists: the elements of a tensor from `start` on, in that shape."""

    def __init__(self, numbers: _Numbers, shape: tuple[int, ...], start: int = 0) -> None:
        self._numbers = numbers
        self._shape = shape
        self._start = start
        self._step = prod(shape[1:])

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def holds_numbers(self) -> bool:
        """Whether its items are numbers."""
        return len(self._shape) == 1

    def _item(self, position: int) -> Any:
        if self.holds_numbers:
            return self._numbers[self._start + position]
        return _Tensor(self._numbers, self._shape[1:], self._start + position * self._step)

    def _part(self, start: int, stop: int) -> _List:
        return _Tensor(self._numbers, (stop - start, *self._shape[1:]), self._start + start * self._step)

    def are_unique(self) -> bool:
        if len(self) < 2:
            return True
        if not self._step:  # all of them are empty
            return False
        # Plus zero: -0.0 and 0.0 are one number, and differ in their bytes.
        rows = self._numbers.read(self._start, self._start + len(self) * self._step) + 0.0
        if not self.holds_numbers:
            rows = rows.view(f"V{self._step * rows.itemsize}")
        rows.sort()
        return not bool((rows[1:] == rows[:-1]).any())

    def digest(self) -> bytes:
        """The same for lists that are equal."""
        digest = hashlib.sha256(repr(self._shape).encode())
        stop = self._start + prod(self._shape)
        for start in range(self._start, stop, _PIECE):
            digest.update((self._numbers.read(start, min(start + _PIECE, stop)) + 0.0).data)
        return digest.digest()


class _Layers(_List):
    """The outermost list, of layers."""

    def __init__(self, reader: TensorReader, tensors: Sequence[TensorSpec]) -> None:
        self._reader = reader
        self._tensors = tensors

    def __len__(self) -> int:
        return len(self._tensors)

    def _item(self, position: int) -> Any:
        name, shape, _dtype = self._tensors[position]
        numbers = _Numbers(self._reader, name, prod(shape))
        return _Tensor(numbers, shape) if shape else numbers[0]

    def _part(self, start: int, stop: int) -> _List:
        return _Layers(self._reader, self._tensors[start:stop])

    def are_unique(self) -> bool:
        seen = {item.digest() if isinstance(item, _Tensor) else item for item in self}
        return len(seen) == len(self)


def _as_lists(reader: TensorReader) -> _List:
    """The lists that the tensors were read from: by their names, a flat list or layers "0", "1", …"""
    (name, shape, _dtype), *_others = reader.tensors
    return _Layers(reader, reader.tensors) if name == "0" else _Tensor(_Numbers(reader, name, prod(shape)), shape)


# --- keywords -----------------------------------------------------------------------------------------------------

_Errors = Iterator[ValidationError]
_BY_THE_LIBRARY: Final = Draft202012Validator.VALIDATORS


def _items(validator: Any, items: Any, instance: Any, schema: Any) -> _Errors:
    if not (isinstance(instance, _Tensor) and instance.holds_numbers and items in _ANY_NUMBER):
        yield from _BY_THE_LIBRARY["items"](validator, items, instance, schema)


def _unique_items(validator: Any, unique: bool, instance: Any, schema: Any) -> _Errors:  # noqa: ARG001
    if unique and isinstance(instance, _List) and not instance.are_unique():
        yield ValidationError(f"{instance!r} has non-unique elements")


def _unevaluated_items(validator: Any, unevaluated: Any, instance: Any, schema: Any) -> _Errors:
    if isinstance(instance, _List) and len(instance) > _MOST_UNEVALUATED:
        yield ValidationError(
            f"unevaluatedItems is for lists of up to {_MOST_UNEVALUATED} items, this one has {len(instance)}"
        )
    else:
        yield from _BY_THE_LIBRARY["unevaluatedItems"](validator, unevaluated, instance, schema)


# The library gathers every error of every alternative: one for each number, at worst.


def _any_of(validator: Any, alternatives: Any, instance: Any, schema: Any) -> _Errors:  # noqa: ARG001
    if not any(_fits(validator, each, instance) for each in alternatives):
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")


def _one_of(validator: Any, alternatives: Any, instance: Any, schema: Any) -> _Errors:  # noqa: ARG001
    fitting = [each for each in alternatives if _fits(validator, each, instance)]
    if not fitting:
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")
    elif len(fitting) > 1:
        yield ValidationError(f"{instance!r} is valid under each of {', '.join(map(repr, fitting))}")


def _fits(validator: Any, schema: Any, instance: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


_Validator: Final[Any] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "items": _items,
        "uniqueItems": _unique_items,
        "unevaluatedItems": _unevaluated_items,
        "anyOf": _any_of,
        "oneOf": _one_of,
    },
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "array", lambda _checker, instance: isinstance(instance, _List)
    ),
)
