"""The command about deployments of FMA: import one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.edge import command_hub, fail
from worker.cli.output import show_json

if TYPE_CHECKING:
    from worker.fma_import import Imported

fma = typer.Typer(help="Deployments of FMA (docs/fma.md).", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(fma, name="fma")


@fma.callback()
def _group() -> None:
    """A command of its own name, though there is only one."""


@fma.command("import")
def import_(
    database: Annotated[str, typer.Option(help="URL of the deployment's database; it is only read.")],
    media: Annotated[
        str, typer.Option(help="The deployment's media folder (MEDIA_ROOT), or s3://bucket/location; it is only read.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with FMA's ids and the hub's.")] = False,
) -> None:
    """Copy an FMA deployment into this hub, and compare: exit 1 if anything differs.

    Every model with its clients, artifacts, aggregates, updates and scores. Again is harmless: what is here already is
    compared.
    """
    from config.urls import normalised_database_url
    from connectors.django.media import as_media
    from worker.fma_import import import_deployment

    try:
        url = normalised_database_url(database)
    except ValueError as error:
        fail(f"--database {error}")
    try:
        files = as_media(media)
    except ValueError as error:
        fail(f"--media {error}")
    with command_hub(outside=(files,)) as hub:
        done = import_deployment(hub, url, files, lambda each: None if as_json else _say(each))
    if as_json:
        show_json([_as_json(each) for each in done])
    differences = sum(len(each.differences) for each in done)
    if not as_json:
        sys.stdout.write(f"{len(done)} models, {differences} differences\n")
    raise typer.Exit(1 if differences else 0)


def _say(each: Imported) -> None:
    new = "" if each.is_new else ", here already"
    sys.stdout.write(
        f"model {each.source.id} ({each.source.name}) is {each.model.uuid}{new}: {len(each.aggregates)} aggregates, "
        f"{len(each.updates)} updates, {len(each.artifacts)} artifacts, {each.scores} scores\n"
    )
    for difference in each.differences:
        sys.stdout.write(f"  DIFFERS: {difference}\n")


def _as_json(each: Imported) -> dict[str, Any]:
    return {
        "fma_id": each.source.id,
        "id": each.model.id,
        "model_id": str(each.model.uuid),
        "is_new": each.is_new,
        "aggregates": each.aggregates,
        "updates": each.updates,
        "artifacts": each.artifacts,
        "scores": each.scores,
        "differences": each.differences,
    }
