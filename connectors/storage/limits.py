"""How large model data may be before it is refused instead of read."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Checked before anything is allocated; what is over one of them is ModelDataError TOO_LARGE."""

    max_bytes: int = 16 * 1024 * _MIB  # of a whole stored model, in any format
    max_tensors: int = 100_000
    max_header_bytes: int = 100 * _MIB  # of a safetensors header: the format's own limit
    # Of JSON text. Reading it takes up to 16 times as much memory while it lasts ("0," becomes a float object).
    max_json_bytes: int = 256 * _MIB
    max_open_maps: int = 256  # files mapped at once; a round of more updates maps them in turn

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
