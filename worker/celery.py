"""The application that `celery -A worker …` finds, with what a worker does at its start and end."""

from __future__ import annotations

import sys

from config.errors import ConfigurationError
from config.loading import load_settings
from worker.bootstrap import HubCelery
from worker.plugins import load_plugins
from worker.signals import connect_signals


def _made() -> HubCelery:
    try:
        settings = load_settings()
        # Before the pool forks: its processes have them, and a broken one is said at the start.
        load_plugins(settings)
        app = HubCelery(settings, current=True)
    except ConfigurationError as error:
        sys.stderr.write(f"the configuration can't be used:\n{error}\n")
        raise SystemExit(2) from None
    connect_signals(app)
    return app


app = _made()
