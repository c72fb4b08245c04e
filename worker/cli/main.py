"""The commands, put together."""

from __future__ import annotations

import typer

from worker.cli import backups, checks, combine, demo, fma, letters, processes, provenance, reading, runs, trusts, views

app = typer.Typer(
    name="python -m worker",
    help="fedqueue: the durable aggregation hub for federated learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

processes.add_to(app)
checks.add_to(app)
views.add_to(app)
letters.add_to(app)
backups.add_to(app)
reading.add_to(app)
combine.add_to(app)
provenance.add_to(app)
runs.add_to(app)
trusts.add_to(app)
fma.add_to(app)
demo.add_to(app)


def main() -> None:
    """Run the command that the arguments name."""
    app()
