"""What a task works with: the process's connectors and its way to send follow-ups.

`worker.bootstrap` builds one a process; tasks reach it as `self.app.hub`, tests build their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.settings import Settings
from connectors.metadata import BaseMetadataConnector
from connectors.model_data import BaseModelDataConnector
from tasks.draining import Drain
from tasks.refusals import Refusals


@dataclass(frozen=True)
class Hub:
    """One process's connectors."""

    settings: Settings
    metadata: BaseMetadataConnector
    model_data: BaseModelDataConnector
    # (task name, message as JSON has it, queue or None for the task's own). Losing one loses time, never data.
    send: Callable[[str, Mapping[str, Any], str | None], None]
    worker: str = ""
    refusals: Refusals = field(default_factory=Refusals)  # by limits, as this process has told of them
    events: Drain | None = None  # the queue of events, for tasks that take what else waits there
