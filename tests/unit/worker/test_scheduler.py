"""Beat's clock: it rests until something is due."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from config.loading import load_settings
from worker.bootstrap import HubCelery
from worker.scheduler import Scheduler


class _Counting(Scheduler):
    """How often it was asked, and what it would have sent."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.sent: list[str] = []
        super().__init__(*args, **options)

    def apply_async(self, entry: Any, *_args: Any, **_options: Any) -> None:
        self.sent.append(entry.task)


def test_beat_rests_until_a_task_is_due(home: Path) -> None:
    """Celery's own asked itself hundreds of times a second, for a hundredth of a second before each task."""
    app = HubCelery(load_settings(env_file=None, home=home, broker_url="memory://", sweep_seconds=0.2))
    scheduler = _Counting(app=app, lazy=True)
    scheduler.setup_schedule()
    ticks = 0
    while len(scheduler.sent) < 8:
        rest = scheduler.tick()
        ticks += 1
        time.sleep(max(0.0, rest or 0.0))
    # Of each pair of sweeps: a look that finds the first, one for the second, one that tells how long to rest.
    assert ticks <= 4 * len(scheduler.sent)
