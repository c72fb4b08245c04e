"""What the client puts on the wire, and what it makes of the answers. The hub at the other end is a scripted one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from numpy.typing import ArrayLike

import fedqueue
from fedqueue import (
    Client,
    HubFailed,
    InvalidArgument,
    LimitExceeded,
    NoAnswer,
    Rejected,
    RoundNotPosted,
    UpdateRejected,
)
from fedqueue.answers import Reply
from fedqueue.arguments import PolicyFields
from fedqueue.blobs import STORE_MARK
from fedqueue.messages import (
    AddScore,
    CreateModel,
    EditModel,
    Message,
    Policy,
    PublishModel,
    RegisterClient,
    SubmitModelUpdate,
)
from fedqueue.messages import names as wire

MODEL = UUID(int=1)
CLIENT = UUID(int=2)
Answers = Callable[[str, Mapping[str, Any]], Any]


class ScriptedHub:
    """A transport to a hub that is one function: (task, message) -> what the task returns."""

    def __init__(self, answers: Answers) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.closed = False
        self._answers = answers
        self._replies: dict[str, Reply] = {}

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        self.sent.append((task, dict(message)))
        self._replies[task_id] = Reply(value=self._answers(task, message))

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        return self._replies[task_id]

    def close(self) -> None:
        self.closed = True


def model_view(message: Mapping[str, Any]) -> dict[str, Any]:
    view = {
        "model_id": message["model_id"],
        "name": "",
        "description": "",
        "aggregator": "fedavg",
        "aggregator_params": {},
        "requirement": None,
        "requirement_args": None,
        "furthest_base_agg": None,
        "allow_repeats": False,
        "max_rounds": None,
        "data_format": "json",
        "status": "PENDING",
        "allow_aggregation": True,
        "aggregates": 0,
        "clients": 0,
        "updates": {},
    }
    return {"value": view}


def update_view(message: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    view = {"update_id": 5, "submission_id": message["submission_id"], "status": "PENDING"}
    return {"value": view | fields}


def latest_view(number: int, status: str = "RUNNING") -> dict[str, Any]:
    return {"value": {"model_id": str(MODEL), "number": number, "data_format": "json", "status": status}}


def client_of(answers: Answers, tmp_path: Path | None = None) -> tuple[Client, ScriptedHub]:
    hub = ScriptedHub(answers)
    if tmp_path is not None:
        (tmp_path / STORE_MARK).touch()
    return Client(transport=hub, store_url=None if tmp_path is None else tmp_path.as_uri()), hub


def no_answer(task: str, message: Mapping[str, Any]) -> Any:
    raise AssertionError(f"{task} was sent")


def test_a_model_id_is_made_here_so_that_a_repeat_creates_no_second_model() -> None:
    client, hub = client_of(lambda task, message: model_view(message))
    view = client.create_model(name="digits", initial=[1, 2], requirement="require_x_clients", requirement_args=[3])
    ((task, message),) = hub.sent
    created = CreateModel.model_validate(message)
    assert task == wire.MODELS_CREATE
    assert created.model_id == view.model_id
    assert (created.name, created.data_format, created.initial_data) == ("digits", "json", [1, 2])
    assert (created.requirement, created.requirement_args) == ("require_x_clients", [3])


def test_initial_arrays_make_a_safetensors_model_by_reference(tmp_path: Path) -> None:
    client, hub = client_of(lambda task, message: model_view(message), tmp_path)
    client.create_model(initial={"w": np.ones(2)})
    created = CreateModel.model_validate(hub.sent[0][1])
    assert created.data_format == "safetensors"
    assert created.initial is not None
    assert created.initial_data is None


def test_an_initial_model_of_another_format_than_said_is_refused_before_sending() -> None:
    client, _ = client_of(no_answer)
    with pytest.raises(InvalidArgument, match="data_format says safetensors"):
        client.create_model(initial=[1, 2], data_format="safetensors")


def test_an_initial_model_of_numpys_makes_a_safetensors_model(tmp_path: Path) -> None:
    client, hub = client_of(lambda task, message: model_view(message), tmp_path)
    np.savez(tmp_path / "start.npz", w=np.ones(2))
    client.create_model(initial=tmp_path / "start.npz")
    created = CreateModel.model_validate(hub.sent[0][1])
    assert created.data_format == "safetensors"
    assert created.initial is not None
    with pytest.raises(InvalidArgument, match="is kept as safetensors, but data_format says json"):
        client.create_model(initial=tmp_path / "start.npz", data_format="json")


def test_an_edit_names_only_what_it_changes() -> None:
    """Everything else, absent, stays; a null is a value like any other."""
    client, hub = client_of(lambda task, message: model_view(message))
    client.edit_model(MODEL, furthest_base_agg=None, name="new")
    edit = EditModel.model_validate(hub.sent[0][1])
    assert edit.changes.model_fields_set == {"furthest_base_agg", "name"}


def test_every_field_of_the_policy_is_a_keyword_here() -> None:
    assert set(PolicyFields.__annotations__) == set(Policy.model_fields) - {"v"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Client.submit_update, SubmitModelUpdate),
        (Client.add_score, AddScore),
        (Client.publish, PublishModel),
        (Client.register_client, RegisterClient),
    ],
)
def test_every_field_of_a_message_can_be_given(call: Callable[..., Any], message: type[Message]) -> None:
    """A field added to the wire and forgotten here could be used by no one."""
    assert set(message.model_fields) - set(signature(call).parameters) <= {"v", "data_uri", "digest"}


def test_a_client_id_is_made_here_so_that_a_repeat_registers_no_second_client() -> None:
    client, hub = client_of(lambda task, m: {"value": {"client_id": m["client_id"], "name": m["name"]}})
    view = client.register_client(MODEL, name="north")
    assert RegisterClient.model_validate(hub.sent[0][1]).client_id == view.client_id


def test_an_update_of_arrays_goes_by_reference_and_keeps_the_submission_id_given(tmp_path: Path) -> None:
    client, hub = client_of(lambda task, message: update_view(message), tmp_path)
    submission_id = uuid4()
    view = client.submit_update(
        str(MODEL), CLIENT, {"w": [1.0]}, num_examples=4, base_aggregate=9, submission_id=submission_id
    )
    update = SubmitModelUpdate.model_validate(hub.sent[0][1])
    assert view.submission_id == update.submission_id == submission_id
    assert (update.model_id, update.num_examples, update.base_aggregate) == (MODEL, 4.0, 9)
    assert update.data is None
    assert update.data_uri is not None
    assert update.digest == update.data_uri[-64:]


def test_without_waiting_the_submission_id_is_the_answer() -> None:
    client, hub = client_of(lambda task, message: None)
    submission_id = client.submit_update(MODEL, CLIENT, [1.0], num_examples=1, wait=False)
    assert hub.sent[0][1]["submission_id"] == str(submission_id)


Breaking: list[tuple[str, dict[str, Any]]] = [
    ("num_examples", {"num_examples": 0}),
    ("num_examples", {"num_examples": float("nan")}),
    ("num_examples", {"num_examples": True}),
    ("model_id", {"model_id": "digits"}),
    ("client_id", {"client_id": 3}),
    ("submission_id", {"submission_id": "first"}),
    ("base_aggregate", {"base_aggregate": "latest"}),
    ("metrics.loss", {"metrics": {"loss": "low"}}),
    ("metrics.loss", {"metrics": {"loss": float("inf")}}),
    ("timeout", {"timeout": -1}),
    ("data", {"data": "model.pkl"}),
]


@pytest.mark.parametrize(("field", "argument"), Breaking)
def test_a_bad_argument_is_named_before_anything_is_sent(field: str, argument: dict[str, Any]) -> None:
    client, _ = client_of(no_answer)
    arguments: dict[str, Any] = {"model_id": MODEL, "client_id": CLIENT, "data": [1.0], "num_examples": 1}
    with pytest.raises(InvalidArgument) as refused:
        client.submit_update(**arguments | argument)
    assert refused.value.field == field


def test_a_misspelt_keyword_is_refused_by_name() -> None:
    client, _ = client_of(no_answer)
    with pytest.raises(InvalidArgument) as refused:
        client.create_model(agregator="fedavg")  # type: ignore[call-arg]
    assert refused.value.field == "agregator"


def test_a_rejection_is_raised_with_its_kind_its_field_and_its_reason() -> None:
    rejection = {"kind": "UnknownAggregator", "field": "aggregator", "reason": "did you mean fedavg?"}
    client, _ = client_of(lambda task, message: {"rejection": rejection})
    with pytest.raises(Rejected, match=r"UnknownAggregator: aggregator: did you mean fedavg\?") as rejected:
        client.create_model(aggregator="fedvag")
    assert (rejected.value.kind, rejected.value.field) == ("UnknownAggregator", "aggregator")


def test_an_update_set_aside_as_invalid_is_raised_with_its_reason_code() -> None:
    client, _ = client_of(
        lambda task, message: update_view(message, status="INVALID", reason_code="SHAPE", reason="w is (3,)")
    )
    with pytest.raises(UpdateRejected, match=r"SHAPE: w is \(3,\)") as rejected:
        client.submit_update(MODEL, CLIENT, [1.0], num_examples=1)
    assert (rejected.value.reason_code, rejected.value.update_id) == ("SHAPE", 5)
    assert isinstance(rejected.value, Rejected)


def test_an_answer_of_another_version_is_a_fault_of_the_hub() -> None:
    client, _ = client_of(lambda task, message: {"value": {"unheard": "of"}})
    with pytest.raises(HubFailed, match="of one version"):
        client.get_model(MODEL)


def test_waiting_ends_with_the_first_aggregate_above_the_one_known() -> None:
    numbers = iter([3, 3, 4])
    client, hub = client_of(lambda task, message: latest_view(next(numbers)))
    assert client.wait_for_aggregate(MODEL, after=3, timeout=10).number == 4
    assert len(hub.sent) == 3


def test_waiting_gives_up_with_what_was_seen_last() -> None:
    client, _ = client_of(lambda task, message: latest_view(3))
    with pytest.raises(RoundNotPosted, match=r"no aggregate above 3 within 0\.2 s: its newest aggregate is 3") as late:
        client.wait_for_aggregate(MODEL, after=3, timeout=0.2)
    assert late.value.number == 3


@pytest.mark.parametrize("status", ["STOPPED", "ERROR", "RESULTS_UPLOADED"])
def test_nobody_waits_for_a_round_of_a_model_whose_run_is_over(status: str) -> None:
    client, hub = client_of(lambda task, message: latest_view(3, status))
    with pytest.raises(RoundNotPosted, match=status):
        client.wait_for_aggregate(MODEL, after=3)
    assert len(hub.sent) == 1


def test_a_hub_that_is_away_while_one_waits_is_waited_for() -> None:
    outcomes: Iterator[NoAnswer | int] = iter([NoAnswer("asleep", {}), 4])

    def answers(task: str, message: Mapping[str, Any]) -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, NoAnswer):
            raise outcome
        return latest_view(outcome)

    client, _ = client_of(answers)
    assert client.wait_for_aggregate(MODEL, after=3, timeout=10).number == 4


def test_a_json_models_values_come_inline() -> None:
    answer = latest_view(1)
    answer["value"] |= {"data": [3.0, 2.0], "uri": "file:///s", "digest": "0" * 64}
    client, _ = client_of(lambda task, message: answer)
    assert client.fetch_latest(MODEL).data == [3.0, 2.0]


def test_before_there_is_any_model_nothing_is_fetched() -> None:
    client, _ = client_of(lambda task, message: latest_view(0))
    fetched = client.fetch_latest(MODEL)
    assert (fetched.number, fetched.aggregate_id, fetched.arrays, fetched.data) == (0, None, {}, None)


def test_a_models_arrays_are_read_from_the_store(tmp_path: Path) -> None:
    client, hub = client_of(lambda task, message: update_view(message), tmp_path)
    arrays: dict[str, ArrayLike] = {"w": np.array([1.0, 2.0])}
    client.submit_update(MODEL, CLIENT, arrays, num_examples=1)
    stored = hub.sent[0][1]
    answer = latest_view(1)
    answer["value"] |= {"data_format": "safetensors", "uri": stored["data_uri"], "digest": stored["digest"]}
    reader, _ = client_of(lambda task, message: answer, tmp_path)
    assert reader.fetch_latest(MODEL).arrays["w"].tolist() == [1.0, 2.0]


def test_leaving_the_block_gives_the_connections_back() -> None:
    hub = ScriptedHub(no_answer)
    with Client(transport=hub):
        assert not hub.closed
    assert hub.closed


def test_the_package_hands_out_every_name_it_promises() -> None:
    assert all(getattr(fedqueue, name) is not None for name in fedqueue.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        fedqueue.Clint  # noqa: B018


def refusing(times: int, retry_after: float) -> tuple[Answers, list[Mapping[str, Any]]]:
    """A hub whose limit is met so many times, and the messages that it was sent."""
    came: list[Mapping[str, Any]] = []

    def answers(task: str, message: Mapping[str, Any]) -> Any:
        came.append(message)
        if len(came) > times:
            return update_view(message)
        limit = {"rule": "client_open_updates", "limit": 3, "found": 4, "retry_after": retry_after}
        return {"rejection": {"kind": "LimitExceeded", "field": "client_id", "reason": "too many", "limit": limit}}

    return answers, came


def test_a_limit_is_told_with_what_it_is_and_when_to_come_again() -> None:
    answers, came = refusing(1, 5.0)
    client, _ = client_of(answers)
    with pytest.raises(LimitExceeded, match="too many") as refused:
        client.submit_update(MODEL, CLIENT, [1.0], num_examples=1)
    told = refused.value
    assert (told.rule, told.limit, told.found, told.retry_after) == ("client_open_updates", 3, 4, 5.0)
    assert (told.kind, told.field, len(came)) == ("LimitExceeded", "client_id", 1)


def test_who_has_patience_sends_the_same_again_when_the_hub_says() -> None:
    answers, came = refusing(2, 0.01)
    client, _ = client_of(answers)
    assert client.submit_update(MODEL, CLIENT, [1.0], num_examples=1, patience=10).status == "PENDING"
    assert len(came) == 3
    assert came[0] == came[1] == came[2]


def test_patience_that_would_not_last_until_then_is_not_tried() -> None:
    answers, came = refusing(2, 3600.0)
    client, _ = client_of(answers)
    with pytest.raises(LimitExceeded):
        client.submit_update(MODEL, CLIENT, [1.0], num_examples=1, patience=10)
    assert len(came) == 1
