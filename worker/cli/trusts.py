"""Commands about institutions: trusts, the names FL servers know them by, the models and clients that are theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import typer

from worker.cli.edge import command_hub, fail, model_named
from worker.cli.output import show_json, show_table

if TYPE_CHECKING:
    from fedqueue.messages.trusts import TrustView
    from tasks.hub import Hub

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
User = Annotated[str | None, typer.Option(help="Who does it, for the audit.")]
OfModel = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id or UUID.")]
OfTrust = Annotated[str | None, typer.Argument(metavar="[TRUST]", help="By code, name or UUID.")]
OfTrusts = Annotated[list[str] | None, typer.Argument(metavar="[TRUST…]", help="By code, name or UUID.")]
Nobody = Annotated[bool, typer.Option("--nobody", help="No trust's any more.")]


def add_to(app: typer.Typer) -> None:
    """Add the group of commands to the command line."""
    group = typer.Typer(help="Institutions: list, add, slot, approve, client.", no_args_is_help=True)
    group.command("list")(list_trusts)
    group.command("add")(add)
    group.command("slot")(slot)
    group.command("approve")(approve)
    group.command("client")(client)
    app.add_typer(group, name="trusts")


def list_trusts(
    model: Annotated[str | None, typer.Option(help="Only those approved for this model, by id or UUID.")] = None,
    as_json: Json = False,
) -> None:
    """List the trusts with their FL kit slots."""
    with command_hub() as hub:
        from tasks.domain import trusts

        model_id = None if model is None else model_named(hub.metadata, model).uuid
        found = trusts.list_trusts(hub, model_id).trusts
    _show(found, as_json)


def add(
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    code: Annotated[str | None, typer.Option(help="Its short name, shown instead.")] = None,
    as_json: Json = False,
) -> None:
    """Add a trust."""
    with command_hub() as hub:
        from fedqueue.messages.trusts import AddTrust
        from tasks.domain import trusts

        added = trusts.add_trust(hub, _checked(AddTrust, trust_id=uuid4(), name=name, code=code))
    _show([added], as_json)


def slot(
    fl_client_name: Annotated[str, typer.Argument(help="The name by which FL servers report the client.")],
    trust: OfTrust = None,
    nobody: Nobody = False,
) -> None:
    """Give an FL kit slot to a trust."""
    with command_hub() as hub:
        from fedqueue.messages.trusts import SetSlot
        from tasks.domain import trusts

        trust_id = _one_or_nobody(hub, trust, nobody)
        given = trusts.set_slot(hub, _checked(SetSlot, fl_client_name=fl_client_name, trust_id=trust_id))
    typer.echo(f"{fl_client_name} is {_whose(given.trust)}")


def approve(model: OfModel, named: OfTrusts = None, nobody: Nobody = False, user: User = None) -> None:
    """Approve these trusts for a model, and no others."""
    with command_hub() as hub:
        from fedqueue.messages.trusts import SetModelTrusts
        from tasks.domain import trusts

        if bool(named) is nobody:
            fail("name the model's trusts, all of them, or give --nobody")
        model_id = model_named(hub.metadata, model).uuid
        trust_ids = [_trust_id(hub, each) for each in named or []]
        message = _checked(SetModelTrusts, model_id=model_id, trust_ids=trust_ids, user_id=user)
        approved = trusts.set_model_trusts(hub, message).trusts
    typer.echo(f"approved for model {model}: {', '.join(each.code or each.name for each in approved) or 'nobody'}")


def client(
    client_id: Annotated[str, typer.Argument(metavar="CLIENT", help="The client's UUID.")],
    trust: OfTrust = None,
    nobody: Nobody = False,
) -> None:
    """Say which trust a client of the hub belongs to."""
    with command_hub() as hub:
        from fedqueue.messages.trusts import SetClientTrust
        from tasks.domain import trusts

        trust_id = _one_or_nobody(hub, trust, nobody)
        given = trusts.set_client_trust(hub, _checked(SetClientTrust, client_id=client_id, trust_id=trust_id))
    typer.echo(f"{client_id} is {_whose(given.trust)}")


def _show(found: list[TrustView], as_json: bool) -> None:
    rows = [trust.model_dump(mode="json") for trust in found]
    if as_json:
        show_json(rows)
        return
    shown = [row | {"fl_client_names": ", ".join(row["fl_client_names"]) or None} for row in rows]
    show_table("trusts", ("code", "name", "fl_client_names", "trust_id"), shown, whole=("code", "trust_id"))


def _whose(trust: TrustView | None) -> str:
    return "nobody's" if trust is None else f"{trust.name}'s"


def _one_or_nobody(hub: Hub, named: str | None, nobody: bool) -> UUID | None:
    if (named is None) is not nobody:
        fail("name one trust, or give --nobody")
    return None if named is None else _trust_id(hub, named)


def _trust_id(hub: Hub, named: str) -> UUID:
    try:
        found = hub.metadata.pull_trust(UUID(named))
    except ValueError:
        found = hub.metadata.pull_trust(named)
    if found is None:
        fail(f"there is no trust {named!r}: `python -m worker trusts list` shows them")
    return found.uuid


def _checked(kind: Any, **fields: Any) -> Any:
    """The message, or the end with the field and the rule."""
    from pydantic import ValidationError

    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
