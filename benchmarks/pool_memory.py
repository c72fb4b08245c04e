"""The memory of pool processes, looked at from outside all the while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Self

_EVERY: Final = 0.1
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class PoolMemory:
    """Of the largest process, in MiB: at the peak, and the medians of the first and the last fifth of the time."""

    peak_rss: float
    peak_anonymous: float
    first_anonymous: float
    last_anonymous: float

    @property
    def growth(self) -> float:
        """What came on top from the first fifth to the last, in MiB of anonymous memory."""
        return self.last_anonymous - self.first_anonymous

    def shown(self) -> str:
        """For people."""
        return (
            f"largest pool process: peak {self.peak_rss:.0f} MiB, {self.peak_anonymous:.0f} of it anonymous; "
            f"anonymous at first {self.first_anonymous:.0f}, at last {self.last_anonymous:.0f}"
        )


class PoolWatch(threading.Thread):
    """Samples the processes within its block. `pool` names those that live at the moment."""

    def __init__(self, pool: Callable[[], Sequence[int]]) -> None:
        super().__init__(name="pool-watch", daemon=True)
        self._pool = pool
        self._samples: list[tuple[float, float]] = []
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Look, again and again."""
        while not self._ending.wait(_EVERY):
            found = [memory for pid in self._pool() if (memory := _memory_of(pid)) is not None]
            if found:
                self._samples.append((max(rss for rss, _ in found), max(own for _, own in found)))

    def memory(self) -> PoolMemory:
        """What was seen. Raises: RuntimeError if that was nothing."""
        if not self._samples:
            raise RuntimeError("no pool process was seen")
        anonymous = [own for _, own in self._samples]
        fifth = max(1, len(anonymous) // 5)
        return PoolMemory(
            max(rss for rss, _ in self._samples), max(anonymous), median(anonymous[:fifth]), median(anonymous[-fifth:])
        )


def _memory_of(pid: int) -> tuple[float, float] | None:
    """(resident, its anonymous part) in MiB; None if it has ended."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon")}
        return kib["VmRSS"] * 1024 / _MIB, kib["RssAnon"] * 1024 / _MIB
    return None
