"""Participants in Node.js who train on the digits: what they are given, and what came of it, by the hub's own files.

Softmax regression by FedAvg. Everybody has a share of the digits as a JSON file, which any language reads; what was
aggregated is judged on digits that nobody has seen, beside one model that is trained on everybody's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import numpy as np

from examples.heterogeneous.devices import Device
from examples.heterogeneous.regression import accuracy_of, train
from examples.node.programs import words_of
from fedqueue import Client
from worker.demo.digits import load_digits, split_unevenly
from worker.demo.judge import Accepted, Arrays, judge
from worker.demo.play import MARGIN

NAMES: Final = ("north", "east", "south", "west")
# Split less unevenly than in the demo, which has twenty rounds to make up for it.
_CONCENTRATION: Final = 1.0
_EPOCHS: Final = 5
_RATE: Final = 0.2
_SEED: Final = 0
_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Trained:
    """What the participants were told, and how much of what they told is there to be read."""

    model_id: UUID
    rounds: int
    accepted: Sequence[Accepted]
    events: int
    points: int


def train_digits(client: Client, run: Callable[[Sequence[str]], str], folder: Path, rounds: int = 4) -> Trained:
    """Let them train. `run` is training.mjs with these arguments: a line of JSON for each update that the hub took."""
    training, _ = load_digits(_SEED)
    model = client.create_model(
        name="digits",
        initial=_untrained(),
        requirement="require_x_clients",
        requirement_args={"x": len(NAMES)},
        max_rounds=rounds,
    ).model_id
    trusts = [client.add_trust(name).trust_id for name in NAMES]
    for name, trust in zip(NAMES, trusts, strict=True):
        client.set_slot(name, trust)
    client.set_model_trusts(model, trusts)

    commands = []
    for name, part in zip(
        NAMES, split_unevenly(training, len(NAMES), _SEED, concentration=_CONCENTRATION), strict=True
    ):
        # Its rows come digit by digit, and the participant goes through them in their order.
        mixed = part.take(np.random.default_rng(_SEED).permutation(len(part)))
        examples = folder / f"{name}.json"
        examples.write_text(json.dumps({"features": mixed.features.tolist(), "labels": mixed.labels.tolist()}))
        who = {"model": model, "client": uuid4(), "name": name, "examples": examples}
        commands.append(words_of(who | {"rounds": rounds, "epochs": _EPOCHS, "rate": _RATE}))
    with ThreadPoolExecutor(len(commands)) as threads:
        lines = [line for said in threads.map(run, commands) for line in said.splitlines()]
    taken = [json.loads(line) for line in lines]
    accepted = [Accepted(UUID(each["submission_id"]), each["num_examples"]) for each in taken]
    sent = {f"{name} has sent its update of round {number + 1}" for name in NAMES for number in range(rounds)}
    return Trained(model, rounds, accepted, *told(client, model, sent, points=len(sent)))


def told(client: Client, model: UUID, texts: Collection[str], points: int = 0) -> tuple[int, int]:
    """(how many entries of the feed say one of these, how many points the plots have), once they all are there."""
    until = time.monotonic() + _SECONDS
    while True:
        entries = [entry.text for entry in client.iter_logs(model) if entry.text in texts]
        plotted = sum(len(series.points) for plot in client.metrics(model).plots for series in plot.series)
        if (set(entries) == set(texts) and plotted >= points) or time.monotonic() > until:
            return len(entries), plotted
        time.sleep(0.05)


def outcome_of(trained: Trained, database: Path) -> tuple[str, list[str]]:
    """(the last line, what is wrong), by the hub's database and store; nothing may run on them any more."""
    training, testing = load_digits(_SEED)
    verdict = judge(database, trained.model_id, trained.accepted)
    counted = sum(aggregate.num_updates for aggregate in verdict.aggregates)
    newest = verdict.aggregates[-1].arrays if verdict.aggregates else _untrained()
    # As many passes over everybody's digits as a participant makes over its own.
    features, test_features = training.features.astype(np.float64), testing.features.astype(np.float64)
    everybody = Device(features, training.labels, test_features, testing.labels, _EPOCHS * trained.rounds)
    models = newest, train(_untrained(), everybody, _RATE, [_SEED])[0]
    reached, central = (accuracy_of(model, test_features, testing.labels) for model in models)
    problems = list(verdict.problems)
    if reached < central - MARGIN:
        problems.append(f"accuracy {reached:.4f} is more than {MARGIN:g} below {central:.4f}")
    wanted = trained.rounds * len(NAMES)
    counts = (len(verdict.aggregates), counted, len(trained.accepted), trained.events, trained.points)
    if counts != (trained.rounds, wanted, wanted, wanted, wanted):
        problems.append(
            f"of {trained.rounds} rounds and {wanted} updates, events and points not all are there: {counts}"
        )
    return (
        f"node: accuracy {reached:.4f} (central {central:.4f}), {len(verdict.aggregates)} rounds of {len(NAMES)} "
        f"participants, {counted} updates counted once each, {len(verdict.lost)} lost, "
        f"{len(verdict.counted_twice)} counted twice, {trained.events} events in the feed, {trained.points} points of "
        f"their loss"
    ), problems


def _untrained() -> Arrays:
    return {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}
