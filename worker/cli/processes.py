"""Commands that become, or supervise, the hub's processes: up, worker, beat."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from config.secrets import masked
from worker.cli.edge import readable_errors, settings_or_exit

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.supervisor import Event, Supervisor

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("up")(up)
    app.command("worker", context_settings=_PASS_ON)(worker)
    app.command("beat", context_settings=_PASS_ON)(beat)


def up(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False) -> None:
    """Run a whole hub here: broker, database, workers and beat. Ctrl-C ends it."""
    started = time.monotonic()
    settings = settings_or_exit()
    from worker.supervisor import Supervisor

    def tell(event: Event) -> None:
        _say(event, time.monotonic() - started, as_json)

    with readable_errors():
        hub = Supervisor(settings, on_event=tell)

        def end(_signum: int, _frame: object) -> None:
            hub.ask_to_stop()

        # The event is set and the main thread goes on waiting: nothing is interrupted half-way.
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        hub.start()
        if hub.ready:
            _say_how_to_connect(hub, time.monotonic() - started, as_json)
        while not hub.wait(0.5):
            pass


def worker(context: typer.Context) -> None:
    """Run one Celery worker; options after -- are Celery's own."""
    from worker.plan import worker_command

    _become(worker_command(context.args), settings_or_exit())


def beat(context: typer.Context) -> None:
    """Run Celery's beat; options after -- are Celery's own."""
    from worker.plan import beat_command

    _become(beat_command(context.args), settings_or_exit())


def _become(command: list[str], settings: Settings) -> None:
    """Replace this process, so that signals reach Celery itself and its exit code is ours."""
    from worker.plan import process_environment

    os.execve(command[0], command, process_environment(settings))  # noqa: S606  # no shell is wanted


def _say(event: Event, seconds: float, as_json: bool) -> None:
    if as_json:
        facts = {"event": event.kind, "name": event.name, "pid": event.pid, "detail": event.detail}
        line = json.dumps({key: value for key, value in facts.items() if value} | {"seconds": round(seconds, 3)})
    elif event.kind == "ready":
        return
    else:
        what = " ".join(part for part in (event.name, event.kind, f"[{event.pid}]" if event.pid else "") if part)
        line = f"{seconds:7.2f} s  {what}" + (f": {event.detail}" if event.detail else "")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say_how_to_connect(hub: Supervisor, seconds: float, as_json: bool) -> None:
    if as_json:
        return
    home = hub.settings.home
    sys.stdout.write(
        f"{seconds:7.2f} s  ready\n\n"
        f"  broker    {masked(hub.settings.broker_url)}\n"
        f"  database  {masked(hub.settings.database_url)}\n"
        f"  store     {hub.settings.store_url}\n"
        f"  logs      {home / 'logs'}\n\n"
        f"  From this folder: fedqueue.Client() finds it; elsewhere, set FEDQUEUE_HOME={home}\n"
        "  Ctrl-C ends it.\n\n"
    )
    sys.stdout.flush()
