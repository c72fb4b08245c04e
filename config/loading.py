"""Settings from the environment and a .env file, every mistake said at once and by its variable's name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from config.errors import ConfigurationError
from config.settings import PREFIX, Settings


def load_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """The effective settings: `overrides`, else the environment, else `env_file`, else defaults.

    Raises: ConfigurationError naming every variable at fault and the rule; for one that is misspelt, the
    nearest known name. No value is quoted that could hold a password.
    """
    in_file = _read(env_file)
    problems = _unknown(os.environ, "the environment") + _unknown(in_file, str(env_file)) + _overruling()
    if problems:
        raise ConfigurationError(problems)
    values = {
        name: value
        for name, value in ((key[len(PREFIX) :].lower(), value) for key, value in in_file.items())
        if PREFIX + name.upper() not in _in_capitals(os.environ)
    }
    try:
        return Settings(**(values | overrides))
    except ValidationError as error:
        raise ConfigurationError(_readable(error)) from None


def _read(env_file: Path | None) -> dict[str, str]:
    """The file's FEDQUEUE_ variables; what else stands there is for others."""
    if env_file is None or not env_file.is_file():
        return {}
    try:
        found = dotenv_values(env_file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{env_file} can't be read: {error}"]) from error
    return {key: value or "" for key, value in found.items() if key.upper().startswith(PREFIX)}


def _in_capitals(names: Iterable[str]) -> set[str]:
    return {name.upper() for name in names}


def _unknown(variables: Mapping[str, str], where: str) -> list[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    problems = []
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        # Compared without the prefix, which would make any two names look alike.
        nearest = get_close_matches(name[len(PREFIX) :].lower(), Settings.model_fields, n=1)
        hint = (
            f"did you mean {PREFIX}{nearest[0].upper()}?"
            if nearest
            else "`python -m worker config` lists what there is"
        )
        problems.append(f"{name} (in {where}) is no setting: {hint}")
    return problems


def _overruling() -> list[str]:
    """Celery's own variables: it would silently prefer them to what is configured here."""
    overruled = {
        "CELERY_BROKER_URL": "BROKER_URL",
        "CELERY_BROKER_READ_URL": "BROKER_URL",
        "CELERY_BROKER_WRITE_URL": "BROKER_URL",
        "CELERY_RESULT_BACKEND": "RESULT_URL",
    }
    return [
        f"{theirs} (in the environment) would overrule {PREFIX}{name}: unset it, and set that one instead"
        for theirs, name in overruled.items()
        if os.environ.get(theirs)
    ]


def _readable(error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        if item["type"] == "default_factory_not_called":
            continue  # follows from another setting's error, which is said itself
        message = item["msg"].removeprefix("Value error, ")
        name = PREFIX + str(item["loc"][0]).upper() if item["loc"] else ""
        problems.append(f"{name}: {message}" if name else message)
    return problems
