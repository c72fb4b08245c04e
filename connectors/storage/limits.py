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
    # Of JSON text. Reading it takes up to five times as much memory while it lasts ("0," becomes eight bytes).
    max_json_bytes: int = 256 * _MIB
    # An archive that unpacks to more than ratio_free_bytes may not unpack to more than so many times its own size: a
    # trained model's weights pack 2 : 1 at best, 256 MiB of zeros 1,028 : 1.
    max_unpacked_ratio: int = 100
    ratio_free_bytes: int = 16 * _MIB

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
