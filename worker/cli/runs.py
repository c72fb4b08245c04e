"""Commands about a model's run: stop it, begin a new one; and the end of models."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.edge import command_hub, model_named

User = Annotated[str | None, typer.Option(help="Who does it, for the audit.")]
OfModel = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or UUID.")]
OfModels = Annotated[list[str], typer.Argument(metavar="MODEL…", help="Models' ids or UUIDs.")]

BY_COMMAND = "command line"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("stop-model")(stop_model)
    app.command("new-run")(new_run)
    app.command("delete-model")(delete_model)


def stop_model(model: OfModel, user: User = None) -> None:
    """Stop a model's run: it claims no rounds and takes no updates until a new run."""
    _change(model, "STOPPED", user)


def new_run(model: OfModel, user: User = None) -> None:
    """Begin a new run of a model whose last one is over."""
    _change(model, "INITIATED", user)


def delete_model(models: OfModels, user: User = None) -> None:
    """Delete models for good: they accept nothing more. Their rows stay for lineage and audit."""
    with command_hub() as hub:
        from fedqueue.messages import ModelRef
        from tasks.domain import deletion

        found = [model_named(hub.metadata, named) for named in models]
        deleted = sum(
            deletion.delete_model(hub, ModelRef(model_id=model.uuid, user_id=user or BY_COMMAND)) for model in found
        )
    typer.echo(f"{deleted} of {len(found)} deleted" + ("" if deleted == len(found) else ": the others had been before"))


def _change(named: str, status: str, user: str | None) -> None:
    with command_hub() as hub:
        from fedqueue.messages.feed import UpdateStatus
        from tasks.domain import runs

        model = model_named(hub.metadata, named)
        change = runs.update_status(hub, UpdateStatus(model_id=model.uuid, status=status, user_id=user or BY_COMMAND))
    run = "" if change.model.run_id is None else f", run {change.model.run_id}"
    stands = f"model {named} is {change.model.status}{run}"
    typer.echo(stands if change.changed else f"{stands}; nothing was changed: {change.reason}")
