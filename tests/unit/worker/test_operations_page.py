"""docs/operations.md is true: its commands exist with their options, its settings and exit codes are the code's."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from config.settings import PREFIX, Settings
from tests.hubs import ROOT
from tests.readme import blocks_of
from worker.cli.main import app
from worker.signals import EXIT_TOO_OLD
from worker.watchdog import EXIT_HUNG

PAGE = ROOT / "docs" / "operations.md"
COMMANDS = [
    command.partition("python -m worker ")[2]
    for block in blocks_of(PAGE)
    for command in block.commands
    if "python -m worker " in command
]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_exists_with_its_options(command: str) -> None:
    found = CliRunner().invoke(app, [*shlex.split(command), "--help"])
    assert found.exit_code == 0, found.output


def test_it_shows_what_an_operator_has() -> None:
    """Else the test above has looked at nothing."""
    shown = {command.split()[0] for command in COMMANDS}
    assert shown >= {"ready", "health", "status", "dead-letters", "backup", "restore"}


def test_commands_in_the_text_exist() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*) (?:MODEL|WORKER|ID)`", PAGE.read_text()))
    assert named >= {"rounds", "updates", "requeue", "discard", "health", "logs", "new-run"}
    for name in named:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_settings_and_exit_codes_are_the_code_s() -> None:
    text = PAGE.read_text()
    named = set(re.findall(rf"`{PREFIX}([A-Z_]+)`", text))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}
    assert f"{EXIT_HUNG}: its pool hung" in text
    assert f"{EXIT_TOO_OLD}: it is older than the schema" in text
    kept = Settings.model_fields
    assert "| `FEDQUEUE_RETAIN_SENT_DAYS` | 7 |" in text
    assert kept["retain_sent_days"].default == 7
    for name in ("retain_dead_letters_days", "retain_rounds_days", "retain_feed_days"):
        assert kept[name].default is None
        assert f"| `{PREFIX}{name.upper()}` | for ever |" in text
