"""Runs that fall silent: an FL server that crashed says no goodbye, and its model must not stay RUNNING for ever."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid5

from connectors.records import FederatedModel, ModelStatus, NewLog
from connectors.run_states import name_of
from tasks.domain.lifecycle import change_status
from tasks.hub import Hub


def end_silent_runs(hub: Hub, now: datetime | None = None) -> int:
    """End in ERROR every run that has told nothing for longer than its model's `silence_timeout`; how many were ended.

    Each says in its feed since when nothing was heard. A run ends once, however many workers look at the same moment,
    and not at all if it is heard of between the look and the end.
    """
    now = now or datetime.now(UTC)
    return sum(_end(hub, model, now) for model, _heard in hub.metadata.pull_silent_models(now))


def _end(hub: Hub, model: FederatedModel, now: datetime) -> bool:
    def end(_: object) -> bool:
        # Locked first: whoever writes to the feed, or ends the run, has done so before or waits until this is over.
        locked = hub.metadata.lock_model(model)
        heard = {found.id: heard for found, heard in hub.metadata.pull_silent_models(now)}.get(locked.id)
        if heard is None or locked.run_id != model.run_id:
            return False
        entry = NewLog(
            model_id=locked.id,
            run_id=locked.run_id,
            event_id=uuid5(locked.uuid, f"silent {name_of(locked.run_id)}"),
            event_type="RUN_SILENT",
            success=False,
            details={"since": heard.isoformat(timespec="seconds"), "silence_timeout": locked.silence_timeout},
        )
        hub.metadata.add_logs([entry])
        return change_status(hub, locked, ModelStatus.ERROR).changed

    return hub.metadata.transact(end)
