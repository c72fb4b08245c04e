"""What importing a part of `fedqueue` brings along."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("statement", ["import fedqueue.messages", "import fedqueue.blobs"])
def test_the_wire_contract_brings_neither_client_nor_celery(statement: str) -> None:
    """The hub imports it, and so does a bridge that only builds messages."""
    assert not loaded_by(statement) & {"fedqueue.client", "celery", "kombu", "numpy"}


def test_the_client_brings_nothing_of_the_application() -> None:
    loaded = loaded_by("from fedqueue import Client")
    assert "fedqueue.client" in loaded
    assert not loaded & {"worker", "tasks", "connectors", "config", "sqlalchemy"}
