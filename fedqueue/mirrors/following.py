"""Which models are followed, and what is handed to the mirrors when."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from fedqueue.client import Client
from fedqueue.errors import FedqueueError, Rejected
from fedqueue.messages import ModelView
from fedqueue.messages.feed import MetricsView
from fedqueue.messages.notifications import Notification

log = logging.getLogger(__name__)

_OVER: Final = ("model.finished", "model.deleted")


class Mirror(Protocol):
    """Somewhere else that shows what a hub knows. What it has already it takes again without showing it twice."""

    def show_metrics(self, model: ModelView, metrics: MetricsView) -> None:
        """All points of the model's plots."""

    def show_artifact(self, model: ModelView, version: str, data: bytes, details: dict[str, Any]) -> None:
        """A published version, as it lies in the store."""


class Reads(Protocol):
    """The store's end that artifacts are read from."""

    def read(self, uri: str, digest: str) -> bytearray:
        """The blob's bytes, checked."""


class Follower:
    """Follows each model from its first notification to the end of its run: at each notification, and now and then.

    May be called from several threads. All raise: FedqueueError, and what the mirrors raise; what is told once more is
    shown once.
    """

    def __init__(self, hub: Client, store: Reads, mirrors: Sequence[Mirror]) -> None:
        self._hub = hub
        self._store = store
        self._mirrors = mirrors
        self._followed: set[UUID] = set()
        self._guard = threading.Lock()

    def hear(self, fact: Notification) -> None:
        """Take in what one notification tells."""
        with self._guard:
            if fact.event == "model.deleted":
                self._followed.discard(fact.model_id)
                return
            model = self._find(fact.model_id)
            if model is None:
                return
            if fact.event == "artifact.published":
                self._show_artifact(model, fact.details)
            self._show_metrics(model)
            if fact.event in _OVER:
                self._followed.discard(fact.model_id)
            else:
                self._followed.add(fact.model_id)

    def look(self) -> None:
        """Show what was told since of the models whose runs are under way."""
        with self._guard:
            for model_id in sorted(self._followed):
                try:
                    model = self._find(model_id)
                    if model is not None:
                        self._show_metrics(model)
                except FedqueueError as error:
                    log.warning("model %s: its metrics could not be read now: %s", model_id, error)

    def _find(self, model_id: UUID) -> ModelView | None:
        try:
            return self._hub.get_model(model_id)
        except Rejected as refusal:
            if refusal.kind != "UnknownModel":
                raise
            # Deleted since: of what is gone nothing is shown.
            self._followed.discard(model_id)
            return None

    def _show_metrics(self, model: ModelView) -> None:
        metrics = self._hub.metrics(model.model_id)
        for mirror in self._mirrors:
            mirror.show_metrics(model, metrics)

    def _show_artifact(self, model: ModelView, details: dict[str, Any]) -> None:
        data = bytes(self._store.read(str(details["uri"]), str(details["digest"])))
        for mirror in self._mirrors:
            mirror.show_artifact(model, str(details["version"]), data, details)
