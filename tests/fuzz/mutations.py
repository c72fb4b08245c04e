"""What a fuzzer does to valid inputs: to their bytes, to the numbers within them, and to JSON as a tree."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

_WHOLE: Final = (0, 1, 2, 7, 8, 9, 15, 16, 63, 64, 127, 128, 255, 256, 4096, 65535, 65536, 2**20, 2**31 - 1, 2**31)
_NUMBERS: Final = (
    *_WHOLE,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    10**30,
    10**400,
    -1,
    -8,
    -(2**31),
    -(2**63),
)
_TOKEN: Final = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BITS: Final = (b"[", b"]", b"{", b"}", b",", b":", b'"', b" ", b"\0", b"\xff", b"(", b")", b"'", b"e9", b"-", b"NaN")
_WORDS: Final = (
    *("", "x", "\0", "\ud800", "é", "a" * 300, "..", "/", "file:///etc/passwd", "1e400", "nan", "null", "true"),
    *("2026-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000000", "0" * 64, "F32", "BOOL", "__metadata__"),
    *("$ref", "#", "#/", "array", "(a+)+$", "events", "json", "RUNNING", "ERROR", "INITIATED"),
)
# What kombu's JSON makes of it is no JSON any more.
_TYPED: Final = (
    ("datetime", "2026-01-01T00:00:00"),
    ("date", "2026-01-01"),
    ("time", "00:00:00"),
    ("decimal", "1.5"),
    ("decimal", "NaN"),
    ("uuid", {"hex": "0" * 32}),
    ("bytes", "x"),
    ("base64", "AAEC"),
    ("unheard-of", 1),
)


class Mutator:
    """Draws inputs from a corpus: now and then one as it is, mostly one changed in several ways."""

    def __init__(self, corpus: Sequence[bytes], seed: int, longest: int = 1 << 16) -> None:
        self._corpus = list(corpus)
        self._random = Random(seed)
        self._longest = longest
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            *(self._flip,) * 3,
            *(self._set,) * 2,
            *(self._number,) * 4,
            *(self._length,) * 3,
            self._cut,
            self._drop,
            self._repeat,
            self._insert,
            self._splice,
        )

    def draw(self) -> bytes:
        """One input."""
        random = self._random
        data = bytearray(random.choice(self._corpus))
        if random.random() < 0.02:
            return bytes(data)
        for _ in range(1 if random.random() < 0.5 else random.randint(2, 6)):
            random.choice(self._ways)(data)
        del data[self._longest :]
        return bytes(data)

    def _at(self, data: bytearray) -> int:
        # The beginning, where lengths and headers are, twice as often.
        size = len(data)
        return self._random.randrange(min(size, 96) if self._random.random() < 0.5 else size) if size else 0

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] ^= 1 << self._random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._at(data)] = self._random.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, self._random.randrange(256)))

    def _number(self, data: bytearray) -> None:
        """Another number in the place of one that is written in digits."""
        found = list(_TOKEN.finditer(data[:4096]))
        if found:
            start, end = self._random.choice(found).span()
            data[start:end] = str(self._random.choice(_NUMBERS)).encode()

    def _length(self, data: bytearray) -> None:
        """Another little-endian number of two, four or eight bytes: also one near to what stands there."""
        width = self._random.choice((2, 4, 8))
        if len(data) < width:
            return
        at = 0 if self._random.random() < 0.3 else self._random.randrange(len(data) - width + 1)
        there = int.from_bytes(data[at : at + width], "little")
        if self._random.random() < 0.5:
            number = there + self._random.choice((-9, -8, -1, 1, 8, 9, 64, 1 << 16))
        else:
            number = self._random.choice(_NUMBERS)
        data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")

    def _cut(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _drop(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._random.randint(1, 16)]

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        piece = data[at : at + self._random.randint(1, 64)]
        data[at:at] = piece * self._random.choice((1, 1, 2, 64))

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._random.choice(_BITS) * self._random.choice((1, 1, 1, 2, 70, 300))

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._corpus)
        at = self._random.randrange(len(other)) if other else 0
        data[self._at(data) :] = other[at:]


class JsonMutator:
    """The same for JSON: trees of the corpus with nodes changed, dropped, added, nested; some then damaged as bytes."""

    def __init__(self, corpus: Sequence[Any], seed: int, longest: int = 1 << 16) -> None:
        self._texts = [json.dumps(tree) for tree in corpus]
        self._random = Random(seed)
        self._bytes = Mutator([text.encode() for text in self._texts], seed, longest)
        self._longest = longest

    def draw(self) -> bytes:
        """One input."""
        if self._random.random() < 0.1:
            return self._bytes.draw()
        tree = json.loads(self._random.choice(self._texts))
        if self._random.random() > 0.02:
            for _ in range(self._random.choice((1, 1, 1, 2, 3, 5))):
                tree = self._changed(tree)
        return json.dumps(tree).encode()[: self._longest]

    def value(self, is_inner: bool = False) -> Any:
        """A value that nobody expects."""
        random = self._random
        kind = random.randrange(9)
        if kind == 0:
            return random.choice(_NUMBERS)
        if kind == 1:
            return random.choice((0.5, -0.0, 1e308, float("nan"), float("inf"), 1.5e-320))
        if kind == 2:
            return random.choice(_WORDS)
        if kind == 3:
            name, inner = random.choice(_TYPED)
            return {"__type__": name, "__value__": dict(inner) if isinstance(inner, dict) else inner}
        if kind == 4:
            return self._nested(3 if is_inner else random.choice((3, 60, 120, 700)))
        if kind == 5:
            if is_inner:
                return []
            items = [self.value(True) for _ in range(random.choice((0, 1, 2, 3)))]
            # Not of what can be changed: a change to one would be one to all, and the next multiplies it again.
            return (
                items if any(isinstance(item, dict | list) for item in items) else items * random.choice((1, 30, 1200))
            )
        if kind == 6:
            return {random.choice(_WORDS): random.choice(_NUMBERS) for _ in range(random.choice((0, 1, 3)))}
        return random.choice((None, True, False))

    def _nested(self, levels: int) -> Any:
        found: Any = 1
        for _ in range(levels):
            found = [found] if self._random.random() < 0.5 else {"a": found}
        return found

    def _changed(self, tree: Any) -> Any:
        random = self._random
        if isinstance(tree, dict) and tree and random.random() < 0.85:
            key = random.choice(list(tree))
            way = random.random()
            if way < 0.55:
                tree[key] = self._changed(tree[key])
            elif way < 0.7:
                del tree[key]
            elif way < 0.8:
                tree[random.choice((*_WORDS, *tree))] = self.value()
            else:
                tree[key] = self.value()
            return tree
        if isinstance(tree, list) and tree and random.random() < 0.85:
            at = random.randrange(len(tree))
            way = random.random()
            if way < 0.6:
                tree[at] = self._changed(tree[at])
            elif way < 0.7:
                del tree[at]
            elif way < 0.85:
                tree.insert(at, self.value())
            else:
                tree += tree[:8]
            return tree
        return self.value()
