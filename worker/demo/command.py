"""`python -m worker demo`."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.edge import fail, readable_errors
from worker.cli.output import show_json


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("demo")(demo)


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of federated averaging.")] = 20,
    clients: Annotated[int, typer.Option(min=2, max=50, help="Participants, each a process of its own.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the first model, the training and the chaos.")] = 0,
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill workers with SIGKILL all the while.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output; all else on standard error.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the plot is written.")] = Path("accuracy.png"),
    home: Annotated[Path | None, typer.Option(help="Folder to run in and keep; by default a temporary one.")] = None,
) -> None:
    """Train a model on handwritten digits by federated learning, through a hub of its own, and judge the outcome.

    Ends with code 0 only if accuracy is within 0.03 of the centrally trained model's and every accepted update was
    counted exactly once.
    """
    from rich.console import Console

    from worker.demo.display import as_json as facts
    from worker.demo.display import kills_line, show_outcome, showing
    from worker.demo.play import MARGIN, Options, play
    from worker.demo.plot import draw_accuracy

    console = Console(stderr=as_json)
    with readable_errors(), _ended_cleanly(), _folder(home) as folder:
        options = Options(folder, rounds, clients, seed, chaos)
        with showing(console, options) as watch:
            outcome = play(options, watch)
        kind = "under SIGKILLs" if chaos else "undisturbed"
        title = f"Federated averaging of handwritten digits, {rounds} rounds, {kind}"
        draw_accuracy(out, outcome.federated, outcome.central, margin=MARGIN, participants=clients, title=title)
        show_outcome(console, outcome)
        console.print(f"plot: {out}; took {outcome.seconds:.1f} s", highlight=False, soft_wrap=True)
        last = sys.stderr if as_json else sys.stdout
        if chaos:
            print(kills_line(outcome), file=last)
        print(outcome.line, file=last, flush=True)
        if as_json:
            show_json(facts(outcome))
    raise SystemExit(1 if outcome.shortcomings else 0)


@contextmanager
def _folder(home: Path | None) -> Iterator[Path]:
    if home is None:
        with tempfile.TemporaryDirectory(prefix="fedqueue-demo-") as folder:
            yield Path(folder)
        return
    if (home / "fedqueue.db").exists():
        fail(f"{home} holds a hub already: the demonstration needs a folder of its own")
    yield home.absolute()


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the hub and the participants in order, and then this process."""

    def end(signum: int, _frame: object) -> None:
        # Only once: a second Ctrl-C must not cut the ending short.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    yield
