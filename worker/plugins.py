"""Plugins: aggregators and requirements of others, registered by importing their modules (docs/extend.md)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Final

from config.errors import ConfigurationError
from config.settings import Settings

GROUP: Final = "fedqueue.plugins"


def load_plugins(settings: Settings) -> tuple[str, ...]:
    """Import every module that FEDQUEUE_PLUGINS names or an installed package declares; their names.

    Importing one twice is harmless. Raises: ConfigurationError naming the module and what is wrong with it.
    """
    named = [(name, "FEDQUEUE_PLUGINS") for name in settings.plugins]
    named += [(point.module, f"entry point {point.name!r} of {GROUP}") for point in entry_points(group=GROUP)]
    problems: Sequence[str] = [problem for name, source in named if (problem := _import(name, source))]
    if problems:
        raise ConfigurationError(list(problems))
    return tuple(name for name, _ in named)


def _import(name: str, source: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # whatever somebody else's module does, it must be said by its name
        return f"{source}: {name!r} can't be imported: {type(error).__name__}: {error}"
    return None
