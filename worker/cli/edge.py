"""The command line's edge: what people can put right is one readable line and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from config.errors import ConfigurationError
from config.loading import load_settings
from config.secrets import masked
from config.settings import Settings

EXIT_USAGE = 2


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the process with code 2 and the reason for every error that its user can put right."""
    from connectors.errors import ConnectorError
    from worker.errors import ProcessError

    try:
        yield
    except ConfigurationError as error:
        fail("the configuration can't be used:\n" + "\n".join(f"  {problem}" for problem in error.problems))
    except (ConnectorError, ProcessError) as error:
        fail(str(error))


def fail(reason: str) -> NoReturn:
    """Say why, and end with code 2."""
    sys.stderr.write(f"error: {masked(reason)}\n")
    raise SystemExit(EXIT_USAGE)


def settings_or_exit() -> Settings:
    """The settings, or the end with what is wrong with them."""
    with readable_errors():
        return load_settings()
