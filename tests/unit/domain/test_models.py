"""Models: a policy that can't work is refused when it is set, a repeat is harmless, changes are audited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from connectors.records import ModelStatus
from fedqueue.messages import (
    AddScore,
    CreateModel,
    DataRef,
    EditModel,
    LatestModel,
    Policy,
    PublishModel,
    RegisterClient,
)
from tasks.domain.errors import (
    InvalidModelData,
    InvalidPolicy,
    InvalidScore,
    ModelReused,
    UnknownAggregate,
    UnknownClient,
    UnknownModel,
    VersionTaken,
)
from tasks.domain.models import create_model, edit_model, publish_model, register_client, set_paused
from tasks.domain.rounds import run_round
from tasks.domain.scores import add_score
from tasks.domain.views import view_latest, view_model


@pytest.mark.parametrize(
    ("policy", "field", "words"),
    [
        ({"aggregator": "fedavgg"}, "aggregator", "did you mean 'fedavg'"),
        ({"aggregator_params": {"weightning": "uniform"}}, "aggregator_params", "did you mean 'weighting'"),
        ({"aggregator_params": {"weighting": "twice"}}, "aggregator_params", "weighting"),
        ({"requirement": "al_clients"}, "requirement", "did you mean 'all_clients'"),
        ({"requirement": "require_x_clients", "requirement_args": {"x": 0}}, "requirement_args.x", "greater than"),
        ({"update_schema": {"type": "aray"}}, "update_schema", "not a JSON Schema"),
        ({"client_agg_results_schema": {"minItems": -1}}, "client_agg_results_schema", "not a JSON Schema"),
    ],
)
def test_a_policy_that_can_not_work_is_refused_when_it_is_set(
    bench: Any, policy: dict[str, Any], field: str, words: str
) -> None:
    """In FMA a misspelt requirement disabled the gate (DESIGN 11)."""
    with pytest.raises(InvalidPolicy) as refused:
        create_model(bench.hub, CreateModel(model_id=uuid4(), **policy))
    assert refused.value.field == field
    assert words in refused.value.reason
    assert bench.metadata.pull_federated_models() == []


def test_an_aggregator_that_can_not_start_from_the_mean_needs_an_initial_model(bench: Any) -> None:
    """A plain mean in the first round would give away what differential privacy is to hide."""
    params = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
    message = CreateModel(
        model_id=uuid4(), data_format="json", aggregator="dp_fedavg", aggregator_params=params, requirement=None
    )
    with pytest.raises(InvalidPolicy, match="needs a model to start from") as refused:
        create_model(bench.hub, message)
    assert refused.value.field == "initial"
    assert create_model(bench.hub, message.model_copy(update={"initial_data": [0.0]})).aggregator == "dp_fedavg"
    plain, _ = bench.model()
    with pytest.raises(InvalidPolicy, match="needs a model to start from"):
        edit_model(
            bench.hub,
            EditModel(model_id=plain.uuid, changes=Policy(aggregator="dp_fedavg", aggregator_params=params)),
        )


def test_fmas_positional_arguments_are_kept_by_name(bench: Any) -> None:
    message = CreateModel(
        model_id=uuid4(), aggregator_params=["uniform"], requirement="require_x_updates", requirement_args=[3]
    )
    model = create_model(bench.hub, message)
    assert model.requirement_args == {"x": 3}
    assert model.aggregator_params["weighting"] == "uniform"


def test_creating_twice_makes_one_model(bench: Any) -> None:
    message = CreateModel(model_id=uuid4(), name="digits", clients=[uuid4()], user_id="u1")
    first, again = create_model(bench.hub, message), create_model(bench.hub, message)
    assert first == again
    assert first.status is ModelStatus.INITIATED
    assert [str(action) for action, _ in bench.metadata.pull_audit(first)] == ["CREATE", "INITIATED"]


def test_a_model_id_is_not_for_another_model(bench: Any) -> None:
    message = CreateModel(model_id=uuid4(), data_format="json", initial_data=[1.0])
    create_model(bench.hub, message)
    with pytest.raises(ModelReused):
        create_model(bench.hub, message.model_copy(update={"initial_data": [2.0]}))
    with pytest.raises(ModelReused):
        create_model(bench.hub, message.model_copy(update={"user_id": "somebody else"}))


def test_the_initial_model_is_the_first_to_train_from(bench: Any) -> None:
    model = create_model(bench.hub, CreateModel(model_id=uuid4(), data_format="json", initial_data=[[1, 2], [3]]))
    assert model.tensors == (("0", (2,), "F64"), ("1", (1,), "F64"))
    latest = view_latest(bench.hub, LatestModel(model_id=model.uuid, include_data=True))
    assert (latest.number, latest.aggregate_id, latest.data) == (0, None, [[1, 2], [3]])


def test_a_model_without_anything_to_train_from_says_so(bench: Any) -> None:
    model = create_model(bench.hub, CreateModel(model_id=uuid4()))
    latest = view_latest(bench.hub, LatestModel(model_id=model.uuid))
    assert (latest.number, latest.uri, latest.status) == (0, None, "PENDING")


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        ({"data_format": "json", "initial_data": ["x"]}, "initial_data", "SCHEMA"),
        ({"data_format": "safetensors", "initial_data": [1]}, "initial_data", "json"),
        ({"initial": DataRef(uri="file:///etc/passwd", digest="0" * 64)}, "initial", "file:///etc/passwd"),
    ],
)
def test_an_initial_model_that_can_not_be_read_is_refused(
    bench: Any, message: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidModelData) as refused:
        create_model(bench.hub, CreateModel(model_id=uuid4(), **message))
    assert refused.value.field == field
    assert words in refused.value.reason


def test_an_edit_changes_what_it_names_and_is_audited_once(bench: Any) -> None:
    model, _ = bench.model(name="before", furthest_base_agg=3)
    change = EditModel(model_id=model.uuid, changes=Policy(name="after"), user_id="u2")
    edited = edit_model(bench.hub, change)
    assert (edited.name, edited.furthest_base_agg, edited.requirement) == ("after", 3, None)
    edit_model(bench.hub, change)
    assert [(str(a), u) for a, u in bench.metadata.pull_audit(model)].count(("EDIT", "u2")) == 1


def test_an_edit_to_null_clears_the_field(bench: Any) -> None:
    model, _ = bench.model(max_rounds=5)
    edited = edit_model(bench.hub, EditModel(model_id=model.uuid, changes=Policy(max_rounds=None)))
    assert edited.max_rounds is None


def test_another_requirement_begins_with_its_own_arguments(bench: Any) -> None:
    model, _ = bench.model(requirement="require_x_clients", requirement_args={"x": 2})
    edited = edit_model(bench.hub, EditModel(model_id=model.uuid, changes=Policy(requirement="all_clients")))
    assert (edited.requirement, edited.requirement_args) == ("all_clients", None)


def test_an_edit_that_can_not_work_changes_nothing(bench: Any) -> None:
    model, _ = bench.model()
    with pytest.raises(InvalidPolicy):
        edit_model(bench.hub, EditModel(model_id=model.uuid, changes=Policy(name="x", requirement="nonsense")))
    assert bench.now(model) == model


@pytest.mark.parametrize("act", ["edit", "pause", "register", "publish", "score"])
def test_a_deleted_model_is_unknown_to_all(bench: Any, act: str) -> None:
    model, (one, _) = bench.model()
    with bench.metadata.transaction():
        bench.metadata.delete_federated_models([model])
    acts: dict[str, Callable[[], object]] = {
        "edit": lambda: edit_model(bench.hub, EditModel(model_id=model.uuid, changes=Policy(name="x"))),
        "pause": lambda: set_paused(bench.hub, model.uuid, True),
        "register": lambda: register_client(bench.hub, RegisterClient(model_id=model.uuid)),
        "publish": lambda: publish_model(bench.hub, PublishModel(model_id=model.uuid, version="1")),
        "score": lambda: add_score(
            bench.hub, AddScore(model_id=model.uuid, aggregate_id=1, client_id=one, validation_results={})
        ),
    }
    with pytest.raises(UnknownModel):
        acts[act]()


def test_registering_again_answers_the_same_client(bench: Any) -> None:
    model, _ = bench.model(clients=0)
    message = RegisterClient(model_id=model.uuid, client_id=uuid4(), name="Ward 3")
    assert register_client(bench.hub, message) == register_client(bench.hub, message)
    made, _name = register_client(bench.hub, RegisterClient(model_id=model.uuid))
    assert made != message.client_id
    assert len(bench.metadata.pull_model_clients(model)) == 2


def test_publishing_twice_gives_one_version(bench: Any) -> None:
    model, (one, two) = bench.model()
    bench.submit(model, one, [1.0])
    aggregate = bench.post(model)
    message = PublishModel(model_id=model.uuid, version="1.0", user_id="u1")
    first = publish_model(bench.hub, message)
    assert first.aggregate_id == aggregate.id
    bench.submit(model, two, [3.0])
    second = bench.post(model)
    assert publish_model(bench.hub, message) == first, "the repeat comes after a further round"
    with pytest.raises(VersionTaken):
        publish_model(bench.hub, message.model_copy(update={"aggregate_id": second.id}))


def test_a_model_tells_its_published_versions(bench: Any) -> None:
    """Oldest first; what it began with was published by nobody."""
    model, (one, two) = bench.model()
    assert view_model(bench.hub, model).published == []
    for client, version in ((one, "2"), (two, "1")):
        bench.submit(model, client, [1.0])
        bench.post(model)
        publish_model(bench.hub, PublishModel(model_id=model.uuid, version=version))
    assert [artifact.version for artifact in view_model(bench.hub, model).published] == ["2", "1"]


def test_a_final_version_ends_the_run(bench: Any) -> None:
    model, (one, _) = bench.model()
    bench.submit(model, one, [1.0])
    bench.post(model)
    publish_model(bench.hub, PublishModel(model_id=model.uuid, version="1", final=True))
    assert bench.now(model).status is ModelStatus.RESULTS_UPLOADED


def test_only_a_models_own_aggregate_can_be_published(bench: Any) -> None:
    model, _ = bench.model()
    other, (client, _) = bench.model()
    bench.submit(other, client, [1.0])
    foreign = bench.post(other)
    for aggregate_id in (None, 4711, foreign.id):
        with pytest.raises(UnknownAggregate):
            publish_model(bench.hub, PublishModel(model_id=model.uuid, version="1", aggregate_id=aggregate_id))


def test_a_score_is_held_to_the_models_schema(bench: Any) -> None:
    schema = {"type": "object", "required": ["accuracy"], "properties": {"accuracy": {"maximum": 1}}}
    model, (one, _) = bench.model(client_agg_results_schema=schema)
    bench.submit(model, one, [1.0])
    aggregate = bench.post(model)

    def score(results: dict[str, Any], client: Any = one) -> Any:
        message = AddScore(model_id=model.uuid, aggregate_id=aggregate.id, client_id=client, validation_results=results)
        return add_score(bench.hub, message)

    with pytest.raises(InvalidScore, match="'accuracy' is a required property"):
        score({})
    with pytest.raises(InvalidScore, match=r"\$\.accuracy: 2 is greater than the maximum"):
        score({"accuracy": 2})
    with pytest.raises(UnknownClient):
        score({"accuracy": 1}, client=uuid4())
    assert score({"accuracy": 0.5}).score.validation_results == {"accuracy": 0.5}


def test_a_model_is_shown_with_its_counts(bench: Any) -> None:
    model, (one, two) = bench.model(requirement="all_clients")
    bench.submit(model, one, [1.0])
    bench.submit(model, two, ["x"])
    view = view_model(bench.hub, bench.now(model))
    assert (view.clients, view.aggregates, view.requirement) == (2, 0, "all_clients")
    assert (view.updates["PENDING"], view.updates["INVALID"], view.updates["COMPLETE"]) == (1, 1, 0)


def test_the_latest_is_the_newest_aggregate_with_its_parent(bench: Any) -> None:
    model, (one, _) = bench.model(initial_data=[0.0])
    bench.submit(model, one, [1.0], num_examples=7)
    first = bench.post(model)
    bench.submit(model, one, [2.0], base_aggregate=first.id)
    second = bench.post(model)
    latest = view_latest(bench.hub, LatestModel(model_id=model.uuid, include_data=True))
    assert (latest.number, latest.aggregate_id, latest.parent_id) == (2, second.id, first.id)
    assert (latest.data, latest.uri, latest.digest) == ([2.0], second.data.uri, second.data.digest)
    assert run_round(bench.hub, model.id).outcome == "idle"
