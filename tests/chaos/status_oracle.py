"""What a model's status must be after any messages, in plain Python written from DESIGN 4.2, and what stands there.

It shares no code with the hub: the same mistake would have to be made twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, Self
from uuid import UUID

from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel

ORDER: Final = {"PENDING": 0, "INITIATED": 1, "PREPARED": 2, "RUNNING": 3}
OVER: Final = ("RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED", "ERROR", "STOPPED")
STATUSES: Final = (*ORDER, *OVER)
UNNAMED: Final = "0"  # the run that nobody has named


@dataclass(frozen=True)
class Ask:
    """One message. `run`, `event`: labels of UUIDs; None: not given."""

    status: str
    run: str | None = None
    user: str | None = None
    event: str | None = None


@dataclass
class Oracle:
    """A model, as it must be."""

    status: str = "PENDING"
    run: str = UNNAMED
    runs: list[str] = field(default_factory=list)  # every named one, in the order they began
    audit: list[tuple[str, str | None]] = field(default_factory=list)
    feed: list[tuple[str, str, bool]] = field(default_factory=list)  # status, run, success
    told: list[tuple[str, str, str]] = field(default_factory=list)  # event, run, status
    events: dict[str, tuple[str, str]] = field(default_factory=dict)  # what changed something: to what, of which run
    deleted: bool = False
    begun_by_users: int = 0

    def copy(self) -> Self:
        """Another one that stands the same."""
        return deepcopy(self)

    def ask(self, ask: Ask) -> str:
        """`changed`, `ignored` or `refused`."""
        if self.deleted:
            return "refused"
        if ask.event in self.events:
            status, run = self.events[ask.event]
            is_same = status == ask.status and (ask.run is None or run == UNNAMED or run == ask.run)
            return "ignored" if is_same else "refused"
        if self._begins_a_run(ask):
            self._begin(ask)
        elif ask.run is not None and ask.run != self.run:
            # Somebody else's run. It may be this one's name, if this one has none and is not over.
            if ask.run in self.runs or self.run != UNNAMED or not self._goes_forward(ask.status):
                return "ignored"
            self._name(ask.run)
        elif not self._goes_forward(ask.status):
            return "ignored"
        self._become(ask)
        return "changed"

    def delete(self, user: str | None) -> str:
        """`changed` or `ignored`."""
        if self.deleted:
            return "ignored"
        self.deleted = True
        self.audit.append(("DELETE", user))
        self.told.append(("model.deleted", self.run, self.status))
        return "changed"

    def _goes_forward(self, to: str) -> bool:
        if self.status in OVER:
            return False
        return to in OVER or ORDER[to] > ORDER[self.status]

    def _begins_a_run(self, ask: Ask) -> bool:
        if ask.status != "INITIATED":
            return False
        if ask.run is None:
            return ask.user is not None and self.status in OVER
        return ask.run not in self.runs

    def _begin(self, ask: Ask) -> None:
        if ask.run is None:
            self.begun_by_users += 1
        self._name(ask.run or f"user's {self.begun_by_users}")

    def _name(self, run: str) -> None:
        self.run = run
        self.runs.append(run)

    def _become(self, ask: Ask) -> None:
        self.status = ask.status
        if ask.event is not None:
            self.events[ask.event] = (ask.status, self.run)
        self.audit.append((ask.status, ask.user))
        self.feed.append((ask.status, self.run, ask.status not in ("ERROR", "STOPPED", "RESULTS_UPLOAD_FAILED")))
        self.told.append(("model.status_changed", self.run, ask.status))
        if ask.status in OVER:
            self.told.append(("model.finished", self.run, ask.status))


def standing(metadata: BaseMetadataConnector, model: FederatedModel, labels: Mapping[UUID, str]) -> Oracle:
    """The model as the connector holds it, in the oracle's words. Runs without a label were begun by users."""
    found = metadata.pull_federated_model_w_id(model.id)
    assert found is not None
    runs = [run.run_id for run in metadata.pull_model_runs(model)]
    named = dict(labels)
    begun_by_users = [run for run in runs if run not in labels]
    named |= {run: f"user's {number}" for number, run in enumerate(begun_by_users, 1)}

    def name(run_id: UUID | str | None) -> str:
        return UNNAMED if run_id is None else named[UUID(str(run_id))]

    feed = [log for log in metadata.pull_logs(model, limit=1_000) if log.event_type in STATUSES]
    told = [message.payload for message in metadata.pull_outbox_messages(100_000) if message.model_id == model.id]
    return Oracle(
        status=str(found.status),
        run=name(found.run_id),
        runs=[name(run) for run in runs],
        audit=[(str(action), user) for action, user in metadata.pull_audit(model)],
        feed=[(str(log.event_type), name(log.run_id), log.success) for log in feed],
        told=[(each["event"], name(each["details"].get("run_id")), each["details"]["status"]) for each in told],
        deleted=found.deleted,
        begun_by_users=len(begun_by_users),
    )
