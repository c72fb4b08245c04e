"""Commands about what went into an aggregate (verify, lineage) and what was set aside (requeue, discard)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.edge import command_hub, fail
from worker.cli.output import show_json, show_table

if TYPE_CHECKING:
    from connectors.records import ModelAggregate, ModelUpdate
    from tasks.hub import Hub

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
OfAggregate = Annotated[int, typer.Argument(metavar="AGGREGATE_ID", help="The aggregate's id.")]
OfUpdates = Annotated[list[int], typer.Argument(metavar="UPDATE_ID…", help="Updates' ids.")]

EXIT_DIFFERENT = 1


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("verify")(verify)
    app.command("lineage")(lineage)
    app.command("requeue")(requeue)
    app.command("discard")(discard)


def verify(aggregate_id: OfAggregate, as_json: Json = False) -> None:
    """Make an aggregate again from its inputs and compare bytes; exit code 0 only if they are identical."""
    with command_hub() as hub:
        from tasks.domain import provenance

        found = provenance.verify(hub, _aggregate(hub, aggregate_id))
    is_identical = found.verdict is provenance.Verdict.IDENTICAL
    if as_json:
        show_json(
            {
                "aggregate": found.aggregate.id,
                "digest": found.aggregate.data.digest,
                "inputs": found.aggregate.num_updates,
                "verdict": found.verdict,
                "reason": found.reason,
            }
        )
    else:
        what = (
            f"aggregate {found.aggregate.id} (number {found.aggregate.number}, {found.aggregate.num_updates} updates)"
        )
        typer.echo(f"{what}: {found.verdict}" + (f": {found.reason}" if found.reason else ""))
    if not is_identical:
        raise SystemExit(EXIT_DIFFERENT)


def lineage(aggregate_id: OfAggregate, as_json: Json = False) -> None:
    """Print the chain from an aggregate back to the model's first, with who contributed how much."""
    with command_hub() as hub:
        from tasks.domain import provenance

        links = provenance.lineage(hub, _aggregate(hub, aggregate_id))
        names = {
            str(client.uuid): client.name
            for model in [hub.metadata.pull_federated_model_w_id(links[0].aggregate.model_id)]
            if model is not None
            for client in hub.metadata.pull_model_clients(model)
        }
    rows = [
        {
            "number": link.aggregate.number,
            "aggregate": link.aggregate.id,
            "digest": link.aggregate.data.digest,
            "client": names.get(client) or client,
            "num_examples": num_examples,
            "weight": weight,
        }
        for link in links
        for client, num_examples, weight in link.contributors
    ]
    if as_json:
        show_json(rows)
    else:
        show_table("lineage", ("number", "aggregate", "digest", "client", "num_examples", "weight"), rows)


def requeue(update_ids: OfUpdates) -> None:
    """Give updates that were set aside (INVALID) another chance: they are PENDING again, as if just sent."""
    with command_hub() as hub:
        found = _updates(hub, update_ids)
        hub.metadata.transact(lambda _: hub.metadata.requeue_model_updates(found))
    typer.echo(f"{len(found)} updates are PENDING again; the next sweep looks at their rounds")


def discard(update_ids: OfUpdates) -> None:
    """Let the data of updates that were set aside go for good: the row with its reason stays, its bytes do not."""
    with command_hub() as hub:
        from connectors.records import UpdateStatus

        found = _updates(hub, update_ids)
        for update in found:
            if update.status is not UpdateStatus.INVALID:
                fail(f"only what was set aside (INVALID) can be discarded: update {update.id} is {update.status}")
        hub.metadata.transact(lambda _: hub.metadata.register_model_updates_data_dropped(found))
    typer.echo(f"the data of {len(found)} updates is let go; garbage collection takes it")


def _aggregate(hub: Hub, aggregate_id: int) -> ModelAggregate:
    found = hub.metadata.pull_model_aggregate(aggregate_id)
    if found is None:
        fail(f"there is no aggregate {aggregate_id}: `python -m worker aggregates MODEL` lists a model's")
    return found


def _updates(hub: Hub, update_ids: list[int]) -> list[ModelUpdate]:
    found = []
    for update_id in sorted(set(update_ids)):
        page = hub.metadata.pull_model_updates(after_id=update_id - 1, limit=1)
        if not page or page[0].id != update_id:
            fail(f"no update has the id {update_id}: `python -m worker updates MODEL` lists a model's")
        found += page
    return found
