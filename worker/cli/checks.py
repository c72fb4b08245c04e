"""Commands about the hub's footing: migrate, config, ready, health."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from worker.cli.edge import readable_errors, settings_or_exit
from worker.cli.output import show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("migrate")(migrate)
    app.command("config")(config)
    app.command("ready")(ready)
    app.command("health")(health)


def migrate(
    contract: Annotated[
        bool, typer.Option("--contract", help="Also steps that shut out older workers: when none runs any more.")
    ] = False,
) -> None:
    """Bring the database's schema to this version. Harmless while workers run, when done already, and twice at once."""
    settings = settings_or_exit()
    from worker.schema import migrate as run

    with readable_errors():
        done = run(settings, contract=contract)
    change = "nothing to do" if done.found == done.reached else f"migrated from {done.found or 'nothing'}"
    sys.stdout.write(f"schema {done.reached}: {change}\n")
    for revision, oldest in done.waiting:
        sys.stdout.write(
            f"{revision} waits: it shuts out workers older than {oldest}; "
            "when none of them runs any more, run `python -m worker migrate --contract`\n"
        )


def config(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show every setting's effective value, passwords masked, and what it is for."""
    settings = settings_or_exit()
    shown = settings.shown()
    if as_json:
        show_json(shown)
        return
    from config.settings import PREFIX, Settings

    rows = [
        {
            "variable": PREFIX + name.upper(),
            "value": shown[name],
            "set": "yes" if name in settings.model_fields_set else "",
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    show_table("configuration", ("variable", "value", "set", "meaning"), rows)


def ready(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Exit 0 if database, schema, broker and store can be used from here, else 1; each part is named, with why not."""
    settings = settings_or_exit()
    from worker.readiness import readiness

    with readable_errors():
        parts = readiness(settings)
    if as_json:
        show_json([{"part": part.name, "ready": part.is_ready, "detail": part.detail} for part in parts])
    else:
        for part in parts:
            sys.stdout.write(f"{part.name}: {'ready' if part.is_ready else 'NOT READY'}: {part.detail}\n")
    raise typer.Exit(0 if all(part.is_ready for part in parts) else 1)


def health(
    names: Annotated[list[str] | None, typer.Argument(metavar="WORKER", help="Celery's name for it.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long an answer may take.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Exit 0 if each worker's pool carries out a task in time, else 1. By default: the worker on this machine."""
    settings = settings_or_exit()
    from config.places import endpoint_in
    from worker.bootstrap import HubCelery
    from worker.health import check_workers, default_worker_name, embedded_worker_names

    if not names:
        embedded = endpoint_in(settings.home).exists()
        names = list(embedded_worker_names(settings)) if embedded else [default_worker_name()]
    with readable_errors():
        reports = check_workers(HubCelery(settings), names, seconds)
    rows = [{"worker": report.worker, "health": report.health.value, "detail": report.detail} for report in reports]
    if as_json:
        show_json(rows)
    else:
        for row in rows:
            sys.stdout.write(f"{row['worker']}: {row['health']}: {row['detail']}\n")
    raise typer.Exit(0 if all(report.is_well for report in reports) else 1)
