"""The rounds of a server that leads, on a hub that really runs: no Flower, no FLARE, what both stand on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from config.loading import load_settings
from fedqueue import Client, InvalidArgument, RoundNotPosted
from fedqueue.bridges.rounds import NothingPosted, ServerRounds
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


def hand_in(rounds: ServerRounds, participant: str, value: float, **numbers: Any) -> str | None:
    """One participant's training, whose arrays are all of that value."""
    said = {"num_examples": 10.0} | numbers
    return rounds.submit(participant, {"w": np.full(3, value, np.float32)}, **said)


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


def test_what_comes_after_its_round_counts_in_no_other(hub: Client, model: UUID) -> None:
    """A participant that nobody waited for answers while the next round is under way."""
    late, rounds = begun(hub, model), begun(hub, model)
    late.open()
    rounds.open()
    hand_in(rounds, "north", 1)
    rounds.close()
    rounds.open()
    refusal = hand_in(late, "south", 100)
    assert refusal is not None
    assert "STALE" in refusal
    hand_in(rounds, "north", 3)
    assert rounds.close().arrays["w"].tolist() == [3.0] * 3


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
    refusal = rounds.submit("north", data, num_examples=10.0)
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


def test_a_server_that_failed_while_the_hub_was_to_post_goes_on_afterwards(hub: Client, model: UUID) -> None:
    """It had given its word that the round is complete, and told the hub of its own end in ERROR."""
    failed = begun(hub, model, timeout=1)
    failed.open()
    hand_in(failed, "north", 1)
    hub.pause_model(model)
    with pytest.raises(RoundNotPosted, match="aggregation is paused"):
        failed.close()
    hub.update_status(model, "ERROR")
    hub.resume_model(model)
    again = ServerRounds(hub, model, "test", timeout=30)
    newest = again.begin(lambda: pytest.fail("the model is there"), 3)
    assert newest.number == 1  # nothing that was complete is asked for again
    assert newest.arrays["w"].tolist() == [1.0] * 3
    again.open()
    hand_in(again, "north", 2)
    assert again.close().number == 2


def test_a_round_of_which_the_hub_sets_everything_aside_ends_at_once_and_says_why(hub: Client, model: UUID) -> None:
    """fednova can't weigh an update that does not tell its steps: found out when the round begins."""
    rounds = begun(hub, model, timeout=200, aggregator="fednova")
    rounds.open()
    assert hand_in(rounds, "north", 1) is None
    with pytest.raises(NothingPosted, match="num_steps is None"):
        rounds.close()
    assert rounds.open().number == 0
    # The same arrays with what was missing are an update of their own.
    assert hand_in(rounds, "north", 1, num_steps=5) is None
    assert rounds.close().number == 1


def test_a_round_of_too_few_updates_ends_at_once_and_what_is_there_counts_in_the_next(hub: Client, model: UUID) -> None:
    """krum takes five: what there is waits at the hub, and no server that is started anew waits for it."""
    policy: dict[str, Any] = {"aggregator": "krum", "aggregator_params": {"num_byzantine": 1}}
    rounds = begun(hub, model, timeout=200, **policy)
    rounds.open()
    for participant in ("north", "south", "west"):
        assert hand_in(rounds, participant, 1) is None
    with pytest.raises(NothingPosted, match="krum: 3 of 5 updates") as nothing:
        rounds.close()
    assert nothing.value.number == 0
    assert hub.get_model(model).requirement_args == {"number": 0}, "or the round went on by a late result"
    # A server that was killed after its word and before the hub's.
    hub.edit_model(model, requirement="released", requirement_args={"number": 1})
    again = begun(hub, model, timeout=200, **policy)
    assert again.open().number == 0
    for participant in ("east", "centre"):
        assert hand_in(again, participant, 1) is None
    assert again.close().number == 1
    assert hub.get_model(model).updates["COMPLETE"] == 5


def test_why_a_round_is_not_posted_is_told_when_its_time_is_over(hub: Client, model: UUID) -> None:
    rounds = begun(hub, model, timeout=1)
    rounds.open()
    hand_in(rounds, "north", 1)
    hub.pause_model(model)
    with pytest.raises(RoundNotPosted, match="within 1 s: paused, aggregation is paused"):
        rounds.close()


def test_a_round_that_comes_to_nothing_is_followed_by_one_from_the_same_model(hub: Client, model: UUID) -> None:
    """Whatever the hub has come to since: participants are given what they were given before, and it must say so."""
    policy: dict[str, Any] = {"aggregator": "krum", "aggregator_params": {"num_byzantine": 1}}
    rounds = begun(hub, model, **policy)
    rounds.open()
    for participant in ("north", "south", "west"):
        hand_in(rounds, participant, 1)
    with pytest.raises(NothingPosted):
        rounds.close()
    other = begun(hub, model, **policy)
    other.open()
    for participant in ("east", "centre"):
        hand_in(other, participant, 1)
    assert other.close().number == 1
    assert rounds.open().number == 0
    refusal = hand_in(rounds, "north", 2)
    assert refusal is not None
    assert "STALE" in refusal
    ahead = rounds.catch_up()
    assert ahead is not None
    assert ahead.number == 1


def test_a_training_whose_rounds_all_come_to_nothing_ends_and_says_why(hub: Client, model: UUID) -> None:
    rounds = begun(hub, model, aggregator="fednova")
    for value in (1, 2):
        rounds.open()
        hand_in(rounds, "north", value)
        with pytest.raises(NothingPosted, match=rf"num_steps is None.* \({value} of 3 in a row\)"):
            rounds.close()
    rounds.open()
    hand_in(rounds, "north", 3)
    with pytest.raises(RoundNotPosted, match=r"num_steps is None.*3 rounds in a row") as ended:
        rounds.close()
    assert not isinstance(ended.value, NothingPosted)


def test_a_model_that_was_stopped_is_not_taken_for_a_round_that_came_to_nothing(hub: Client, model: UUID) -> None:
    rounds = begun(hub, model, aggregator="fednova")
    rounds.open()
    hand_in(rounds, "north", 1)
    hub.stop_model(model)
    with pytest.raises(RoundNotPosted, match="STOPPED") as stopped:
        rounds.close()
    assert not isinstance(stopped.value, NothingPosted)


def test_an_older_word_that_comes_late_stops_no_round(hub: Client, model: UUID) -> None:
    """A message of an earlier round, delivered again after its worker was killed, takes the newest release back."""
    rounds = begun(hub, model, timeout=30)
    rounds.open()
    hand_in(rounds, "north", 1)
    hub.pause_model(model)
    with ThreadPoolExecutor(1) as server:
        closing = server.submit(rounds.close)
        until = time.monotonic() + 20
        while hub.get_model(model).requirement_args != {"number": 1}:
            assert time.monotonic() < until
            time.sleep(0.05)
        hub.edit_model(model, requirement="released", requirement_args={"number": 0})
        hub.resume_model(model)
        assert closing.result(30).number == 1


def test_a_round_in_which_everything_came_too_late_is_followed_by_one_that_knows_the_newest(
    hub: Client, model: UUID
) -> None:
    """The hub went on by the word of the server before, which was under way when that one was killed."""
    rounds = begun(hub, model)
    rounds.open()
    before = begun(hub, model)
    before.open()
    hand_in(before, "north", 1)
    before.close()
    refusal = hand_in(rounds, "south", 2)
    assert refusal is not None
    assert "STALE" in refusal
    ahead = rounds.catch_up()
    assert ahead is not None
    assert (ahead.number, ahead.arrays["w"].tolist()) == (1, [1.0] * 3)
    assert rounds.open().number == 1
    assert hand_in(rounds, "south", 2) is None
    assert rounds.close().number == 2


def test_an_aggregate_that_is_there_at_the_last_moment_is_taken(
    hub: Client, model: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's time is over, and the hub has posted since it was asked last: no answer comes within no time."""
    rounds = begun(hub, model, timeout=5)
    rounds.open()
    hand_in(rounds, "north", 1)

    def nobody_answers(_model_id: UUID, *, after: int, timeout: float) -> None:
        time.sleep(timeout)
        raise RoundNotPosted("no answer", after)

    monkeypatch.setattr(hub, "wait_for_aggregate", nobody_answers)
    assert rounds.close().number == 1


def test_a_result_that_comes_while_the_next_round_opens_is_of_the_one_it_was_trained_in(
    hub: Client, model: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data takes long to put: by then the server's round is another."""
    rounds = begun(hub, model)
    rounds.open()
    put = hub.put

    def put_slowly(data: Any) -> Any:
        monkeypatch.setattr(hub, "put", put)
        assert hand_in(rounds, "north", 1) is None
        rounds.close()
        rounds.open()
        return put(data)

    monkeypatch.setattr(hub, "put", put_slowly)
    refusal = hand_in(rounds, "south", 100)
    assert refusal is not None
    assert "STALE" in refusal


@pytest.mark.slow
def test_a_hub_that_is_away_in_the_middle_of_a_round_is_waited_for(tmp_path: Path) -> None:
    """Longer than the client waits for any answer by itself."""
    settings = load_settings(None, home=tmp_path / "hub")
    model = uuid4()
    with Client(settings.broker_url, settings.result_url, settings.store_url, timeout=5) as client:
        with Supervisor(settings):
            rounds = begun(client, model, timeout=100)
            rounds.open()
        with ThreadPoolExecutor(1) as server:
            submitted = server.submit(hand_in, rounds, "north", 1)
            time.sleep(6)
            assert not submitted.done()
            with Supervisor(settings):
                assert submitted.result(60) is None
                assert rounds.close().number == 1


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"aggregator": "fedyogi"}, "aggregator 'fedadam', not 'fedyogi'"),
        ({"aggregator": "fedadam", "aggregator_params": {"eta": 0.5}}, "eta 0.25, not 0.5"),
    ],
)
def test_a_model_that_aggregates_otherwise_than_its_server_says_is_refused(
    hub: Client, model: UUID, policy: dict[str, Any], said: str
) -> None:
    """Else whoever changes the line and starts again believes in results of an aggregator that never ran."""
    begun(hub, model, aggregator="fedadam", aggregator_params={"eta": 0.25})
    with pytest.raises(InvalidArgument, match=said):
        begun(hub, model, **policy)
    begun(hub, model)
    begun(hub, model, aggregator="fedadam", aggregator_params={"eta": 0.25})


def test_a_server_killed_in_its_round_ends_where_an_undisturbed_one_ends(hub: Client) -> None:
    """Bit for bit, given equal updates: the optimizer's moments are the hub's, and nothing counts twice."""

    def round_of(rounds: ServerRounds, number: int, participants: tuple[str, ...]) -> None:
        rounds.open()
        for participant in participants:
            hand_in(rounds, participant, number * 0.1 + len(participant), num_examples=float(len(participant)))

    models = {"undisturbed": uuid4(), "killed": uuid4()}
    ends = {}
    for kind, model in models.items():
        rounds = begun(hub, model, num_rounds=4, aggregator="fedadam")
        for number in range(1, 5):
            if kind == "killed" and number == 3:
                round_of(rounds, number, ("north", "southern"))  # one of three is missing: here it dies
                rounds = begun(hub, model, num_rounds=4, aggregator="fedadam")
            round_of(rounds, number, ("north", "southern", "west"))
            rounds.close()
        found = hub.get_model(model)
        assert (found.aggregates, found.updates["COMPLETE"], found.status) == (4, 12, "RESULTS_UPLOADED")
        ends[kind] = hub.fetch_latest(model)
    assert ends["killed"].latest.digest == ends["undisturbed"].latest.digest
