"""Commands that show what the hub knows: status, models, updates, aggregates, rounds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from worker.cli.edge import hub_metadata, model_named, readable_errors, settings_or_exit
from worker.cli.output import show_json, show_table

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most so many.")]
Deleted = Annotated[bool, typer.Option("--deleted", help="Also those that were deleted.")]
OfModel = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or UUID.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("status")(status)
    app.command("models")(models)
    app.command("updates")(updates)
    app.command("aggregates")(aggregates)
    app.command("rounds")(rounds)


def status(as_json: Json = False) -> None:
    """Show the hub at a glance: updates by state, live claims, newest aggregates, queues, workers."""
    settings = settings_or_exit()
    from worker.overview import look_at

    with readable_errors():
        seen = look_at(settings)
    if as_json:
        show_json(seen)
        return
    show_table("updates", ("state", "updates"), [{"state": k, "updates": v} for k, v in seen["updates"].items()])
    claims = ("model_id", "fence", "worker", "updates_done", "num_updates")
    show_table("live claims", claims, seen["claims"], whole=_WHOLE, spare=("fence", "updates_done"))
    newest = ("model_id", "number", "num_updates", "num_examples", "created_at")
    show_table("newest aggregates", newest, seen["newest"], whole=_WHOLE, spare=("created_at",))
    show_table("queues", ("queue", "messages"), [{"queue": k, "messages": v} for k, v in seen["queues"].items()])
    show_table("workers", ("worker", "health", "detail"), seen["workers"])
    typer.echo(f"{seen['broker']}; {seen['models']} models; {seen['dead_letters']} dead letters")


def models(limit: Limit = 100, deleted: Deleted = False, as_json: Json = False) -> None:
    """List the models."""
    columns = ("id", "uuid", "name", "status", "aggregator", "requirement", "head", "updates")
    shown = (*columns, "deleted") if deleted else columns
    with hub_metadata() as metadata:
        found = metadata.pull_federated_models(limit=limit, deleted=deleted)
        counts = metadata.count_model_updates_by_model(found)
    if as_json:
        show_json([asdict(model) | {s.value.lower(): n for s, n in counts[model.id].items()} for model in found])
        return
    rows = [
        asdict(model)
        | {"updates": ", ".join(f"{n} {s.value.lower()}" for s, n in counts[model.id].items() if n) or None}
        for model in found
    ]
    _show("models", shown, rows, spare=("requirement", "aggregator", "uuid"))


def updates(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's updates."""
    columns = ("id", "client_uuid", "status", "reason", "num_examples", "base_number", "attempts", "created_at")
    with hub_metadata() as metadata:
        found = metadata.pull_model_updates(model_named(metadata, model), limit=limit)
    spare = ("attempts", "base_number", "created_at", "client_uuid")
    _show("updates", columns, [asdict(update) for update in found], as_json, spare=spare)


def aggregates(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's aggregates."""
    columns = ("id", "number", "parent_id", "num_updates", "num_examples", "digest", "created_at")
    with hub_metadata() as metadata:
        found = metadata.pull_model_aggregates(model_named(metadata, model), limit=limit)
    rows = [asdict(aggregate) | {"digest": aggregate.data.digest} for aggregate in found]
    _show("aggregates", columns, rows, as_json, spare=("created_at", "parent_id"))


def rounds(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's rounds, the newest first, with who ran each and how it ended."""
    columns = ("number", "fence", "state", "num_updates", "updates_done", "worker", "reason", "started_at")
    with hub_metadata() as metadata:
        found = metadata.pull_rounds(model_named(metadata, model), limit=limit)
    _show("rounds", columns, [asdict(each) for each in found], as_json, spare=("fence", "updates_done", "started_at"))


# Read with the eye along a column, or copied: never broken, as long as the terminal lets them stand.
_WHOLE = (
    "id", "uuid", "model_id", "client_uuid", "parent_id", "status", "state", "created_at", "started_at",
    "number", "fence", "head", "num_updates", "updates_done", "num_examples", "base_number", "attempts",
)  # fmt: skip


def _show(
    title: str,
    columns: tuple[str, ...],
    rows: list[dict[str, Any]],
    as_json: bool = False,
    spare: tuple[str, ...] = (),
) -> None:
    if as_json:
        show_json(rows)
    else:
        show_table(title, columns, rows, whole=_WHOLE, spare=spare)
