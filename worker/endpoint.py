"""The file by which clients on this machine find an embedded hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

from config.settings import Settings


def write_endpoint(path: Path, settings: Settings) -> None:
    """Say where the hub is, whole or not at all, to this user only (a broker's URL may hold a password)."""
    content = {
        "broker_url": settings.broker_url,
        "result_url": settings.result_url,
        "store_url": settings.store_url,
    }
    draft = path.with_suffix(f".{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
    draft.replace(path)


def remove_endpoint(path: Path) -> None:
    """Say that no hub is there any more."""
    path.unlink(missing_ok=True)
