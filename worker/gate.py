"""The gate before this hub's tasks: what it refuses stands in the hub's own log."""

from __future__ import annotations

from typing import Any

import structlog

from fedqueue import gate

_log = structlog.get_logger(__name__)


class GatedConsumer(gate.GatedConsumer):
    """Celery's, behind the gate."""

    def report(self, **facts: Any) -> None:
        """One line, with each fact under its name."""
        _log.error("message.refused", **facts)
