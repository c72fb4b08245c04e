"""All that is told a hub beside updates: statuses, events, metrics, scores, edits, ends of models; and garbage.

Each model of a teller's own lives for some seconds: it is made, edited and given a client, walks its statuses (with
repeats and steps backwards), tells of itself in events that nobody waits for, and half of the time is deleted.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import numpy as np

from fedqueue import Client
from fedqueue.payload import SharedStore
from tests.chaos.sending import PATIENCE, Plan, Sender

STATUSES: Final = ("INITIATED", "PREPARED", "RUNNING")
_EVENTS: Final = 40
_REPEATED: Final = 0.1
_REFUSED: Final = 0.1

# So long ago an orphaned blob was stored, as its clock says: long enough for the hub to collect it.
_AGE: Final = 48 * 3600.0


class Teller(Sender):
    """One model after another."""

    def __init__(self, plan: Plan, client: Client, path: Path, number: int) -> None:
        super().__init__(plan, client, path, f"teller-{number}")
        self._numbers = np.random.default_rng([plan.seed, 1_000 + number])
        self._store = SharedStore(plan.store_url)

    def send_once(self) -> None:
        """One model's life, with what else there is to tell meanwhile."""
        model = self._make_model()
        events = [self._event(model, number) for number in range(_EVENTS)]
        for status in STATUSES:
            self._tell_status(model, status)
            self._tell_events(events[: len(events) // 2])
            events = events[len(events) // 2 :]
            self._leave_a_blob()
            self._score()
            self._score()
            if self.is_over():
                return
        # Too late: it changes nothing.
        self._tell_status(model, self.draw.choice(STATUSES))
        self._tell_status(model, "STOPPED")
        if self.draw.random() < 0.5:
            self.say({"deleted": str(model)})
            self.until_answered(lambda: self.client.delete_model(model, timeout=PATIENCE))

    def _make_model(self) -> UUID:
        model, client = uuid4(), uuid4()
        self.until_answered(lambda: self.client.create_model(model_id=model, timeout=PATIENCE))
        self.until_answered(lambda: self.client.edit_model(model, name=f"model {model}", timeout=PATIENCE))
        self.until_answered(lambda: self.client.register_client(model, client, timeout=PATIENCE))
        return model

    def _tell_status(self, model: UUID, status: str) -> None:
        event_id = uuid4()
        for _ in range(2 if self.draw.random() < _REPEATED else 1):
            self.until_answered(lambda: self.client.update_status(model, status, event_id=event_id, timeout=PATIENCE))

    def _event(self, model: UUID, number: int) -> dict[str, Any]:
        event: dict[str, Any] = {"event_id": str(uuid4()), "model_id": str(model)}
        kind = self.draw.random()
        if kind < _REFUSED:
            # From a stranger: the point is refused, and kept as a dead letter.
            return event | {"fl_client_name": "nobody", "metric": {"label": "loss", "result": 1.0}, "global_round": 1}
        if kind < 0.4:
            return event | {"metric": {"label": "loss", "result": float(number)}, "global_round": number}
        if kind < 0.6:
            return event | {"event_type": "SOMETHING_NEW", "details": {"number": number}}
        return event | {"log": f"line {number}"}

    def _tell_events(self, events: list[dict[str, Any]]) -> None:
        """Most of them one by one and without waiting, so that they wait for the hub; some come twice."""
        repeated = [event for event in events if self.draw.random() < _REPEATED]
        for event in [*events, *repeated]:
            self.until_answered(partial(self.client.send_events, [event], timeout=PATIENCE))
        for event in events:
            self.say(
                {"refused" if "fl_client_name" in event else "told": event["event_id"], "model": event["model_id"]}
            )

    def _score(self) -> None:
        model, client = self.draw.choice(self.plan.models), self.draw.choice(self.plan.clients)
        latest = self.until_answered(lambda: self.client.latest(model, timeout=PATIENCE))
        if latest.aggregate_id is None:
            return
        scored, results = latest.aggregate_id, {"accuracy": self.draw.randint(0, 100) / 100}
        self.until_answered(lambda: self.client.add_score(model, scored, client, results, timeout=PATIENCE))
        self.say({"scored": scored, "client": client})

    def _leave_a_blob(self) -> None:
        """As of a client that stored its update two days ago, and never submitted it."""
        payload = self._store.take({"w": self._numbers.random(8)}, "data")
        assert payload.ref is not None
        path = Path(unquote(urlsplit(payload.ref.uri).path))
        old = time.time() - _AGE
        os.utime(path, (old, old))
        self.say({"orphan": str(path)})
