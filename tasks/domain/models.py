"""Models: made, edited, paused, published; their clients registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from connectors.errors import AlreadyExists, ModelDataError
from connectors.model_data import find_not_finite
from connectors.records import (
    AuditAction,
    BlobRef,
    DataFormat,
    FederatedModel,
    ModelArtifact,
    ModelStatus,
    TensorSpec,
)
from fedqueue.messages import CreateModel, EditModel, Policy, PublishModel, RegisterClient
from tasks.aggregation import AggregationError, check_params, find_aggregator
from tasks.domain.buffers import is_asynchronous
from tasks.domain.errors import (
    InvalidModelData,
    InvalidPolicy,
    ModelReused,
    UnknownAggregate,
    UnknownModel,
    VersionTaken,
)
from tasks.domain.json_schemas import find_schema_fault
from tasks.domain.lifecycle import advance
from tasks.domain.notifications import tell
from tasks.domain.requirements import check_requirement
from tasks.hub import Hub

INITIAL_VERSION = "initial"


def find_model(hub: Hub, model_id: UUID | int, *, deleted: bool = False) -> FederatedModel:
    """The model; a deleted one only with `deleted`. Raises: UnknownModel."""
    model = hub.metadata.pull_federated_model_w_id(model_id)
    if model is None or (model.deleted and not deleted):
        raise UnknownModel(model_id)
    return model


def lock_model(hub: Hub, model_id: UUID) -> FederatedModel:
    """The model as it stands, its row locked until the transaction ends. Raises: UnknownModel."""
    model = hub.metadata.lock_model(find_model(hub, model_id))
    if model.deleted:  # while this one waited for the lock
        raise UnknownModel(model_id)
    return model


def create_model(hub: Hub, message: CreateModel) -> FederatedModel:
    """A new model; the same message again answers the same model.

    Raises: InvalidPolicy, InvalidModelData, ModelReused.
    """
    if is_asynchronous(message.aggregator) and "requirement" not in message.model_fields_set:
        message = message.model_copy(update={"requirement": None})
    policy = _checked_policy(message, CreateModel.model_fields.keys() & Policy.model_fields.keys())
    initial, tensors = _take_initial(hub, message)
    _check_start(message.aggregator, initial is not None)
    described = FederatedModel(
        id=0,
        uuid=message.model_id,
        user_id=message.user_id,
        project_id=message.project_id,
        data_format=DataFormat(message.data_format),
        tensors=tensors,
        **policy,
    )
    found = hub.metadata.pull_federated_model_w_id(message.model_id)
    if found is not None:
        return _same_or_refused(hub, found, described, initial)

    def insert(_: object) -> FederatedModel:
        model = hub.metadata.add_federated_model(described)
        hub.metadata.add_audit(model, AuditAction.CREATE, message.user_id)
        if initial is not None:
            hub.model_data.hold(initial)
            artifact = hub.metadata.add_model_artifact(ModelArtifact(0, model.id, INITIAL_VERSION, initial))
            model = hub.metadata.change_federated_model(model, {"initial_artifact_id": artifact.id})
        for client_id in message.clients:
            hub.metadata.register_client(model, client_id)
        return advance(hub, model, ModelStatus.INITIATED) if message.clients else model

    try:
        return hub.metadata.transact(insert)
    except AlreadyExists:  # the same message, at the same moment, in another worker
        found = hub.metadata.pull_federated_model_w_id(message.model_id)
        assert found is not None
        return _same_or_refused(hub, found, described, initial)


def edit_model(hub: Hub, message: EditModel) -> FederatedModel:
    """The model with the named fields changed; audited if anything did. Raises: UnknownModel, InvalidPolicy."""

    def change(_: object) -> FederatedModel:
        model = lock_model(hub, message.model_id)
        standing = Policy(**{name: _wire_value(getattr(model, name)) for name in Policy.model_fields if name != "v"})
        named = message.changes.model_fields_set - {"v"}
        for name, arguments in (("aggregator", "aggregator_params"), ("requirement", "requirement_args")):
            # The arguments belong to the name: another name begins with its own defaults.
            if name in named and getattr(message.changes, name) != getattr(model, name):
                named |= {arguments}
        changes = _checked_policy(standing.model_copy(update=_named(message.changes, named)), named)
        _check_start(
            changes.get("aggregator", model.aggregator), model.head > 0 or model.initial_artifact_id is not None
        )
        differing = {name: value for name, value in changes.items() if getattr(model, name) != value}
        if not differing:
            return model
        hub.metadata.add_audit(model, AuditAction.EDIT, message.user_id)
        return hub.metadata.change_federated_model(model, differing)

    return hub.metadata.transact(change)


def set_paused(hub: Hub, model_id: UUID, paused: bool, user_id: str | None = None) -> FederatedModel:
    """The model, claiming no rounds while paused; updates go on coming in. Raises: UnknownModel."""

    def change(_: object) -> FederatedModel:
        model = lock_model(hub, model_id)
        if model.allow_aggregation is not paused:
            return model
        hub.metadata.add_audit(model, AuditAction.EDIT, user_id)
        return hub.metadata.change_federated_model(model, {"allow_aggregation": not paused})

    return hub.metadata.transact(change)


def register_client(hub: Hub, message: RegisterClient) -> tuple[UUID, str]:
    """The client's id and name; the first one takes the model from PENDING to INITIATED. Raises: UnknownModel."""
    client_id = message.client_id or uuid4()

    def register(_: object) -> tuple[UUID, str]:
        model = lock_model(hub, message.model_id)
        client, _is_new = hub.metadata.register_client(model, client_id, message.name)
        advance(hub, model, ModelStatus.INITIATED)
        return client.uuid, client.name

    return hub.metadata.transact(register)


def publish_model(hub: Hub, message: PublishModel) -> ModelArtifact:
    """The aggregate (None: the latest) as a version of the model, for good; `final` ends the run.

    Raises: UnknownModel, UnknownAggregate, VersionTaken.
    """

    def publish(_: object) -> ModelArtifact:
        metadata = hub.metadata
        model = lock_model(hub, message.model_id)
        if message.aggregate_id is None:
            aggregate = metadata.pull_latest_model_aggregate(model)
        else:
            aggregate = metadata.pull_model_aggregate(message.aggregate_id)
        if aggregate is None or aggregate.model_id != model.id:
            raise UnknownAggregate(message.aggregate_id, message.model_id, "aggregate_id")
        found = metadata.pull_model_artifact(model, message.version)
        if found is not None:
            # A repeat that names no aggregate may come after a further round: the version stays what it was.
            if message.aggregate_id in (None, found.aggregate_id) and found.aggregate_id is not None:
                return found
            raise VersionTaken(message.version, message.model_id)
        artifact = metadata.add_model_artifact(
            ModelArtifact(0, model.id, message.version, aggregate.data, aggregate.id)
        )
        metadata.add_audit(model, AuditAction.PUBLISH, message.user_id)
        details = {
            "version": artifact.version,
            "aggregate_id": aggregate.id,
            "uri": artifact.data.uri,
            "digest": artifact.data.digest,
        }
        tell(hub, model, "artifact.published", f"artifact.published:{model.uuid}:{artifact.version}", details)
        if message.final:
            finish_model(hub, model, message.user_id)
        return artifact

    return hub.metadata.transact(publish)


def finish_model(hub: Hub, model: FederatedModel, user_id: str | None = None) -> FederatedModel:
    """The model as RESULTS_UPLOADED, if its run was not over yet; others are told once. `model` must be locked."""
    return advance(hub, model, ModelStatus.RESULTS_UPLOADED, user_id)


# --- parts ----------------------------------------------------------------------------------------


def _checked_policy(policy: Policy, names: set[str] | frozenset[str]) -> dict[str, Any]:
    """The named fields of the policy as a model keeps them, checked against one another."""
    try:
        params = check_params(policy.aggregator, policy.aggregator_params)
    except AggregationError as error:
        at_name = type(error).__name__ == "UnknownAggregator"
        raise InvalidPolicy(str(error), field="aggregator" if at_name else "aggregator_params") from error
    requirement, arguments = check_requirement(policy.requirement, policy.requirement_args)
    for field in ("update_schema", "client_agg_results_schema"):
        _check_schema(field, getattr(policy, field))
    checked = _named(policy, names)
    checked |= {
        name: value
        for name, value in (
            ("aggregator_params", params.model_dump(mode="json")),
            ("requirement", requirement),
            ("requirement_args", arguments),
            # Who waits for nobody may come twice before the slowest has come once.
            (
                "allow_repeats",
                is_asynchronous(policy.aggregator) if policy.allow_repeats is None else policy.allow_repeats,
            ),
        )
        if name in names
    }
    return checked


def _check_start(aggregator: str, has_model: bool) -> None:
    if not has_model and not find_aggregator(aggregator).may_start_from_mean:
        raise InvalidPolicy(
            f"{aggregator} needs a model to start from: create the model with an initial one", field="initial"
        )


def _named(policy: Policy, names: set[str] | frozenset[str]) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in names if name != "v"}


def _wire_value(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _check_schema(field: str, schema: Mapping[str, Any] | None) -> None:
    fault = None if schema is None else find_schema_fault(schema)
    if fault is not None:
        raise InvalidPolicy(fault, field=field)


def _take_initial(hub: Hub, message: CreateModel) -> tuple[BlobRef | None, tuple[TensorSpec, ...] | None]:
    """The initial model in the store, and what it looks like."""
    field = "initial" if message.initial is not None else "initial_data"
    if message.initial is not None and message.initial_data is not None:
        raise InvalidModelData("give initial or initial_data, not both", field="initial_data")
    data_format = DataFormat(message.data_format)
    try:
        if message.initial is not None:
            taken = hub.model_data.take_in(message.initial.uri, message.initial.digest)
            blob = hub.model_data.normalise(taken, data_format)
        elif message.initial_data is not None:
            if data_format is not DataFormat.JSON:
                raise InvalidModelData('inline data needs data_format "json"', field=field)
            nobody = FederatedModel(id=0, uuid=message.model_id)
            blob = hub.model_data.push_model_data_to_storage(nobody, json.dumps(message.initial_data).encode())
        else:
            return None, None
        reader = hub.model_data.open(blob, data_format)
        try:
            not_finite = find_not_finite(reader)
            if not_finite is not None:
                raise InvalidModelData(f"{not_finite}: a model must be finite", field=field)
            return blob, reader.tensors
        finally:
            reader.close()
    except ModelDataError as error:
        raise InvalidModelData(f"{error.reason_code}: {error.reason}", field=field) from error


def _same_or_refused(
    hub: Hub, found: FederatedModel, described: FederatedModel, initial: BlobRef | None
) -> FederatedModel:
    """The model that is there, if it is the one described. What may have been edited since is not compared."""
    if found.deleted:
        raise ModelReused(described.uuid, deleted=True)
    artifact = hub.metadata.pull_model_artifact(found, INITIAL_VERSION)
    same_initial = (artifact.data.digest if artifact else None) == (initial.digest if initial else None)
    fixed = ("data_format", "user_id", "project_id")
    if same_initial and all(getattr(found, name) == getattr(described, name) for name in fixed):
        return found
    raise ModelReused(described.uuid)
