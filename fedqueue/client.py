"""The client: how another service uses a hub, without importing any of it."""

from __future__ import annotations

import math
import os
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload
from uuid import UUID

from fedqueue.arguments import Id, PolicyFields, as_message, as_seconds, as_uuid
from fedqueue.asking import Asking
from fedqueue.crowding import DEFAULT_MOST
from fedqueue.endpoint import find_endpoint, find_signing
from fedqueue.errors import InvalidArgument, LimitExceeded, UpdateRejected
from fedqueue.feed_calls import FeedCalls
from fedqueue.messages import (
    AddScore,
    ArtifactView,
    ClientView,
    CreateModel,
    EditModel,
    ModelView,
    Policy,
    PublishModel,
    RegisterClient,
    ScoreView,
    SubmitModelUpdate,
    UpdateView,
)
from fedqueue.messages import names as wire
from fedqueue.model_calls import ModelCalls
from fedqueue.payload import ModelData, Payload
from fedqueue.reading_calls import ReadingCalls
from fedqueue.remote_stores import open_store
from fedqueue.run_calls import RunCalls
from fedqueue.transport import CeleryTransport, Transport
from fedqueue.trust_calls import TrustCalls

DataFormatName = Literal["safetensors", "json"]


class Client(ModelCalls, RunCalls, TrustCalls, FeedCalls, ReadingCalls):
    """A hub, seen from a service that submits to it.

    Without arguments it finds the hub in FEDQUEUE_BROKER_URL, FEDQUEUE_RESULT_URL and FEDQUEUE_STORE_URL, else in the
    file that `python -m worker up` leaves in `.fedqueue` (or FEDQUEUE_HOME). One client may be shared by threads and
    survives a fork. Calls that get no answer are repeated under the same id until `timeout` seconds are over; the hub
    carries out each once.

    Every call raises: InvalidArgument (nothing was sent), Rejected (the hub refused), HubUnavailable or NoAnswer
    (unknown whether it was carried out; says how to repeat), HubFailed (a fault of the hub). Updates and events wait
    while `max_waiting` of their kind (twice as many, if the call waits for its answer) wait at the broker already, and
    raise HubBusy when their time is over.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_url: str | None = None,
        store_url: str | None = None,
        *,
        timeout: float = 30.0,
        resend_after: float = 3.0,
        max_waiting: int = DEFAULT_MOST,
        signing_key: str | os.PathLike[str] | None = None,
        signing_certificate: str | os.PathLike[str] | None = None,
        trusted_certificates: str | os.PathLike[str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Connects to nothing yet. Raises: EndpointUnknown, InvalidArgument.

        `store_url` is the hub's store: a folder, a bucket for which this process has credentials, or "signed": data
        goes to the hub's bucket and comes from it by URLs that the hub signs.
        TLS is `rediss://` or `amqps://` with `?ssl_ca_certs=/ca.pem`. With the three signing files (or
        FEDQUEUE_SIGNING_KEY, _CERTIFICATE, _TRUSTED_CERTIFICATES) messages are signed, and no answer is believed that
        is not: docs/security.md.
        """
        self.timeout = as_seconds(timeout, "timeout")
        if transport is None:
            endpoint = find_endpoint(broker_url, result_url, store_url)
            signing = find_signing(signing_key, signing_certificate, trusted_certificates)
            endpoint = replace(endpoint, signing=signing)
            store_url = endpoint.store_url
            transport = CeleryTransport(endpoint, max_waiting=max_waiting)
        self._transport = transport
        self._asking = Asking(transport, as_seconds(resend_after, "resend_after"))
        self._store = open_store(store_url, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    # --- models ---------------------------------------------------------------------------------------------------

    def create_model(
        self,
        *,
        initial: ModelData | None = None,
        data_format: DataFormatName | None = None,
        clients: Sequence[Id] = (),
        model_id: Id | None = None,
        user_id: str | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
        **policy: Unpack[PolicyFields],
    ) -> ModelView:
        """A new model, open for updates.

        `initial`: named arrays, the path of a .safetensors, .npz, .npy or .json file, or FMA's lists. `data_format` is
        what the model is kept in: "json" for lists and .json files, else "safetensors". Created once however often it
        is sent with one `model_id` (made here if none is given).
        """
        model_id = as_uuid(model_id or uuid.uuid4(), "model_id")
        fields: dict[str, Any] = dict(policy)
        if initial is not None:
            payload = self._store.take(initial, "initial")
            if data_format not in (None, payload.data_format):
                raise InvalidArgument(
                    "initial", f"is kept as {payload.data_format}, but data_format says {data_format}"
                )
            fields |= {"data_format": payload.data_format, "initial": payload.ref, "initial_data": payload.inline}
        elif data_format is not None:
            fields["data_format"] = data_format
        message = as_message(
            CreateModel, model_id=model_id, clients=list(clients), user_id=user_id, project_id=project_id, **fields
        )
        return self._ask(wire.MODELS_CREATE, message, ModelView, {"model_id": model_id}, timeout)

    def edit_model(
        self, model_id: Id, *, user_id: str | None = None, timeout: float | None = None, **changes: Unpack[PolicyFields]
    ) -> ModelView:
        """The model with the named fields changed and all others as they were."""
        model_id = as_uuid(model_id, "model_id")
        edit = as_message(EditModel, model_id=model_id, changes=as_message(Policy, **changes), user_id=user_id)
        wired = edit.model_dump(mode="json")
        # On the wire a field that is absent stays as it is, and one that is null is set to null.
        wired["changes"] = edit.changes.model_dump(mode="json", exclude_unset=True)
        return self._ask(wire.MODELS_EDIT, wired, ModelView, {"model_id": model_id}, timeout)

    def pause_model(self, model_id: Id, *, user_id: str | None = None, timeout: float | None = None) -> ModelView:
        """The model, which takes updates but aggregates none until it is resumed."""
        return self._ask_of(wire.MODELS_PAUSE, ModelView, model_id, timeout, user_id=user_id)

    def resume_model(self, model_id: Id, *, user_id: str | None = None, timeout: float | None = None) -> ModelView:
        """The model, which aggregates again."""
        return self._ask_of(wire.MODELS_RESUME, ModelView, model_id, timeout, user_id=user_id)

    def get_model(self, model_id: Id, *, timeout: float | None = None) -> ModelView:
        """The model as it stands, with how many updates stand in each state."""
        return self._ask_of(wire.MODELS_GET, ModelView, model_id, timeout)

    def register_client(
        self, model_id: Id, client_id: Id | None = None, name: str = "", *, timeout: float | None = None
    ) -> ClientView:
        """One more client of the model. Its id is made here if none is given, so that a repeat registers no second."""
        model_id, client_id = as_uuid(model_id, "model_id"), as_uuid(client_id or uuid.uuid4(), "client_id")
        message = as_message(RegisterClient, model_id=model_id, client_id=client_id, name=name)
        return self._ask(wire.MODELS_REGISTER_CLIENT, message, ClientView, {"client_id": client_id}, timeout)

    def publish(
        self,
        model_id: Id,
        version: str,
        aggregate_id: int | None = None,
        *,
        final: bool = False,
        user_id: str | None = None,
        timeout: float | None = None,
    ) -> ArtifactView:
        """The aggregate (the latest if none is named) under a version of its own; `final` ends the model's run."""
        model_id = as_uuid(model_id, "model_id")
        message = as_message(
            PublishModel, model_id=model_id, version=version, aggregate_id=aggregate_id, final=final, user_id=user_id
        )
        return self._ask(wire.MODELS_PUBLISH, message, ArtifactView, {"model_id": model_id}, timeout)

    # --- updates --------------------------------------------------------------------------------------------------

    def put(self, data: ModelData) -> Payload:
        """The data where the hub can read it, with its digest: to be handed to `submit_update` or `create_model`.

        They do this by themselves; this is for who needs the digest before, or sends the same data several times. What
        no update and no model names within a day the hub lets go. Raises: InvalidArgument, StoreUnreachable.
        """
        return self._store.take(data, "data")

    @overload
    def submit_update(
        self,
        model_id: Id,
        client_id: Id,
        data: ModelData,
        *,
        num_examples: float,
        num_steps: int | None = ...,
        loss: float | None = ...,
        base_aggregate: int | None = ...,
        metrics: Mapping[str, float] | None = ...,
        submission_id: Id | None = ...,
        wait: Literal[True] = ...,
        timeout: float | None = ...,
        patience: float = ...,
    ) -> UpdateView: ...

    @overload
    def submit_update(
        self,
        model_id: Id,
        client_id: Id,
        data: ModelData,
        *,
        num_examples: float,
        num_steps: int | None = ...,
        loss: float | None = ...,
        base_aggregate: int | None = ...,
        metrics: Mapping[str, float] | None = ...,
        submission_id: Id | None = ...,
        wait: Literal[False],
        timeout: float | None = ...,
        patience: float = ...,
    ) -> UUID: ...

    def submit_update(
        self,
        model_id: Id,
        client_id: Id,
        data: ModelData,
        *,
        num_examples: float,
        num_steps: int | None = None,
        loss: float | None = None,
        base_aggregate: int | None = None,
        metrics: Mapping[str, float] | None = None,
        submission_id: Id | None = None,
        wait: bool = True,
        timeout: float | None = None,
        patience: float = 0.0,
    ) -> UpdateView | UUID:
        """What became of the update; with `wait=False` the submission id, as soon as the broker has the message.

        `data`: named arrays, the path of a .safetensors, .npz, .npy or .json file, or FMA's lists. A lone array in an
        .npy is the tensor "values". `num_examples` is its weight, > 0.
        `base_aggregate` is the id of the aggregate it was trained from; `num_steps` and `loss` are for the aggregators
        that need them (fednova and scaffold, qfedavg). It counts once, however often it is sent under
        one `submission_id` (made here if none is given).
        What the hub's limits refuse is sent again for `patience` seconds, each time when the hub says; `timeout` is of
        each. Without `wait`, nobody hears of such a refusal but the hub's dead letters.
        Raises: UpdateRejected when the hub has set it aside as INVALID, LimitExceeded.
        """
        submission_id = as_uuid(submission_id or uuid.uuid4(), "submission_id")
        if isinstance(num_examples, bool) or not math.isfinite(num_examples) or num_examples <= 0:
            raise InvalidArgument("num_examples", f"must be finite and above 0, not {num_examples}")
        ids = {"model_id": as_uuid(model_id, "model_id"), "client_id": as_uuid(client_id, "client_id")}
        seconds = self._timeout(timeout)
        payload = self._store.take(data, "data")
        message = as_message(
            SubmitModelUpdate,
            submission_id=submission_id,
            **ids,
            num_examples=num_examples,
            num_steps=num_steps,
            loss=loss,
            base_aggregate=base_aggregate,
            data=payload.inline,
            data_uri=payload.ref.uri if payload.ref else None,
            digest=payload.ref.digest if payload.ref else None,
            metrics=dict(metrics or {}),
        )
        repeat_with = {"submission_id": submission_id}
        if not wait:
            self._asking.post(wire.UPDATES_SUBMIT, message.model_dump(mode="json"), seconds, repeat_with)
            return submission_id
        until = time.monotonic() + patience
        while True:
            try:
                update = self._ask(wire.UPDATES_SUBMIT, message, UpdateView, repeat_with, seconds)
                break
            except LimitExceeded as exceeded:
                # Up to twice as long: of many who were told the same, not all come back at one moment.
                rest = exceeded.retry_after * random.uniform(1, 2)  # noqa: S311  # jitter, not a secret
                if time.monotonic() + rest > until:
                    raise
                time.sleep(rest)
        if update.status == "INVALID":
            reason = update.reason or "the hub gave no reason"
            raise UpdateRejected(update.reason_code or "INVALID", reason, update.update_id, submission_id)
        return update

    def add_score(
        self,
        model_id: Id,
        aggregate_id: int,
        client_id: Id,
        validation_results: Mapping[str, Any],
        *,
        num_examples: float = 1.0,
        timeout: float | None = None,
    ) -> ScoreView:
        """What the client measured of the aggregate, on `num_examples`; a newer score of its own replaces it."""
        message = as_message(
            AddScore,
            model_id=as_uuid(model_id, "model_id"),
            aggregate_id=aggregate_id,
            client_id=as_uuid(client_id, "client_id"),
            validation_results=dict(validation_results),
            num_examples=num_examples,
        )
        return self._ask(wire.SCORES_ADD, message, ScoreView, {}, timeout)

    # --- the newest model -----------------------------------------------------------------------------------------
