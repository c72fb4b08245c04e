"""The demonstration's command, if the demonstration is there (an image may leave it out)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer


def add_to(app: typer.Typer) -> None:
    """Let `worker.demo.command.add_to(app)` add its sub-command; it imports what it needs when it is run."""
    if find_spec("worker.demo") is not None and find_spec("worker.demo.command") is not None:
        import_module("worker.demo.command").add_to(app)
