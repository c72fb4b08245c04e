"""Feed, metrics and progress as lines of text that can be read in 80 columns."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from fedqueue.messages import LogView, ParticipantView, PlotView, ProgressView, SeriesView

_WIDEST_NAME: Final = 12
_BARS: Final = "▁▂▃▄▅▆▇█"
_MOST_BARS: Final = 24


def feed_lines(entry: LogView, width: int | None = None) -> list[str]:
    """One entry: its time (UTC), whether it tells of a failure, whom it is about, what it says."""
    when = _moment(entry.created_at)
    head = f"{when}  {' ' if entry.success else '!'} {_cut(entry.sender or '', _WIDEST_NAME):<{_WIDEST_NAME}}  "
    room = max(20, (width or _terminal_width()) - len(head))
    lines = [part for line in _printable(entry.text).split("\n") for part in textwrap.wrap(line, room) or [""]]
    return [(head if number == 0 else " " * len(head)) + line for number, line in enumerate(lines)]


def plot_lines(plot: PlotView, width: int | None = None) -> list[str]:
    """One plot: a line a series, with its first, last, lowest and highest value and its course."""
    runs = list(dict.fromkeys(series.run_id for series in plot.series))
    rows: list[tuple[str, ...]] = [("", "points", "first", "last", "lowest", "highest")]
    rows += [_series_cells(series, None if len(runs) < 2 else runs.index(series.run_id) + 1) for series in plot.series]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = min(_MOST_BARS, (width or _terminal_width()) - sum(widths) - 2 * len(widths))
    lines = [f"{_printable(plot.label)} over {_printable(plot.x_label)}".replace("\n", " ")]
    for row, series in zip(rows, [None, *plot.series], strict=True):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:], widths[1:], strict=True))]
        course = "" if series is None else _course([point.result for point in series.points], room)
        lines.append("  ".join([*cells, course]).rstrip())
    return lines


def progress_lines(progress: ProgressView, name: str = "", *, is_deleted: bool = False) -> list[str]:
    """A run: its status (or that its model is deleted) and rounds, how long it will take, where each one stands."""
    deleted = " · deleted" if is_deleted else ""
    run = "" if progress.run_id is None else f" · run {progress.run_id}"
    total = "" if progress.total_rounds is None else f" of {progress.total_rounds}"
    lines = [
        f"{_cut(_printable(name or str(progress.model_id)), 80)} · {progress.status}{deleted}",
        f"round {progress.current_round}{total}, {progress.completed_rounds} completed{run}",
    ]
    if progress.eta_seconds is not None:
        lines.append(f"about {readable_duration(progress.eta_seconds)} left")
    if progress.last_event_at is not None:
        lines.append(f"last heard of {progress.last_event_at:%Y-%m-%d %H:%M:%S} UTC")
    if progress.next_aggregate:
        waits_for = f": {_printable(progress.waits_for)}" if progress.waits_for else ""
        lines += textwrap.wrap(f"next aggregate {progress.next_aggregate}{waits_for}", 80, subsequent_indent="  ")
    names = [_cut(_printable(each.name), 40) for each in progress.participants]
    widest = max(map(len, names), default=0)
    for shown, each in zip(names, progress.participants, strict=True):
        lines.append(f"  {shown:<{widest}}  {_standing(each)}".rstrip())
    return lines


def readable_duration(seconds: float) -> str:
    """A time as people say it, in its two largest units: 40 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    whole = round(seconds)
    for (size, unit), (smaller, part) in pairwise(_UNITS):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def _standing(participant: ParticipantView) -> str:
    if participant.last_round == 0:
        return f"{participant.state:<8}  no result yet"
    return f"{participant.state:<8}  last result in round {participant.last_round}"


def _series_cells(series: SeriesView, run: int | None) -> tuple[str, ...]:
    values = [point.result for point in series.points]
    name = _cut(_printable(series.sender or "(model)"), _WIDEST_NAME)
    told = name if run is None else f"{name} · run {run}"
    figures = (values[0], values[-1], min(values), max(values)) if values else ()
    return (told, str(len(values)), *(f"{value:.4g}" for value in figures), *[""] * (4 - len(figures)))


def _course(values: Sequence[float], room: int) -> str:
    """The values as bars between their least and greatest; of too many for the room, every so many-th."""
    if room < 2 or len(values) < 2:
        return ""
    if len(values) > room:
        values = [values[number * (len(values) - 1) // (room - 1)] for number in range(room)]
    # Divided first: the difference of two of the largest numbers is none.
    top = max(max(map(abs, values)), 1e-300)
    least, span = min(values) / top, max(values) / top - min(values) / top
    return "".join(_BARS[round((value / top - least) / span * 7) if span else 3] for value in values)


def _moment(created_at: datetime | None) -> str:
    return " " * 14 if created_at is None else f"{created_at:%m-%d %H:%M:%S}"


def _printable(text: str) -> str:
    """Text from outside, unable to steer the terminal it is shown on."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"\\x{ord(letter):02x}" for letter in text)


def _cut(text: str, width: int) -> str:
    text = _printable(text).replace("\n", " ")
    return text if len(text) <= width else text[: width - 1] + "…"


def _terminal_width() -> int:
    return shutil.get_terminal_size((80, 24)).columns
