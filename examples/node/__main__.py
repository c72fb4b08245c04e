"""Run participants in Node.js on a hub of their own: `python -m examples.node`.

First two institutions each send an update, as a safetensors file in the store, and an event; one of them sends both
twice, as a program does that was restarted. What came of it is read back from the hub: every update and event counts
once. Then four learn the digits together. With FEDQUEUE_BROKER_URL=amqp://… all of it goes over that RabbitMQ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from config.loading import load_settings
from config.places import database_url_in, store_url_in
from examples.node.programs import FOLDER, find_node, run_program, words_of
from examples.node.training import outcome_of, told, train_digits
from fedqueue import Client
from worker.supervisor import Supervisor


@dataclass(frozen=True)
class Participant:
    """Who sends what, and the ids that make a repeat of it a repeat."""

    name: str
    values: Sequence[float]
    num_examples: int
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    submission_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def arguments(self, model_id: object) -> list[str]:
        """Of participant.mjs."""
        return words_of(
            {
                "model": model_id,
                "client": self.client_id,
                "submission": self.submission_id,
                "event": self.event_id,
                "name": self.name,
                "values": ",".join(map(str, self.values)),
                "num-examples": self.num_examples,
            }
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and end with a line of what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.node", description=__doc__)
    parser.add_argument("--node", default=find_node(), help="the program; by default the one that is found")
    given = parser.parse_args(arguments)
    if given.node is None or not (FOLDER / "node_modules").exists():
        parser.error("Node.js or its packages are not there: run `make example-node`")
    with tempfile.TemporaryDirectory(prefix="fedqueue-node-") as place:
        home = Path(place)

        def run(program: str, words: Sequence[str]) -> str:
            return run_program(given.node, program, words, {"FEDQUEUE_HOME": place})

        # Wherever the environment's settings point: what is judged in the end lies in this folder.
        settings = load_settings(None, home=home, database_url=database_url_in(home), store_url=store_url_in(home))
        with (
            Supervisor(settings) as hub,
            Client(hub.settings.broker_url, hub.settings.result_url, hub.settings.store_url) as client,
        ):
            problems = _repeat(client, partial(run, "participant.mjs"))
            trained = train_digits(client, partial(run, "training.mjs"), home)
        line, shortcomings = outcome_of(trained, home / "fedqueue.db")
    problems += shortcomings
    sys.stdout.writelines(f"{text}\n" for text in [*problems, line])
    return 1 if problems else 0


def _repeat(client: Client, run: Callable[[Sequence[str]], str]) -> list[str]:
    """Three runs of two participants, told as they come; what is wrong with them."""
    north, south = Participant("north", [1, 2, 4], 10), Participant("south", [5, 2, 3], 30)
    model = client.create_model(
        initial={"w": np.zeros(3, np.float32)}, requirement="require_x_clients", requirement_args={"x": 2}
    ).model_id
    for participant, options in ((north, []), (north, []), (south, ["--aggregate", "1"])):
        said = json.loads(run([*participant.arguments(model), "--tensor", *options]))
        again = " again" if said["update"]["repeated"] else ""
        sys.stdout.write(f"{participant.name}: update {said['update']['update_id']}{again}\n")
    events, _ = told(client, model, {f"{each.name} has sent its update" for each in (north, south)})
    counted = client.get_model(model).updates.get("COMPLETE", 0)
    newest = client.fetch_latest(model)
    mean = newest.arrays["w"].tolist()
    sys.stdout.write(
        f"3 runs of 2 participants: {counted} updates counted once each, aggregate {newest.number}: {mean}, "
        f"{events} events in the feed\n"
    )
    is_right = (newest.number, mean, counted, events) == (1, [4.0, 2.0, 3.25], 2, 2)
    return [] if is_right else ["the repeated update or event counted twice, or one is missing"]


if __name__ == "__main__":
    sys.exit(main())
