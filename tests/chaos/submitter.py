"""A process that submits and tells for as long as it is let: `python -m tests.chaos.submitter PLAN.json`.

It uses `fedqueue.Client` alone, and ends when PLAN.stop exists. What it was told of each submission goes into its
journals, line by line; what should not have happened goes there as a problem. Every submission is repeated under its
id until it was answered.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from numpy.typing import NDArray

from fedqueue import Client, UpdateRejected
from tests.chaos.sending import PATIENCE, Plan, Sender
from tests.chaos.teller import Teller

REPEATED = 0.30
POISONED = 0.02

# The layers of a JSON model: small enough to come inline.
JSON_LAYERS = (40, 10)


class Submitter(Sender):
    """One stream of submissions, one after another."""

    def __init__(self, plan: Plan, client: Client, path: Path, number: int) -> None:
        super().__init__(plan, client, path, f"submitter-{number}")
        self._numbers = np.random.default_rng([plan.seed, number])
        self._before: list[tuple[UUID, dict[str, Any]]] = []

    def send_once(self) -> None:
        """A submission, and sometimes one that was answered long ago."""
        if self._before and self.draw.random() < REPEATED / 2:
            submission_id, arguments = self.draw.choice(self._before)
            self._send(submission_id, arguments)
            return
        submission_id, arguments = uuid4(), self._new()
        answer = self._send(submission_id, arguments)
        self._before = [*self._before[-20:], (submission_id, arguments)]
        self._note(submission_id, arguments, answer)
        if self.draw.random() < REPEATED / 2:
            again = self._send(submission_id, arguments)
            if again != answer:
                self.say({"problem": f"{submission_id} was answered {answer}, and then {again}"})

    def _new(self) -> dict[str, Any]:
        model = self.draw.choice([*self.plan.models, *self.plan.json_models])
        arguments: dict[str, Any] = {
            "model_id": model,
            "client_id": self.draw.choice(self.plan.clients),
            "num_examples": float(self.draw.randint(1, 100)),
            "poison": None,
        }
        is_bad = self.draw.random() < POISONED
        if model in self.plan.json_models:
            layers = [self._numbers.integers(-999, 1000, size).tolist() for size in JSON_LAYERS]
            if is_bad:
                arguments["poison"] = "SHAPE"
                layers[-1] = layers[-1][:-1]
            return arguments | {"data": layers}
        values: NDArray[np.float32] = self._numbers.integers(-999, 1000, self.plan.parameters).astype(np.float32)
        if is_bad:
            arguments["poison"] = self.draw.choice(["NOT_FINITE", "SHAPE"])
            if arguments["poison"] == "SHAPE":
                values = values[:-1]
            else:
                values[self.draw.randrange(values.size)] = np.nan
        return arguments | {"data": {"w": values}}

    def _send(self, submission_id: UUID, arguments: dict[str, Any]) -> tuple[int, str | None]:
        """(update id, reason code if rejected), whatever it takes."""

        def submit() -> tuple[int, str | None]:
            try:
                update = self.client.submit_update(
                    arguments["model_id"],
                    arguments["client_id"],
                    arguments["data"],
                    num_examples=arguments["num_examples"],
                    submission_id=submission_id,
                    timeout=PATIENCE,
                )
            except UpdateRejected as rejected:
                return rejected.update_id, rejected.reason_code
            return update.update_id, None

        return self.until_answered(submit)

    def _note(self, submission_id: UUID, arguments: dict[str, Any], answer: tuple[int, str | None]) -> None:
        if answer[1] != arguments["poison"]:
            self.say({"problem": f"{submission_id}, poisoned: {arguments['poison']}, was answered {answer}"})
        elif answer[1] is None:
            self.say({"accepted": str(submission_id), "num_examples": arguments["num_examples"]})
        else:
            self.say({"rejected": str(submission_id), "reason_code": answer[1]})


def main(path: Path) -> int:
    """Run the plan's threads until the stop file is there; 1 if one of them broke."""
    plan = Plan(**json.loads(path.read_text()))
    with Client(plan.broker_url, plan.result_url, plan.store_url, resend_after=1.0) as client:
        threads = [
            *(Submitter(plan, client, path, number) for number in range(plan.submitters)),
            *(Teller(plan, client, path, number) for number in range(plan.tellers)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 0 if all(thread.is_done for thread in threads) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
