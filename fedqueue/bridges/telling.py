"""What an FL server tells a hub: failures of participants, metrics, and the rounds that it aggregates itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID, uuid5

from fedqueue.client import Client
from fedqueue.errors import EventNotTaken, EventsNotSent, InvalidArgument

_log: Final = logging.getLogger(__name__)

# How long the training waits in passing for a broker that is away: the events are kept and sent behind its back.
_IN_PASSING_SECONDS: Final = 2.0


class Telling:
    """Events of one model. Their ids are made of what they tell: told again after a restart, each counts once.

    `made_by` names the server's make, `slot_of` gives the name under which the hub knows a participant's institution
    (None: none). `run_id` is the training attempt they are of (None: the model's current one).
    May be shared by threads. What the hub can't take ends no training: a hub that is away gets its events when it is
    back, and what can't be an event at all is logged.
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
        self._events = hub.events(model_id, run_id=run_id, timeout=_IN_PASSING_SECONDS)

    def status(self, status: str) -> None:
        """The model's run has come so far."""
        self._hub.update_status(self._model_id, status, run_id=self._run_id)

    def event(self, event_type: str, server_round: int, participant: str | None = None, **details: Any) -> None:
        """Something of a round."""
        fact = f"{event_type} {server_round} {participant}"
        self._add(self._events.event, fact, participant, event_type, global_round=server_round, details=details)

    def failure(self, server_round: int, participant: str, reason: str) -> None:
        """A participant gave nothing that can be used; before the first round (0) it is of none."""
        fact = f"failure {server_round} {participant} {reason}"
        text, of_round = f"{participant}: {reason}", server_round or None
        self._add(self._events.log, fact, participant, text, success=False, global_round=of_round)

    def metrics(
        self, phase: str, server_round: int, numbers: Mapping[str, float], participant: str | None = None
    ) -> None:
        """The numbers of a round; a participant's only if its institution has a slot: others can't be told apart."""
        if participant is not None and self._slot_of(participant) is None:
            return
        for key, value in numbers.items():
            self.point(f"{phase} {key}", server_round, value, participant)

    def point(self, label: str, x: int, value: float, participant: str | None = None, x_label: str = "") -> None:
        """One of a plot over the rounds, or over what `x_label` says."""
        # The value is part of it: a round that is trained again measures anew, and is not a repeat.
        fact = f"metric {label} {x_label} {x} {participant} {value!r}"
        place: dict[str, Any] = {"x_value": float(x), "x_label": x_label} if x_label else {"global_round": x}
        self._add(self._events.metric, fact, participant, label, value, **place)

    def send(self) -> None:
        """What was gathered is with the broker, or is tried further: nothing is raised, and little waited for."""
        try:
            self._events.flush(_IN_PASSING_SECONDS)
        except EventsNotSent as error:
            _log.warning("the hub is told later of model %s: %s", self._model_id, error)

    def send_all(self) -> None:
        """What was gathered is with the broker. Raises: EventsNotSent, after the client's own time."""
        self._events.flush(self._hub.timeout)

    def _add(self, add: Callable[..., UUID], fact: str, participant: str | None, *what: Any, **where: Any) -> None:
        slot = None if participant is None else self._slot_of(participant)
        event_id = uuid5(self._run_id or self._model_id, f"{self._made_by} {fact}")
        try:
            add(*what, event_id=event_id, fl_client_name=slot, **where)
        except (InvalidArgument, EventNotTaken) as error:
            _log.warning("model %s: not told to the hub: %.300s (%s)", self._model_id, fact, error)
