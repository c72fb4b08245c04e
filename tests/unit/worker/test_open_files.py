"""A pool process may open as many files as a large round maps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_CODE = """
import resource
from config.settings import Settings
from worker.bootstrap import HubCelery
from worker.signals import connect_signals
from celery import signals
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
connect_signals(HubCelery(Settings()))
signals.worker_process_init.send(None)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_pool_process_raises_its_soft_limit_as_far_as_it_may(tmp_path: Path) -> None:
    """A round of 1,000 mapped updates needs 1,000 files; the usual soft limit is 1,024 for everything."""
    command = [sys.executable, "-c", _CODE]
    done = subprocess.run(command, cwd=ROOT, env={"FEDQUEUE_HOME": str(tmp_path)}, capture_output=True, text=True)
    soft, hard = (int(word) for word in done.stdout.split())
    assert soft == (min(hard, 65_536) if hard > 0 else 65_536), done.stderr
