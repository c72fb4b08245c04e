"""The rounds of a server that leads, on a hub that really runs: no Flower, no FLARE, what both stand on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from config.loading import load_settings
from fedqueue import Client
from fedqueue.bridges.rounds import ServerRounds
from worker.supervisor import Supervisor

_START = {"w": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Supervisor(load_settings(None, home=tmp_path_factory.mktemp("hub"))) as running:
        settings = running.settings
        with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
            yield client


@pytest.fixture
def model() -> UUID:
    return uuid4()


def begun(hub: Client, model: UUID, num_rounds: int = 3, timeout: float = 30.0, **policy: Any) -> ServerRounds:
    """A server that has just been started."""
    rounds = ServerRounds(hub, model, "test", policy, timeout)  # type: ignore[arg-type]
    rounds.begin(lambda: _START, num_rounds)
    return rounds


def hand_in(rounds: ServerRounds, participant: str, value: float, digest: str = "", **numbers: Any) -> str | None:
    """One participant's training, whose arrays are all of that value."""
    said = {"num_examples": 10.0} | numbers
    return rounds.submit(participant, {"w": np.full(3, value, np.float32)}, digest=digest or str(value), **said)


def test_the_same_training_done_again_counts_once_whatever_time_it_took(hub: Client, model: UUID) -> None:
    """Killed in the middle of a round; the participants' arrays are the same again, the seconds they took are not."""
    first = begun(hub, model)
    first.open()
    assert hand_in(first, "north", 1, metrics={"seconds": 3.5}) is None
    again = begun(hub, model)
    again.open()
    assert hand_in(again, "north", 1, metrics={"seconds": 4.25}) is None
    assert hand_in(again, "south", 3) is None
    assert again.close().arrays["w"].tolist() == [2.0] * 3
    assert hub.get_model(model).updates["COMPLETE"] == 2


def test_arrays_that_do_not_change_are_an_update_of_every_round(hub: Client, model: UUID) -> None:
    """A participant that has learnt all it can sends the same again, which is no repeat."""
    rounds = begun(hub, model)
    for _ in range(3):
        rounds.open()
        for participant in ("north", "south"):  # nor is the same of another
            assert hand_in(rounds, participant, 2) is None
        rounds.close()
    found = hub.get_model(model)
    assert (found.aggregates, found.updates["COMPLETE"]) == (3, 6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "holds no arrays"),
        ({"w": np.ones(3, np.complex64)}, "complex64"),
        ({"w": np.ones(4, np.float32)}, "SHAPE"),
        ({"w": np.full(3, np.nan, np.float32)}, "NOT_FINITE"),
    ],
)
def test_what_is_wrong_with_one_update_is_answered(hub: Client, model: UUID, data: Any, reason: str) -> None:
    rounds = begun(hub, model)
    rounds.open()
    refusal = rounds.submit("north", data, digest="bad", num_examples=10.0)
    assert refusal is not None
    assert reason in refusal
    assert hand_in(rounds, "south", 3) is None
    assert rounds.close().arrays["w"].tolist() == [3.0] * 3


def test_more_metrics_than_an_update_carries_do_not_spoil_it(hub: Client, model: UUID) -> None:
    rounds = begun(hub, model)
    rounds.open()
    metrics = {"y" * 300: 1.0} | {f"m{number}": 1.0 for number in range(200)}
    assert hand_in(rounds, "north", 1, metrics=metrics, num_steps=-1.0) is None
    assert rounds.close().number == 1
