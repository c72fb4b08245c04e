"""A process that submits for as long as it is let: `python -m tests.chaos.submitter PLAN.json`, until PLAN.stop exists.

It uses `fedqueue.Client` alone. What it was told of each submission goes into its journal, line by line; what
should not have happened goes there as a problem. Every submission is repeated under its id until it was answered.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from fedqueue import Client, UpdateRejected
from fedqueue.errors import Unanswered

REPEATED = 0.30
POISONED = 0.02


@dataclass(frozen=True)
class Plan:
    """Where to submit to, and how."""

    broker_url: str
    result_url: str
    store_url: str
    models: list[str]
    clients: list[str]
    parameters: int
    threads: int
    pause: float
    seed: int

    def write(self, path: Path) -> None:
        """Write the plan where the process looks for it."""
        path.write_text(json.dumps(self.__dict__))


class Submitter(threading.Thread):
    """One stream of submissions, one after another."""

    def __init__(self, plan: Plan, client: Client, journal: Path, end_mark: Path, number: int) -> None:
        super().__init__(name=f"submitter-{number}")
        self._plan = plan
        self._client = client
        self._end_mark = end_mark
        self._journal = journal.open("a", buffering=1)
        self._draw = random.Random(f"{plan.seed} {number}")
        self._numbers = np.random.default_rng([plan.seed, number])
        self._before: list[tuple[UUID, dict[str, Any]]] = []

    def run(self) -> None:
        """Submit until told to stop."""
        with self._journal:
            while not self._end_mark.exists():
                self._submit_once()
                time.sleep(self._draw.uniform(0, 2 * self._plan.pause))

    def _submit_once(self) -> None:
        # Sometimes an update that was answered long ago comes again, too.
        if self._before and self._draw.random() < REPEATED / 2:
            submission_id, arguments = self._draw.choice(self._before)
            self._send(submission_id, arguments)
            return
        submission_id, arguments = uuid4(), self._new()
        answer = self._send(submission_id, arguments)
        self._before = [*self._before[-20:], (submission_id, arguments)]
        self._note(submission_id, arguments, answer)
        if self._draw.random() < REPEATED / 2:
            again = self._send(submission_id, arguments)
            if again != answer:
                self._say({"problem": f"{submission_id} was answered {answer}, and then {again}"})

    def _new(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model_id": self._draw.choice(self._plan.models),
            "client_id": self._draw.choice(self._plan.clients),
            "num_examples": float(self._draw.randint(1, 100)),
            "poison": None,
        }
        values: NDArray[np.float32] = self._numbers.integers(-999, 1000, self._plan.parameters).astype(np.float32)
        if self._draw.random() < POISONED:
            arguments["poison"] = self._draw.choice(["NOT_FINITE", "SHAPE"])
            if arguments["poison"] == "SHAPE":
                values = values[:-1]
            else:
                values[self._draw.randrange(values.size)] = np.nan
        return arguments | {"data": {"w": values}}

    def _send(self, submission_id: UUID, arguments: dict[str, Any]) -> tuple[int, str | None]:
        """(update id, reason code if rejected), whatever it takes."""
        while True:
            try:
                update = self._client.submit_update(
                    arguments["model_id"],
                    arguments["client_id"],
                    arguments["data"],
                    num_examples=arguments["num_examples"],
                    submission_id=submission_id,
                    timeout=10,
                )
            except UpdateRejected as rejected:
                return rejected.update_id, rejected.reason_code
            except Unanswered as error:
                self._say({"unanswered": str(error)})
                continue
            return update.update_id, None

    def _note(self, submission_id: UUID, arguments: dict[str, Any], answer: tuple[int, str | None]) -> None:
        if answer[1] != arguments["poison"]:
            self._say({"problem": f"{submission_id}, poisoned: {arguments['poison']}, was answered {answer}"})
        elif answer[1] is None:
            self._say({"accepted": str(submission_id), "num_examples": arguments["num_examples"]})
        else:
            self._say({"rejected": str(submission_id), "reason_code": answer[1]})

    def _say(self, entry: dict[str, Any]) -> None:
        self._journal.write(json.dumps(entry) + "\n")


def main(path: Path) -> None:
    """Run the plan's threads until the stop file is there."""
    plan = Plan(**json.loads(path.read_text()))
    with Client(plan.broker_url, plan.result_url, plan.store_url, resend_after=1.0) as client:
        threads = [
            Submitter(plan, client, path.with_suffix(f".{number}.journal"), path.with_suffix(".stop"), number)
            for number in range(plan.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
