"""How the demonstration shows itself: live on a terminal, in plain lines elsewhere, as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.demo.play import Options, Outcome, Progress

Watch = Callable[[Progress], None]


@contextmanager
def showing(console: Console, options: Options) -> Iterator[Watch]:
    """Show the progress that the yielded function is given, until the block ends."""
    if not console.is_terminal:
        yield _PlainLines(console, options).watch
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield lambda progress: live.update(_picture(progress, options))


class _PlainLines:
    """One line a stage, and one a round that was seen."""

    def __init__(self, console: Console, options: Options) -> None:
        self._console = console
        self._options = options
        self._stage = ""
        self._shown: set[int] = set()

    def watch(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._say(progress.stage)
        for number, reached in sorted(progress.accuracies.items()):
            if number not in self._shown:
                self._shown.add(number)
                kills = f", {progress.kills} kills so far" if self._options.chaos else ""
                self._say(f"round {number} of {self._options.rounds}: accuracy {reached:.4f}{kills}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def _picture(progress: Progress, options: Options) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("round", f"{progress.number} of {options.rounds}", _bar(progress.number, options.rounds))
    grid.add_row(
        "updates in", f"{progress.updates_in} of {options.clients}", _bar(progress.updates_in, options.clients)
    )
    if progress.accuracies:
        newest = progress.accuracies[max(progress.accuracies)]
        grid.add_row("accuracy", f"{newest:.4f}", _bar(newest, 1.0))
    if options.chaos:
        grid.add_row("kills", str(progress.kills), "")
    return Group(Text(progress.stage, style="bold"), grid)


def _bar(done: float, whole: float) -> ProgressBar:
    return ProgressBar(total=whole, completed=min(done, whole), width=40)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """The table of rounds, what was wrong, and the kills: everything but the last line."""
    table = Table(title="rounds", title_justify="left")
    for column in ("round", "accuracy", "central", "updates", "examples"):
        table.add_column(column, justify="right")
    for aggregate, reached, central in zip(
        outcome.verdict.aggregates, outcome.federated[1:], outcome.central[1:], strict=False
    ):
        table.add_row(
            str(aggregate.number),
            f"{reached:.4f}",
            f"{central:.4f}",
            str(aggregate.num_updates),
            f"{aggregate.num_examples:g}",
        )
    console.print(table)
    for shortcoming in outcome.shortcomings:
        console.print(f"wrong: {shortcoming}", highlight=False, markup=False, soft_wrap=True)


def kills_line(outcome: Outcome) -> str:
    """The line before the last, under chaos."""
    return (
        f"chaos: {outcome.kills} kills by SIGKILL ({outcome.kills_described}), "
        f"{outcome.verdict.rounds_cut_short} rounds cut short and done again"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The same facts for programs."""
    return {
        "passed": not outcome.shortcomings,
        "shortcomings": outcome.shortcomings,
        "accuracy": outcome.federated[-1],
        "central": outcome.central[-1],
        "rounds": [
            {
                "round": aggregate.number,
                "accuracy": reached,
                "central": central,
                "updates": aggregate.num_updates,
                "examples": aggregate.num_examples,
            }
            for aggregate, reached, central in zip(
                outcome.verdict.aggregates, outcome.federated[1:], outcome.central[1:], strict=False
            )
        ],
        "submitted": outcome.verdict.submitted,
        "updates": outcome.updates,
        "lost": sorted(map(str, outcome.verdict.lost)),
        "counted_twice": sorted(map(str, outcome.verdict.counted_twice)),
        "set_aside": outcome.verdict.set_aside,
        "kills": outcome.kills,
        "rounds_cut_short": outcome.verdict.rounds_cut_short,
        "seconds": round(outcome.seconds, 3),
        "line": outcome.line,
    }
