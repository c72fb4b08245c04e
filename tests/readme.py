"""Markdown's fenced blocks, with what a test must know of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, its line, and why it can't be run here (None: it can)."""

    language: str
    text: str
    line: int
    not_run: str | None = None

    @property
    def commands(self) -> list[str]:
        """What follows the prompts of a console block."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]

    def output_of(self, command: str) -> list[str]:
        """The lines shown under that command."""
        after = self.text.split(f"$ {command}\n", 1)[1]
        return re.split(r"^\$ ", after, maxsplit=1, flags=re.M)[0].splitlines()


def blocks_of(page: Path) -> list[Block]:
    """The page's fenced blocks in their order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(match["language"], match["text"], text.count("\n", 0, match.start()) + 1, match["reason"])
        for match in _FENCE.finditer(text)
    ]
    assert text.count("```") == 2 * len(found), f"{page.name} has a fence that this reader does not understand"
    return found


def table_under(page: Path, heading: str) -> list[list[str]]:
    """The rows, without the header, of the first table after that heading."""
    text = page.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\|$\n?)+", text, re.M)
    assert lines, f"no table under {heading}"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].strip().splitlines()]
    return rows[2:]
