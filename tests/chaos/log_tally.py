"""How often the workers have said something, counted as they say it: their logs grow long, and are cut short."""

from __future__ import annotations

from collections import Counter
from io import TextIOWrapper
from pathlib import Path
from typing import Final

# What is counted: the events of structlog's lines, as JSON has them.
OVERTAKEN: Final = "round.overtaken"


class LogTally:
    """Counts events in the logs of a folder. A log that is set aside for a new one is read to its end first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._counts: Counter[str] = Counter()
        self._open: dict[Path, TextIOWrapper] = {}
        self._rest: dict[Path, str] = {}

    def count(self, event: str) -> int:
        """How often it was logged by now."""
        for path in sorted(self._logs.glob("*.log")):
            self._read(path)
        return self._counts[event]

    def close(self) -> None:
        """Let go of the files; what is counted stays."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _read(self, path: Path) -> None:
        file = self._open.get(path) or path.open(errors="replace")
        self._open[path] = file
        self._take(path, file.read())
        if path.exists() and not path.samefile(f"/proc/self/fd/{file.fileno()}"):
            self._take(path, file.read())
            file.close()
            self._rest[path] = ""
            self._open[path] = path.open(errors="replace")
            self._take(path, self._open[path].read())

    def _take(self, path: Path, said: str) -> None:
        *lines, self._rest[path] = (self._rest.get(path, "") + said).split("\n")
        for line in lines:
            _, found, after = line.partition('"event":')
            if found:
                self._counts[after.lstrip().removeprefix('"').partition('"')[0]] += 1
