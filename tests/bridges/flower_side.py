"""What a HubStrategy does, in Flower's own environment: run there by test_flower.py, with a hub that really runs.

The Grid, which Flower hands to every strategy, is the test's: its participants answer as a test wants them to.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx, FedYogi
from flwr.supercore.task_identity import TaskIdentity

from fedqueue import Client, InvalidArgument, RoundNotPosted
from fedqueue.flower import HubStrategy

Answer = Callable[[int, Message], Message]
_START = {"w": np.zeros(3, np.float32), "b": np.ones(1, np.float32)}


class Killed(BaseException):
    """The ServerApp is gone."""


class Participants(Grid):
    """Nodes that answer at once: each adds its number and one to every weight."""

    def __init__(self, count: int, first_node: int = 1000) -> None:
        self.count = count
        self.first_node = first_node
        self.answers: dict[int, Answer] = {}
        self.rounds: list[int] = []  # of each training that was asked for
        self.copies = 1
        self._at_work: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = {str(uuid.uuid4()): message for message in messages}
        for message_id, message in sent.items():
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            if message.metadata.message_type == "train":
                self.rounds.append(int(message.content["config"]["server-round"]))
        self._at_work |= sent
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """One node's answer at a time, in the nodes' order, so often as this network repeats itself."""
        asked = set(message_ids) & self._at_work.keys()
        if not asked:
            return []
        message = self._at_work.pop(min(asked, key=lambda sent: self._at_work[sent].metadata.dst_node_id))
        index = message.metadata.dst_node_id - self.first_node
        answer = self.answers.get(index, train if message.metadata.message_type == "train" else evaluate)
        return [answer(index, message)] * self.copies

    def get_node_ids(self) -> list[int]:
        return [self.first_node + index for index in range(self.count)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = self.push_messages(messages)
        return [reply for _ in sent for reply in self.pull_messages(sent)]


def reply_with(message: Message, arrays: dict[str, Any] | None, **metrics: Any) -> Message:
    records: dict[str, Any] = {"metrics": MetricRecord(metrics)}
    if arrays is not None:
        records["arrays"] = ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})
    return Message(RecordDict(records), reply_to=message)


def train(index: int, message: Message) -> Message:
    given = {name: array.numpy() for name, array in message.content["arrays"].items()}
    arrays = {name: (values + index + 1).astype(values.dtype) for name, values in given.items()}
    return reply_with(message, arrays, **{"num-examples": 10, "partition-id": index, "train-loss": 1.0 / (index + 1)})


def evaluate(index: int, message: Message) -> Message:
    return reply_with(message, None, **{"num-examples": 10, "partition-id": index, "accuracy": 0.5})


def record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


def values_of(arrays: ArrayRecord) -> dict[str, list[float]]:
    return {name: array.numpy().tolist() for name, array in arrays.items()}


@pytest.fixture(scope="module", autouse=True)
def server_app() -> None:
    """Flower sets these where it starts a ServerApp; messages carry them."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


@pytest.fixture(scope="module")
def hub() -> Iterator[Client]:
    with Client() as client:
        yield client


@pytest.fixture
def model() -> uuid.UUID:
    return uuid.uuid4()


def failures(hub: Client, model: uuid.UUID) -> str:
    return " | ".join(line.text for line in hub.iter_logs(model) if not line.success)


def until(holds: Callable[[], object]) -> None:
    """What is told is not waited for: the hub takes it in its time."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_a_training_s_rounds_are_the_hub_s_aggregates(hub: Client, model: uuid.UUID) -> None:
    result = HubStrategy(FedAvg(), model_id=model, hub=hub).start(Participants(3), record(_START), num_rounds=2)
    # Each round adds the mean of 1, 2 and 3.
    assert values_of(result.arrays) == {"w": [4.0] * 3, "b": [5.0]}
    assert list(result.arrays) == ["w", "b"]
    assert sorted(result.train_metrics_clientapp) == [1, 2]
    found = hub.get_model(model)
    assert (found.aggregates, found.updates["COMPLETE"]) == (2, 6)
    assert values_of(record(hub.fetch_latest(model).arrays)) == values_of(result.arrays)
    until(lambda: hub.progress(model).status == "RESULTS_UPLOADED")
    until(lambda: {plot.label for plot in hub.metrics(model).plots} == {"train train-loss", "evaluate accuracy"})


def test_a_server_that_was_killed_goes_on_at_its_round(hub: Client, model: uuid.UUID) -> None:
    """Killed as it has handed over two of three replies; the nodes have other ids afterwards."""
    begun = HubStrategy(FedAvg(), model_id=model, hub=hub)
    submitted = 0
    submit = begun._submit

    def submit_two_of_the_second_round(reply: Any) -> Any:
        nonlocal submitted
        submitted += 1
        if submitted == 6:
            raise Killed
        return submit(reply)

    begun._submit = submit_two_of_the_second_round  # type: ignore[method-assign]
    begun._tell_end = lambda *_: None  # type: ignore[method-assign]  # who is killed says nothing
    with pytest.raises(Killed):
        begun.start(Participants(3), record(_START), num_rounds=3)
    assert hub.get_model(model).aggregates == 1

    grid = Participants(3, first_node=5000)
    result = HubStrategy(FedAvg(), model_id=model, hub=hub).start(grid, record(_START), num_rounds=3)
    assert grid.rounds == [2] * 3 + [3] * 3
    assert values_of(result.arrays) == {"w": [6.0] * 3, "b": [7.0]}
    assert sorted(result.train_metrics_clientapp) == [2, 3]
    found = hub.get_model(model)
    assert found.aggregates == 3
    assert found.updates["COMPLETE"] == 9


def test_an_optimizer_s_state_is_the_hub_s(hub: Client, model: uuid.UUID) -> None:
    """Two starts of one round each go where Flower's own FedYogi goes in two rounds of one start."""
    params = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    for rounds in (1, 2):
        strategy = HubStrategy(FedAvg(), model_id=model, hub=hub, aggregator="fedyogi", aggregator_params=params)
        result = strategy.start(Participants(3), record(_START), num_rounds=rounds)
    theirs = FedYogi(**params).start(Participants(3), record(_START), num_rounds=2)
    for name in _START:
        assert result.arrays[name].numpy() == pytest.approx(theirs.arrays[name].numpy(), rel=1e-4)


def test_a_reply_is_with_the_hub_while_others_are_at_work(hub: Client, model: uuid.UUID) -> None:
    grid, seen = Participants(3), []

    def last(index: int, message: Message) -> Message:
        if message.metadata.message_type != "train":
            return evaluate(index, message)
        until = time.monotonic() + 20
        while hub.get_model(model).updates.get("PENDING", 0) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        seen.append(hub.get_model(model).updates["PENDING"])
        return train(index, message)

    grid.answers[2] = last
    HubStrategy(FedAvg(), model_id=model, hub=hub).start(grid, record(_START), num_rounds=2)
    assert seen == [2, 2]
    assert hub.get_model(model).updates["COMPLETE"] == 6


def test_what_comes_twice_counts_once(hub: Client, model: uuid.UUID) -> None:
    grid = Participants(3)
    grid.copies = 2
    result = HubStrategy(FedAvg(), model_id=model, hub=hub).start(grid, record(_START), num_rounds=1)
    assert values_of(result.arrays)["w"] == [2.0] * 3
    assert hub.get_model(model).updates["COMPLETE"] == 3


def test_two_nodes_of_one_name_are_refused(hub: Client, model: uuid.UUID) -> None:
    """Only one of them would count, and no accuracy would tell why."""
    grid = Participants(3)
    grid.answers = {2: lambda _, message: train(1, message)}
    with pytest.raises(InvalidArgument, match="nodes 1001 and 1002 are both called 'partition 1'"):
        HubStrategy(FedAvg(), model_id=model, hub=hub).start(grid, record(_START), num_rounds=1)


@pytest.mark.parametrize("inner", [FedAdam(), DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 3)])
def test_a_strategy_whose_own_aggregation_would_not_be_asked_for_is_refused(
    hub: Client, model: uuid.UUID, inner: Any
) -> None:
    """Else FedAdam is the plain mean, and what is said to be private is not."""
    with pytest.raises(InvalidArgument, match="aggregates in a way of its own"):
        HubStrategy(inner, model_id=model, hub=hub)
    HubStrategy(inner, model_id=model, hub=hub, aggregator="fedadam")
    HubStrategy(inner, model_id=model, hub=hub, observe_only=True)
    HubStrategy(FedProx(proximal_mu=0.1), model_id=model, hub=hub)


def test_a_training_whose_last_rounds_gave_nothing_ends_with_what_there_was(hub: Client, model: uuid.UUID) -> None:
    HubStrategy(FedAvg(), model_id=model, hub=hub).start(Participants(2), record(_START), num_rounds=1)
    grid = Participants(2)
    grid.answers = dict.fromkeys(range(2), lambda _, message: Message(Error(code=3, reason="away"), reply_to=message))
    result = HubStrategy(FedAvg(), model_id=model, hub=hub).start(grid, record(_START), num_rounds=2)
    assert values_of(result.arrays)["w"] == [1.5] * 3


def test_who_fails_or_sends_nonsense_is_told_and_left_out(hub: Client, model: uuid.UUID) -> None:
    grid = Participants(9)
    grid.answers = {
        5: lambda _, message: Message(Error(code=3, reason="traceback " * 20_000), reply_to=message),
        6: lambda _, message: reply_with(message, {}, **{"num-examples": 10}),
        7: lambda _, message: reply_with(
            message, {"w": np.ones(3, np.complex64), "b": _START["b"]}, **{"num-examples": 1}
        ),
        8: lambda index, message: reply_with(
            message,
            {"w": np.full(3, 5, np.float32), "b": np.full(1, 6, np.float32)},
            **{"num-examples": 10, "num-steps": -1, "m" * 300: 1.0},
            **{f"m{number}": 1.0 for number in range(200)},
        ),
        0: lambda _, message: Message(Error(code=3, reason="out of memory"), reply_to=message),
        1: lambda _, message: reply_with(
            message, {"w": np.full(3, math.nan, np.float32), "b": _START["b"]}, **{"num-examples": 10}
        ),
        2: lambda _, message: reply_with(
            message, {"w": np.ones(4, np.float32), "b": _START["b"]}, **{"num-examples": 10}
        ),
        3: lambda _, message: reply_with(message, dict(_START)),
    }
    result = HubStrategy(
        FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=lambda *_: MetricRecord({"y" * 300: 1.0})),
        model_id=model,
        hub=hub,
    ).start(grid, record(_START), num_rounds=1)
    assert values_of(result.arrays) == {"w": [5.0] * 3, "b": [6.0]}
    reasons = ("out of memory", "traceback", "holds no arrays", "complex64", "NOT_FINITE", "SHAPE", "no 'num-examples'")
    until(lambda: all(reason in failures(hub, model) for reason in reasons))


def test_a_round_of_which_nothing_is_left_changes_nothing(hub: Client, model: uuid.UUID) -> None:
    grid = Participants(2)
    grid.answers = dict.fromkeys(range(2), lambda _, message: Message(Error(code=3, reason="away"), reply_to=message))
    result = HubStrategy(FedAvg(fraction_evaluate=0.0), model_id=model, hub=hub).start(
        grid, record(_START), num_rounds=1
    )
    assert not result.arrays
    assert hub.get_model(model).aggregates == 0


def test_a_round_of_too_few_for_its_aggregator_is_told_and_the_training_goes_on(hub: Client, model: uuid.UUID) -> None:
    """krum takes five. Two of five are away in the first round; what the others sent is replaced in the second."""
    grid = Participants(5)

    def away_at_first(index: int, message: Message) -> Message:
        if len(grid.rounds) <= 5:
            return Message(Error(code=3, reason="away"), reply_to=message)
        return train(index, message)

    grid.answers = dict.fromkeys(range(2), away_at_first)
    result = HubStrategy(
        FedAvg(fraction_evaluate=0.0),
        model_id=model,
        hub=hub,
        aggregator="krum",
        aggregator_params={"num_byzantine": 1},
    ).start(grid, record(_START), num_rounds=2)
    assert values_of(result.arrays)["w"][0] in (1, 2, 3, 4, 5)
    assert list(result.train_metrics_clientapp) == [2]
    until(lambda: "3 of 5 updates" in failures(hub, model))
    found = hub.get_model(model)
    assert (found.aggregates, found.updates["COMPLETE"]) == (1, 5)


def test_observed_only_flower_aggregates_and_the_hub_is_told(hub: Client, model: uuid.UUID) -> None:
    strategy = HubStrategy(FedAvg(), model_id=model, hub=hub, observe_only=True)
    result = strategy.start(Participants(3), record(_START), num_rounds=2)
    assert values_of(result.arrays)["w"] == [4.0] * 3
    until(lambda: hub.progress(model).status == "RESULTS_UPLOADED")
    until(lambda: (hub.progress(model).current_round, hub.progress(model).total_rounds) == (2, 2))
    assert hub.get_model(model).aggregates == 0


def test_a_model_that_was_stopped_is_not_trained_on(hub: Client, model: uuid.UUID) -> None:
    HubStrategy(FedAvg(), model_id=model, hub=hub).start(Participants(2), record(_START), num_rounds=1)
    hub.start_run(model, user_id="ada")
    hub.stop_model(model, user_id="ada")
    with pytest.raises(RoundNotPosted, match="was stopped"):
        HubStrategy(FedAvg(), model_id=model, hub=hub).start(Participants(2), record(_START), num_rounds=2)


def test_another_model_under_the_same_id_is_refused(hub: Client, model: uuid.UUID) -> None:
    HubStrategy(FedAvg(), model_id=model, hub=hub).start(Participants(2), record(_START), num_rounds=1)
    with pytest.raises(InvalidArgument, match="initial_arrays"):
        HubStrategy(FedAvg(), model_id=model, hub=hub).start(
            Participants(2), record({"other": np.zeros(2)}), num_rounds=2
        )


def test_a_policy_that_the_strategy_sets_itself_is_refused(hub: Client, model: uuid.UUID) -> None:
    with pytest.raises(InvalidArgument, match="requirement"):
        HubStrategy(FedAvg(), model_id=model, hub=hub, requirement="all_clients")
