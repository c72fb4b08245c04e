"""A short training on the digits, whose participants tell the hub how it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from uuid import UUID

from fedqueue import Client
from worker.demo.digits import load_digits, split_unevenly
from worker.demo.examples import Examples
from worker.demo.learning import LOCAL_EPOCHS, accuracy, new_parameters, train


class Training:
    """Federated averaging of the digits; every participant tells its loss, and the hub's model its accuracy."""

    def __init__(self, client: Client, clients: int, seed: int) -> None:
        training, self._testing = load_digits(seed)
        self._client = client
        self._seed = seed
        self.accuracies: list[float] = []
        self.points = 0  # that the hub was told
        self.model: UUID = client.create_model(
            name="digits",
            initial=new_parameters(training.features.shape[1], 10, seed),
            requirement="require_x_clients",
            requirement_args={"x": clients},
        ).model_id
        names = [f"site-{number}" for number in range(1, clients + 1)]
        self._parts: dict[str, Examples] = dict(zip(names, split_unevenly(training, clients, seed), strict=True))
        self._ids = {name: client.register_client(self.model, name=name).client_id for name in names}
        self._run = client.events(self.model)

    def round(self, number: int, between: Callable[[], None] | None = None) -> None:
        """One round from the newest model to the next; `between` is called when half of the updates are in."""
        newest = self._client.fetch_latest(self.model)
        for position, (name, examples) in enumerate(self._parts.items()):
            if between is not None and position == len(self._parts) // 2:
                between()
            trained, loss = train(
                newest.arrays,
                examples.features,
                examples.labels,
                epochs=LOCAL_EPOCHS,
                seed=self._seed * 1_000_003 + number,
            )
            self._client.submit_update(
                self.model, self._ids[name], trained, num_examples=len(examples), base_aggregate=newest.aggregate_id
            )
            self._tell("loss", loss, number, name)
            self._tell("examples", float(len(examples)), number, name)
        self._client.wait_for_aggregate(self.model, after=newest.number)
        arrays = self._client.fetch_latest(self.model).arrays
        self.accuracies.append(accuracy(arrays, self._testing.features, self._testing.labels))
        self._tell("accuracy", self.accuracies[-1], number)
        sys.stdout.write(f"round {number}: accuracy {self.accuracies[-1]:.4f}\n")

    def end(self) -> None:
        """Publish the last aggregate, which ends the run."""
        self._run.close()
        self._client.publish(self.model, "1.0", final=True)

    def _tell(self, label: str, value: float, number: int, name: str | None = None) -> None:
        self._run.metric(label, value, global_round=number, fl_client_name=name)
        self.points += 1
