"""What an FL server tells a hub: failures of participants, metrics, and the rounds that it aggregates itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid5

from fedqueue.client import Client
from fedqueue.messages.events import FLEvent, MetricPoint


class Telling:
    """Events of one model. Their ids are made of what they tell: told again after a restart, each counts once.

    `made_by` names the server's make, `slot_of` gives the name under which the hub knows a participant's institution
    (None: none). `run_id` is the training attempt they are of (None: the model's current one).
    """

    def __init__(
        self,
        hub: Client,
        model_id: UUID,
        made_by: str,
        slot_of: Callable[[str], str | None],
        run_id: UUID | None = None,
    ) -> None:
        self._hub = hub
        self._model_id = model_id
        self._made_by = made_by
        self._run_id = run_id
        self._slot_of = slot_of
        self._waiting: list[FLEvent] = []

    def status(self, status: str) -> None:
        """The model's run has come so far."""
        self._hub.update_status(self._model_id, status, run_id=self._run_id)

    def event(self, event_type: str, server_round: int, participant: str | None = None, **details: Any) -> None:
        """Something of a round."""
        fact = f"{event_type} {server_round} {participant}"
        self._add(fact, server_round, participant, event_type=event_type, details=details)

    def failure(self, server_round: int, participant: str, reason: str) -> None:
        """A participant gave nothing that can be used; before the first round (0) it is of none."""
        self._add(
            f"failure {server_round} {participant} {reason}",
            server_round,
            participant,
            log=f"{participant}: {reason}",
            success=False,
        )

    def metrics(
        self, phase: str, server_round: int, numbers: Mapping[str, float], participant: str | None = None
    ) -> None:
        """The numbers of a round; a participant's only if its institution has a slot: others can't be told apart."""
        if participant is not None and self._slot_of(participant) is None:
            return
        for key, value in numbers.items():
            self.point(f"{phase} {key}", server_round, value, participant)

    def point(self, label: str, x: int, value: float, participant: str | None = None) -> None:
        """One of a plot."""
        self._add(f"metric {label} {x} {participant}", x, participant, metric=MetricPoint(label=label, result=value))

    def send(self) -> None:
        """What was gathered, in as few messages as it takes. Raises: EventsNotSent."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._hub.send_events(waiting)

    def _add(self, fact: str, server_round: int, participant: str | None, **what: Any) -> None:
        slot = None if participant is None else self._slot_of(participant)
        # Only metrics know what was before the first round.
        of_none = server_round == 0 and "metric" not in what
        self._waiting.append(
            FLEvent(
                event_id=uuid5(self._run_id or self._model_id, f"{self._made_by} {fact}"),
                model_id=self._model_id,
                run_id=self._run_id,
                fl_client_name=slot,
                global_round=None if of_none else server_round,
                **what,
            )
        )
