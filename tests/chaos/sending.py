"""What every process that sends to a hub under chaos has: a plan, threads, and journals of what they were told."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fedqueue import Client
from fedqueue.errors import StoreUnreachable, Unanswered

T = TypeVar("T")

# Of a call, in seconds. Its repeats within it are asked for in one place, so that an answer that comes late is heard:
# with a short one a crowded hub would only ever answer those who have gone.
PATIENCE: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """Where to send to, and how. Those of `models` whose clients send JSON are in `json_models` instead."""

    broker_url: str
    result_url: str
    store_url: str
    models: list[str]
    json_models: list[str]
    clients: list[str]
    parameters: int
    submitters: int
    tellers: int
    pause: float
    seed: int

    def write(self, path: Path) -> None:
        """Write the plan where the process looks for it."""
        path.write_text(json.dumps(self.__dict__))


class Sender(threading.Thread):
    """One stream of calls, one after another, until the stop file is there. `is_done`: it ended as it should."""

    def __init__(self, plan: Plan, client: Client, path: Path, name: str) -> None:
        super().__init__(name=name)
        self.is_done = False
        self.plan = plan
        self.client = client
        self.draw = random.Random(f"{plan.seed} {name}")
        self._end_mark = path.with_suffix(".stop")
        self._journal = path.with_suffix(f".{name}.journal").open("a", buffering=1)

    def send_once(self) -> None:
        """One call, and what belongs to it."""
        raise NotImplementedError

    def run(self) -> None:
        """Send until told to stop."""
        with self._journal:
            while not self.is_over():
                self.send_once()
                time.sleep(self.draw.uniform(0, 2 * self.plan.pause))
        self.is_done = True

    def is_over(self) -> bool:
        """Whether the stop file is there."""
        return self._end_mark.exists()

    def until_answered(self, ask: Callable[[], T]) -> T:
        """The answer, whatever it takes: a call without one is made again, with the same ids."""
        while True:
            try:
                return ask()
            except Unanswered as error:
                self.say({"unanswered": str(error)})
            except StoreUnreachable as error:
                # The store is away from this machine, too: nothing was sent.
                self.say({"unanswered": str(error)})
                time.sleep(0.2)

    def say(self, entry: dict[str, Any]) -> None:
        """One line of the journal."""
        self._journal.write(json.dumps(entry) + "\n")
