"""A process that sends its part of a burst of events: `python -m tests.chaos.event_sender BURST.json NUMBER`.

What is sent follows from the seed alone, so that a judge can work it out again. Repeats and disorder are added on the
way: one event in twenty comes again, later, and every event may come some hundreds of places too early or too late.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from fedqueue import Client
from fedqueue.errors import EventsNotSent

STATUSES: Final = ("INITIATED", "PREPARED", "TRAINING_STARTED", "RESULTS_UPLOADED")
SLOTS: Final = ("site-1", "site-2", "site-3")
REPEATED: Final = 0.05
_DISORDER: Final = 300  # places
_BLOCK: Final = 100  # events
_SENT_SINGLY: Final = 0.3  # of the blocks


@dataclass(frozen=True)
class Burst:
    """What all processes together send. A model's run has a name or none."""

    broker_url: str
    result_url: str
    models: list[str]
    runs: list[str | None]
    events: int
    processes: int
    seed: int

    def write(self, path: Path) -> None:
        """Write it where its processes look for it."""
        path.write_text(json.dumps(asdict(self)))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every event but the statuses, each once, as it must be found in the end."""
        return (self.entry(number) for number in range(self.events))

    def entry(self, number: int) -> dict[str, Any]:
        """A point of a metric, a typed event, or a line of free text; some are failures."""
        draw = random.Random(f"{self.seed} {number}")
        event = self._addressed(draw, draw.randrange(len(self.models)))
        event |= {"fl_client_name": draw.choice(SLOTS), "global_round": 1 + number * 50 // self.events}
        kind = draw.random()
        if kind < 0.5:
            event["metric"] = {"label": draw.choice(("accuracy", "loss")), "result": number / self.events}
        elif kind < 0.8:
            event |= {"event_type": draw.choice(("CLIENT_RESULT_RECEIVED", "ROUND_STARTED", "SOMETHING_NEW"))}
            event["details"] = {"size_bytes": number}
        else:
            event |= {"log": f"line {number} " + "x" * draw.randrange(400), "success": draw.random() < 0.8}
        return event

    def statuses_of(self, process: int) -> list[dict[str, Any]]:
        """Every process tells every model's statuses, each callback under an id of its own."""
        found = []
        for status in STATUSES:
            for position in range(len(self.models)):
                draw = random.Random(f"{self.seed} {process} {status} {position}")
                found.append(self._addressed(draw, position) | {"event_type": status})
        return found

    def _addressed(self, draw: random.Random, model: int) -> dict[str, Any]:
        event = {"event_id": str(UUID(int=draw.getrandbits(128), version=4)), "model_id": self.models[model]}
        return event if self.runs[model] is None else event | {"run_id": self.runs[model]}

    def stream(self, process: int) -> list[dict[str, Any]]:
        """What a process sends, in that order."""
        draw = random.Random(f"{self.seed} stream {process}")
        events = [self.entry(number) for number in range(process, self.events, self.processes)]
        statuses = self.statuses_of(process)
        # The statuses over the whole length of the run, in their order; then everything a little out of order.
        for position, status in enumerate(statuses):
            events.insert(position * len(events) // len(statuses), status)
        places = [(position + draw.uniform(0, _DISORDER), event) for position, event in enumerate(events)]
        places += [(place + draw.uniform(1, 5 * _DISORDER), e) for place, e in places if draw.random() < REPEATED]
        return [event for _, event in sorted(places, key=lambda placed: placed[0])]


def main(path: Path, process: int) -> None:
    """Send the process's stream: most of it in messages of some size, the rest event by event."""
    burst = Burst(**json.loads(path.read_text()))
    draw = random.Random(f"{burst.seed} sizes {process}")
    stream = burst.stream(process)
    with Client(burst.broker_url, burst.result_url) as client:
        for start in range(0, len(stream), _BLOCK):
            block = stream[start : start + _BLOCK]
            size = 1 if draw.random() < _SENT_SINGLY else draw.randint(2, _BLOCK)
            for first in range(0, len(block), size):
                _send(client, block[first : first + size])


def _send(client: Client, events: list[dict[str, Any]]) -> None:
    while True:
        try:
            client.send_events(events)
        except EventsNotSent:
            continue
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
