"""Commands about messages that were refused: dead-letters, its requeue and its discard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.edge import fail, hub_metadata, sending_hub
from worker.cli.output import show_json, show_table
from worker.cli.runs import BY_COMMAND, User
from worker.cli.views import Json, Limit

if TYPE_CHECKING:
    from connectors.metadata import BaseMetadataConnector
    from connectors.records import DeadLetter

Which = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Of `dead-letters`.")]
Every = Annotated[bool, typer.Option("--all", help="Every one that is open.")]
OfTask = Annotated[str | None, typer.Option("--task", help="With --all: only those of this task.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    letters = typer.Typer(invoke_without_command=True, no_args_is_help=False)
    letters.callback()(dead_letters)
    letters.command("requeue")(requeue)
    letters.command("discard")(discard)
    app.add_typer(letters, name="dead-letters")


def dead_letters(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only of this model, by UUID.")] = None,
    limit: Limit = 100,
    settled: Annotated[bool, typer.Option("--settled", help="Also those that were requeued or discarded.")] = False,
    as_json: Json = False,
) -> None:
    """List the messages that were refused, with the reason of each; requeue or discard them."""
    if context.invoked_subcommand is not None:
        return
    with hub_metadata() as metadata:
        found = [
            letter
            for letter in _letters(metadata, is_open=not settled)
            if model is None or _is_about(letter.payload, model)
        ]
    rows = [asdict(letter) for letter in found[-limit:]]
    if as_json:
        show_json(rows)
        return
    columns: tuple[str, ...] = ("id", "task", "kind", "field", "reason", "created_at")
    if settled:
        columns = (*columns, "outcome", "settled_by", "settled_reason")
    show_table("dead letters", columns, rows, whole=("id", "created_at", "outcome"), spare=("created_at", "field"))


def requeue(letter_ids: Which = None, every: Every = False, task: OfTask = None, user: User = None) -> None:
    """Send refused messages again, each as the task that it was. What is refused once more is a new dead letter."""
    with sending_hub() as hub:
        from tasks.domain.letters import requeue_letter

        chosen = _chosen(hub.metadata, letter_ids, every, task)
        _settle(chosen, "sent again", lambda letter: requeue_letter(hub, letter, user or BY_COMMAND))


def discard(
    reason: Annotated[str, typer.Option(help="Why nothing more is to be done about them; kept with each.")],
    letter_ids: Which = None,
    every: Every = False,
    task: OfTask = None,
    user: User = None,
) -> None:
    """Settle refused messages without sending them again. They stay, with the reason."""
    with sending_hub() as hub:
        from tasks.domain.letters import discard_letter

        chosen = _chosen(hub.metadata, letter_ids, every, task)
        _settle(chosen, "discarded", lambda letter: discard_letter(hub, letter, user or BY_COMMAND, reason))


def _chosen(
    metadata: BaseMetadataConnector, letter_ids: list[int] | None, every: bool, task: str | None
) -> list[DeadLetter]:
    if bool(letter_ids) == every:
        fail("name letters by their ids, or say --all")
    if task is not None and not every:
        fail("--task goes with --all")
    if every:
        # All of them before the first is sent: one that is refused again must not be met again.
        return [letter for letter in _letters(metadata, is_open=True) if task in (None, letter.task)]
    found = []
    for letter_id in sorted(set(letter_ids or [])):
        letter = metadata.pull_dead_letter(letter_id)
        if letter is None:
            fail(f"there is no dead letter {letter_id}: `python -m worker dead-letters` lists them")
        found.append(letter)
    return found


def _settle(letters: list[DeadLetter], what: str, settle: Callable[[DeadLetter], bool]) -> None:
    """Carry it out for each, and say so; exit code 1 if one was settled before or can't be."""
    from tasks.domain.errors import Refused

    is_well = True
    for letter in letters:
        try:
            said = what if settle(letter) else "was settled before"
        except Refused as refused:
            said = refused.reason
        is_well = is_well and said == what
        typer.echo(f"{letter.id}: {said}")
    if not letters:
        typer.echo("dead letters: none")
    raise typer.Exit(0 if is_well else 1)


def _letters(metadata: BaseMetadataConnector, *, is_open: bool) -> Iterator[DeadLetter]:
    after = 0
    while page := metadata.pull_dead_letters(after_id=after, limit=500, is_open=is_open):
        yield from page
        after = page[-1].id


def _is_about(payload: Any, model: str) -> bool:
    return isinstance(payload, dict) and str(payload.get("model_id", "")).lower() == model.lower()
