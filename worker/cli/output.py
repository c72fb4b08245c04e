"""How answers are shown: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

_READABLE = 12  # columns of text that a cell is broken into at the least


def show_json(value: Any) -> None:
    """`value` as JSON on standard output, one document."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """The rows' named columns as a table, as wide as the terminal; a line that says so if there are no rows.

    What a cell has no room for goes on in its next line, but in the `whole` columns. So that there is room, the `spare`
    columns are left out, the first one first, and named under the table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not rows:
        console.print(f"{title}: none", highlight=False)
        return
    cells = {column: [_short(row.get(column)) for row in rows] for column in columns}
    least = {column: _least_width(column, cells[column], column in whole) for column in columns}
    left_out: list[str] = []
    while len(left_out) < len(spare) and _width(least, left_out) > console.width:
        left_out.append(spare[len(left_out)])
    # On less than that, everything is broken: a number cut short would be another number.
    may_be_whole = _width(least, left_out) <= console.width
    table = Table(title=title, title_justify="left")
    shown = [column for column in columns if column not in left_out]
    for column in shown:
        table.add_column(_heading(column), overflow="fold", no_wrap=may_be_whole and column in whole)
    for row in zip(*(cells[column] for column in shown), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    if left_out:
        named = ", ".join(_heading(column) for column in left_out)
        console.print(f"left out for want of width: {named}; --json has everything", highlight=False)


def _heading(column: str) -> str:
    return column.replace("_", " ")


def _least_width(column: str, cells: Sequence[str], is_whole: bool) -> int:
    """What the column needs to be read at all."""
    from rich.cells import cell_len

    widest = max(map(cell_len, [_heading(column), *cells]))
    return widest if is_whole else min(widest, _READABLE)


def _width(least: Mapping[str, int], left_out: Sequence[str]) -> int:
    """Of a table of these columns: each has a space on either side, and a line; one more line begins."""
    return 1 + sum(width + 3 for column, width in least.items() if column not in left_out)


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (UUID, Path)):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
