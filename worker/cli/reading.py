"""Commands that show what a run has told: logs, metrics, progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.edge import fail, hub_metadata, model_named
from worker.cli.output import show_json
from worker.cli.views import Json, Limit, OfModel

if TYPE_CHECKING:
    from uuid import UUID

    from connectors.metadata import BaseMetadataConnector
    from connectors.records import FederatedModel, LogEntry, WhichRun

OfRun = Annotated[str | None, typer.Option("--run", metavar="RUN_ID", help="Of this run alone.")]

_LOOK_AGAIN = 1.0  # seconds


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("logs")(logs)
    app.command("metrics")(metrics)
    app.command("progress")(progress)


def logs(
    model: OfModel,
    run: OfRun = None,
    limit: Limit = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as entries come, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; followed: one object a line.")] = False,
) -> None:
    """Show a model's feed, its newest entries last."""
    run_id = _run_id(run)
    from tasks.domain.feed_views import SenderNames, view_log
    from worker.cli.reading_text import feed_lines

    with hub_metadata() as metadata:
        found = model_named(metadata, model)
        newest = metadata.pull_logs(found, limit=limit, run_id=_which(run_id), newest_first=True)
        names = SenderNames.of(metadata, found)
        shown = [view_log(entry, names) for entry in reversed(newest)]
        if as_json and not follow:
            show_json([view.model_dump(mode="json") for view in shown])
            return
        if not shown and not follow:
            typer.echo("logs: none")
        for view in shown:
            typer.echo(view.model_dump_json() if as_json else "\n".join(feed_lines(view)))
        if not follow:
            return
        try:
            for entry in _coming(metadata, found, run_id, newest[0].id if newest else 0):
                # Asked for again: whom an entry is about may have been registered since.
                view = view_log(entry, SenderNames.of(metadata, found))
                typer.echo(view.model_dump_json() if as_json else "\n".join(feed_lines(view)))
        except KeyboardInterrupt:
            return


def metrics(model: OfModel, run: OfRun = None, as_json: Json = False) -> None:
    """Show a model's metrics: each plot with its series."""
    run_id = _run_id(run)
    from tasks.domain.feed_views import view_metrics
    from worker.cli.reading_text import plot_lines

    with hub_metadata() as metadata:
        view = view_metrics(metadata, model_named(metadata, model), run_id)
    if as_json:
        show_json(view.model_dump(mode="json"))
        return
    typer.echo("\n\n".join("\n".join(plot_lines(plot)) for plot in view.plots) or "metrics: none")


def progress(model: OfModel, as_json: Json = False) -> None:
    """Show how far a model's run has come, who takes part, how long it will take, what the next aggregate waits for."""
    from tasks.domain.feed_views import view_progress
    from worker.cli.reading_text import progress_lines

    with hub_metadata(with_plugins=True) as metadata:
        found = model_named(metadata, model)
        view = view_progress(metadata, found)
    if as_json:
        show_json(view.model_dump(mode="json") | {"deleted": found.deleted})
    else:
        typer.echo("\n".join(progress_lines(view, found.name, is_deleted=found.deleted)))


def _coming(
    metadata: BaseMetadataConnector, model: FederatedModel, run_id: UUID | None, after_id: int
) -> Iterator[LogEntry]:
    """Entries as they come. A feed grows in the order of its ids: none is missed by asking for those after the last."""
    while True:
        for entry in metadata.pull_logs(model, after_id=after_id, limit=500, run_id=_which(run_id)):
            after_id = entry.id
            yield entry
        time.sleep(_LOOK_AGAIN)


def _run_id(named: str | None) -> UUID | None:
    from uuid import UUID

    if named is None:
        return None
    try:
        return UUID(named)
    except ValueError:
        fail(f"{named!r} is no run's id: `logs MODEL --json` shows them")


def _which(run_id: UUID | None) -> WhichRun:
    from connectors.records import ALL

    return ALL if run_id is None else run_id
