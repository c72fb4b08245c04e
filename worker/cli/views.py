"""Commands that show what the hub knows: status, models, updates, aggregates, rounds, dead-letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.edge import fail, readable_errors, settings_or_exit
from worker.cli.output import show_json, show_table

if TYPE_CHECKING:
    from connectors.metadata import BaseMetadataConnector
    from connectors.records import FederatedModel

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Show at most so many.")]
OfModel = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or UUID.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("status")(status)
    app.command("models")(models)
    app.command("updates")(updates)
    app.command("aggregates")(aggregates)
    app.command("rounds")(rounds)
    app.command("dead-letters")(dead_letters)


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
    show_table("live claims", ("model_id", "fence", "worker", "updates_done", "num_updates"), seen["claims"])
    show_table("newest aggregates", ("model_id", "number", "num_updates", "num_examples", "created_at"), seen["newest"])
    show_table("queues", ("queue", "messages"), [{"queue": k, "messages": v} for k, v in seen["queues"].items()])
    show_table("workers", ("worker", "health", "detail"), seen["workers"])
    typer.echo(f"{seen['broker']}; {seen['models']} models; {seen['dead_letters']} dead letters")


def models(limit: Limit = 100, as_json: Json = False) -> None:
    """List the models."""
    columns = ("id", "uuid", "name", "status", "aggregator", "requirement", "head", *_STATES)
    with _metadata() as metadata:
        rows = [
            asdict(model) | {state.value.lower(): count for state, count in metadata.count_model_updates(model).items()}
            for model in metadata.pull_federated_models(limit=limit)
        ]
    _show("models", columns, rows, as_json)


def updates(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's updates."""
    columns = ("id", "client_uuid", "status", "reason", "num_examples", "base_number", "attempts", "created_at")
    with _metadata() as metadata:
        found = metadata.pull_model_updates(_model(metadata, model), limit=limit)
    _show("updates", columns, [asdict(update) for update in found], as_json)


def aggregates(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's aggregates."""
    columns = ("id", "number", "parent_id", "num_updates", "num_examples", "digest", "created_at")
    with _metadata() as metadata:
        found = metadata.pull_model_aggregates(_model(metadata, model), limit=limit)
    rows = [asdict(aggregate) | {"digest": aggregate.data.digest} for aggregate in found]
    _show("aggregates", columns, rows, as_json)


def rounds(model: OfModel, limit: Limit = 100, as_json: Json = False) -> None:
    """List a model's rounds, the newest first, with who ran each and how it ended."""
    columns = ("number", "fence", "state", "num_updates", "updates_done", "worker", "reason", "started_at")
    with _metadata() as metadata:
        found = metadata.pull_rounds(_model(metadata, model), limit=limit)
    _show("rounds", columns, [asdict(each) for each in found], as_json)


def dead_letters(
    model: Annotated[str | None, typer.Option(help="Only of this model, by UUID.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the messages that were refused, with the reason of each."""
    with _metadata() as metadata:
        found = [letter for letter in _all_dead_letters(metadata) if model is None or _is_about(letter.payload, model)]
    columns = ("id", "task", "kind", "field", "reason", "created_at")
    _show("dead letters", columns, [asdict(letter) for letter in found[-limit:]], as_json)


_STATES = ("pending", "running", "complete", "failed", "invalid")


@contextmanager
def _metadata() -> Iterator[BaseMetadataConnector]:
    settings = settings_or_exit()
    from worker.bootstrap import build_metadata

    with readable_errors():
        metadata = build_metadata(settings)
        try:
            metadata.check()
            yield metadata
        finally:
            metadata.close()


def _model(metadata: BaseMetadataConnector, named: str) -> FederatedModel:
    from uuid import UUID

    try:
        wanted: int | UUID = int(named) if named.isdigit() else UUID(named)
    except ValueError:
        fail(f"{named!r} is neither a model's id nor a UUID")
    model = metadata.pull_federated_model_w_id(wanted)
    if model is None:
        fail(f"there is no model {named}: `python -m worker models` lists them")
    return model


def _all_dead_letters(metadata: BaseMetadataConnector) -> Iterator[Any]:
    after = 0
    while page := metadata.pull_dead_letters(after_id=after, limit=500):
        yield from page
        after = page[-1].id


def _is_about(payload: Any, model: str) -> bool:
    return isinstance(payload, dict) and str(payload.get("model_id", "")).lower() == model.lower()


def _show(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json(rows)
    else:
        show_table(title, columns, rows)
