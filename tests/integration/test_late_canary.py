"""A canary that its worker came to too late."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from celery.result import AsyncResult

from config.loading import load_settings
from worker import health
from worker.bootstrap import HubCelery
from worker.health import Health, check_workers


# Celery's result backend calls it; nothing of ours does.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_a_canary_that_expired_is_silence_and_no_error(
    home: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts slowly finds it expired and says so: the asker must not break over that."""
    with HubCelery(load_settings(env_file=None, home=home, broker_url=valkey_url)) as app:

        def expired(app: HubCelery, worker: str, expires: float) -> AsyncResult:
            task_id = str(uuid4())
            app.backend.mark_as_revoked(task_id, "expired")
            return AsyncResult(task_id, app=app)

        monkeypatch.setattr(health, "send_canary", expired)
        (report,) = check_workers(app, ["slow@nowhere"], 0.2)
    assert report.health is Health.SILENT
