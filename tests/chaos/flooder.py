"""A process that submits as fast as it can: `python -m tests.chaos.flooder PLAN.json`, until PLAN.stop exists.

Most of its threads wait for no answer, and are held back by a full queue alone. One asks for its answers, submits large
updates to a model that takes its time, and hears of limits. What the hub has taken goes into PLAN.<thread>.journal, an
update each; how often it took nothing stands there last.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from fedqueue import Client, HubBusy, LimitExceeded, Unanswered

# Between two tries of a thread that was not let in: the flood is to fill the hub, not the test's machine.
_BREATH = 0.002


@dataclass(frozen=True)
class Plan:
    """Where to submit to, as whom, and how much: `slow_` is the one that asks for its answers."""

    broker_url: str
    result_url: str
    model: str
    client: str
    size: int
    slow_model: str
    slow_client: str
    slow_size: int
    threads: int
    max_waiting: int

    def write(self, path: Path) -> None:
        """Write the plan where the process looks for it."""
        path.write_text(json.dumps(self.__dict__))


class Flooder(threading.Thread):
    """One stream of submissions."""

    def __init__(self, plan: Plan, hub: Client, path: Path, number: int) -> None:
        super().__init__(name=f"flooder-{number}")
        self._plan = plan
        self._hub = hub
        self._submit = self._ask if number == 0 else self._post
        self._end_mark = path.with_suffix(".stop")
        self._journal = path.with_suffix(f".{number}.journal").open("a", buffering=1)
        self._counted: Counter[str] = Counter()

    def run(self) -> None:
        """Submit until told to stop."""
        with self._journal:
            while not self._end_mark.exists():
                self._counted["offered"] += 1
                submission_id = uuid4()
                try:
                    self._submit(submission_id)
                except HubBusy:
                    self._counted["busy"] += 1
                    time.sleep(_BREATH)
                except LimitExceeded as refused:
                    self._counted[refused.rule] += 1
                    time.sleep(_BREATH)
                except Unanswered:
                    self._counted["unanswered"] += 1
                    self._say({"posted": str(submission_id)})
            self._say({"counted": self._counted})

    def _post(self, submission_id: UUID) -> None:
        plan, value = self._plan, float(self._counted["offered"] % 100)
        self._hub.submit_update(
            plan.model,
            plan.client,
            [value] * plan.size,
            num_examples=1,
            submission_id=submission_id,
            wait=False,
            timeout=0.001,
        )
        self._say({"posted": str(submission_id)})

    def _ask(self, submission_id: UUID) -> None:
        plan = self._plan
        self._hub.submit_update(
            plan.slow_model, plan.slow_client, [1.0] * plan.slow_size, num_examples=1, submission_id=submission_id
        )
        self._say({"accepted": str(submission_id)})

    def _say(self, entry: object) -> None:
        self._journal.write(json.dumps(entry) + "\n")


def main(path: Path) -> None:
    """Run the plan's threads until the stop file is there."""
    plan = Plan(**json.loads(path.read_text()))
    with Client(plan.broker_url, plan.result_url, timeout=120, max_waiting=plan.max_waiting) as hub:
        threads = [Flooder(plan, hub, path, number) for number in range(plan.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
