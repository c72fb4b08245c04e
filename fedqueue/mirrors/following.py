"""Which models are followed, and what is handed to a mirror when."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from uuid import UUID

from fedqueue.client import Client
from fedqueue.errors import Rejected
from fedqueue.messages import ArtifactView, ModelView, ProgressView
from fedqueue.messages.feed import MetricsView
from fedqueue.messages.notifications import Notification

log = logging.getLogger(__name__)

# Statuses in which a run is over.
FINAL: Final = frozenset({"STOPPED", "ERROR", "RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED"})
# A run's last points may reach the hub after its end: they take another way than its status does.
LATE_SECONDS: Final = 600.0


class Mirror(Protocol):
    """Somewhere else that shows what a hub knows. What it has already it takes again without showing it twice.

    It also remembers whom it follows: what this process knows is gone with it.
    """

    name: str

    def recall(self) -> set[UUID]:
        """The models that were shown and neither ended nor left, by this process or one before it."""

    def show(self, model: ModelView, progress: ProgressView, metrics: MetricsView) -> None:
        """Where the model's run stands, and all points of its plots. From its first step on the model is followed."""

    def lacks(self, model: ModelView, artifact: ArtifactView) -> bool:
        """Whether the published version is to be shown, and is not yet. Asked after `show`."""

    def show_artifact(self, model: ModelView, progress: ProgressView, artifact: ArtifactView, file: Path) -> None:
        """A published version, whose bytes lie in the file."""

    def leave(self, model_id: UUID) -> None:
        """Nothing more is expected of the model: it need not be recalled."""

    def end(self, model_id: UUID) -> None:
        """The model was deleted."""


class Copies(Protocol):
    """The store's end that artifacts are read from."""

    def copy(self, uri: str, digest: str, file: BinaryIO) -> None:
        """The blob's bytes into the file, checked."""


class Follower:
    """Has one mirror follow each model from its first notification until its run has been over for a while.

    What it shows is what the hub says when it is asked, whatever it was told: a notification that comes twice, late,
    or in another order changes nothing. May be called from several threads.
    """

    def __init__(self, hub: Client, store: Copies, mirror: Mirror, *, late_seconds: float = LATE_SECONDS) -> None:
        self.mirror = mirror
        self._hub = hub
        self._store = store
        self._late_seconds = late_seconds
        # Until when, once the run is over; None: for as long as it goes on.
        self._followed: dict[UUID, float | None] = {}
        # Of these the mirror itself knows that they are followed: a restart comes back to them.
        self._kept: set[UUID] = set()
        self._is_recalled = False
        self._guard = threading.Lock()

    def hear(self, fact: Notification) -> None:
        """Take in what one notification tells. Raises: whatever goes wrong, if it must be told once more."""
        with self._guard:
            if fact.event == "model.deleted":
                self._end(fact.model_id)
                return
            self._followed.setdefault(fact.model_id, None)
            try:
                self._show(fact.model_id)
            except Exception as error:
                if fact.model_id not in self._kept:
                    raise
                self._warn(fact.model_id, error)

    def look(self) -> None:
        """Show what is new of the models that are followed; of one that it can't be shown of, the next time."""
        with self._guard:
            if not self._is_recalled:
                recalled = self.mirror.recall()
                self._kept |= recalled
                self._followed = dict.fromkeys(recalled) | self._followed
                self._is_recalled = True
            followed = sorted(self._followed)
        for model_id in followed:
            with self._guard:  # notifications need not wait until all have been looked at
                if model_id not in self._followed:
                    continue
                try:
                    self._show(model_id)
                except Exception as error:  # noqa: BLE001  # the others are to be shown all the same
                    self._warn(model_id, error)

    def _warn(self, model_id: UUID, error: Exception) -> None:
        log.warning("%s: model %s can't be shown now, and is tried again: %s", self.mirror.name, model_id, error)

    def _show(self, model_id: UUID) -> None:
        try:
            model = self._hub.get_model(model_id)
            # Before the points: when it says that the run is over, they are the last, but for those that come late.
            progress = self._hub.progress(model_id)
            metrics = self._hub.metrics(model_id)
        except Rejected as refusal:
            if refusal.kind != "UnknownModel":
                raise
            self._end(model_id)
            return
        self.mirror.show(model, progress, metrics)
        for artifact in model.published:
            if self.mirror.lacks(model, artifact):
                self._show_artifact(model, progress, artifact)
        if progress.status not in FINAL:
            self._followed[model_id] = None
            self._kept.add(model_id)
            return
        self._kept.discard(model_id)
        until = self._followed[model_id]
        if until is None:
            self._followed[model_id] = time.monotonic() + self._late_seconds
        elif until < time.monotonic():
            self.mirror.leave(model_id)
            self._forget(model_id)

    def _show_artifact(self, model: ModelView, progress: ProgressView, artifact: ArtifactView) -> None:
        suffix = "json" if model.data_format == "json" else "safetensors"
        with tempfile.TemporaryDirectory(prefix="fedqueue-") as folder:
            file = Path(folder) / f"model.{suffix}"
            with file.open("wb") as copy:
                self._store.copy(artifact.uri, artifact.digest, copy)
            self.mirror.show_artifact(model, progress, artifact, file)

    def _end(self, model_id: UUID) -> None:
        self.mirror.end(model_id)
        self._forget(model_id)

    def _forget(self, model_id: UUID) -> None:
        self._followed.pop(model_id, None)
        self._kept.discard(model_id)
