"""Taking over what came into an FMA deployment by its own API (docs/decisions/0009).

The hub's tables stand beside FMA's, and FMA's clients know nothing of the hub: every poll looks for rows of FMA's
that the hub has none for, and gives them one by the hub's own rules. An update is submitted like any other. What FMA
had done before the hub came is kept as history. What can't be taken over is refused once, with a dead letter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID

from pydantic import ValidationError

from connectors.deployment import (
    Deployment,
    FoundAggregate,
    FoundArtifact,
    FoundModel,
    FoundScore,
    FoundUpdate,
    Kind,
    submission_id_of,
)
from connectors.errors import AlreadyExists, ModelDataError
from connectors.records import (
    AuditAction,
    BlobRef,
    Client,
    DataFormat,
    FederatedModel,
    ModelStatus,
    ModelUpdate,
    ReasonCode,
    UpdateStatus,
)
from fedqueue.messages import AddScore, SubmitModelUpdate
from tasks.domain.errors import LimitExceeded, ModelIsOver, Refused, UnknownModel
from tasks.domain.lifecycle import advance
from tasks.domain.scores import add_score
from tasks.domain.submission import submit_update
from tasks.hub import Hub

TAKEOVER: Final = "fma.takeover"  # what dead letters call it; no task, for nothing was sent
_AT_ONCE: Final = 200
_LONGEST_VERSION: Final = 100  # the hub's; FMA's may have 255

Found = TypeVar("Found", FoundModel, FoundArtifact, FoundAggregate, FoundScore)


@dataclass(slots=True)
class Taken:
    """How many rows of each kind were taken over, and how many refused."""

    counts: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def __bool__(self) -> bool:
        return bool(self.refused or self.counts.total())


def take_over(hub: Hub, *, seconds: float) -> Taken:
    """Everything that has come in since, or as much as `seconds` allow: the next poll goes on from there.

    Several at once are harmless. Raises: Unavailable.
    """
    taken = Taken()
    deployment = hub.metadata.deployment
    if deployment is None:
        return taken
    ends = time.monotonic() + seconds
    while _Pass(hub, deployment, taken, ends).run() and time.monotonic() < ends:
        pass
    return taken


class _Pass:
    """One look at everything, in the order in which rows depend on one another."""

    def __init__(self, hub: Hub, deployment: Deployment, taken: Taken, ends: float) -> None:
        self._hub = hub
        self._deployment = deployment
        self._taken = taken
        self._ends = ends

    def run(self) -> bool:
        """Whether there was anything to do."""
        before = (self._taken.counts.total(), self._taken.refused)
        self._delete_vanished()
        self._drain(self._deployment.pull_new_models, self._take_model)
        self._compare_policies()
        self._register_clients()
        self._take_away()
        self._drain(self._deployment.pull_new_artifacts, self._take_artifact)
        self._drain(self._deployment.pull_new_aggregates, self._take_aggregate)
        self._complete_overtaken()
        self._take_updates()
        self._drain(self._deployment.pull_new_scores, self._take_score)
        return before != (self._taken.counts.total(), self._taken.refused)

    def _drain(self, pull: Callable[[int], Sequence[Found]], take: Callable[[Found], None]) -> None:
        """Take all there are, page by page; what a page could not do is left for the next poll."""
        before = -1
        while self._has_time() and before != (before := self._taken.counts.total() + self._taken.refused):
            for found in pull(_AT_ONCE):
                take(found)

    def _has_time(self) -> bool:
        return time.monotonic() < self._ends

    # --- one row each -----------------------------------------------------------------------------

    def _delete_vanished(self) -> None:
        gone = self._deployment.pull_vanished_models()
        if gone:
            self._hub.metadata.transact(lambda _: self._hub.metadata.delete_federated_models(gone))
            self._taken.counts["models deleted"] += len(gone)

    def _take_model(self, found: FoundModel) -> None:
        def adopt() -> None:
            model = self._deployment.adopt_model(found)
            self._hub.metadata.add_audit(model, AuditAction.CREATE, found.developer)

        self._adopt("models", adopt)

    def _register_clients(self) -> None:
        metadata = self._hub.metadata
        while self._has_time() and (found := self._deployment.pull_new_registrations(_AT_ONCE)):
            for model, uuid in found:
                metadata.transact(lambda _, model=model, uuid=uuid: self._register(model, uuid))  # type: ignore[misc]
                self._taken.counts["registrations"] += 1

    def _compare_policies(self) -> None:
        """A pause that was ended in FMA alone would leave a model unseen by the poll for ever."""
        for model in self._deployment.pull_models_to_compare():
            self._hub.metadata.transact(lambda _, model=model: self._hub.metadata.lock_model(model))  # type: ignore[misc]
            self._taken.counts["pauses"] += 1

    def _take_away(self) -> None:
        """What was deleted in FMA is not to be waited for, nor counted."""
        metadata = self._hub.metadata
        for model, client in self._deployment.pull_removed_registrations(_AT_ONCE):

            def remove(_: object, model: FederatedModel = model, client: Client = client) -> None:
                self._deployment.remove_registration(metadata.lock_model(model), client)

            metadata.transact(remove)
            self._taken.counts["registrations removed"] += 1
        for update in self._deployment.pull_vanished_updates(_AT_ONCE):

            def set_aside(_: object, update: ModelUpdate = update) -> None:
                metadata.lock_model(self._model(update.model_id))
                metadata.register_model_updates_invalid([update], ReasonCode.CORRUPT, "deleted in FMA")

            metadata.transact(set_aside)
            self._taken.counts["updates deleted"] += 1

    def _register(self, model: FederatedModel, client_uuid: UUID) -> None:
        locked = self._hub.metadata.lock_model(model)
        self._hub.metadata.register_client(locked, client_uuid)
        advance(self._hub, locked, ModelStatus.INITIATED)

    def _take_artifact(self, found: FoundArtifact) -> None:
        if len(found.version) > _LONGEST_VERSION:
            self._refuse(Kind.ARTIFACT, found.id, "version", f"longer than {_LONGEST_VERSION} characters")
            return
        blob = self._store(Kind.ARTIFACT, found.id, found.uri)
        if blob is None:
            return
        tensors = self._look_at(Kind.ARTIFACT, found.id, blob)
        if tensors is None:
            return

        def adopt() -> None:
            metadata = self._hub.metadata
            model = metadata.lock_model(self._model(found.model_id))
            self._hub.model_data.hold(blob)
            artifact = self._deployment.adopt_artifact(found, blob)
            metadata.add_audit(model, AuditAction.PUBLISH, model.user_id)
            if model.tensors is None:
                # Before any aggregate, the current artifact is what an update must look like.
                metadata.change_federated_model(
                    model, {"tensors": tensors, "initial_artifact_id": model.initial_artifact_id or artifact.id}
                )

        self._adopt("artifacts", adopt)

    def _take_aggregate(self, found: FoundAggregate) -> None:
        blob = self._store(Kind.AGGREGATE, found.id, found.uri)
        if blob is None:
            return
        tensors = self._look_at(Kind.AGGREGATE, found.id, blob)
        if tensors is None:
            return

        def adopt() -> None:
            metadata = self._hub.metadata
            model = metadata.lock_model(self._model(found.model_id))
            self._hub.model_data.hold(blob)
            self._deployment.adopt_aggregate(found, blob)
            if model.tensors is None:
                metadata.change_federated_model(model, {"tensors": tensors})

        self._adopt("aggregates", adopt)

    def _complete_overtaken(self) -> None:
        for update, aggregate_id in self._deployment.pull_overtaken_updates(_AT_ONCE):

            def complete(_: object, update: ModelUpdate = update, aggregate_id: int = aggregate_id) -> None:
                self._hub.metadata.lock_model(self._model(update.model_id))
                self._deployment.register_overtaken(update, aggregate_id)

            self._hub.metadata.transact(complete)
            self._taken.counts["updates used by FMA"] += 1

    def _take_updates(self) -> None:
        """Page by page, past those that have to wait where they are."""
        last = 0
        while self._has_time() and (page := self._deployment.pull_new_updates(_AT_ONCE, last)):
            for found in page:
                self._take_update(found)
            last = page[-1].id

    def _take_update(self, found: FoundUpdate) -> None:
        if found.applied_aggregate_id is not None or found.status is UpdateStatus.COMPLETE:
            self._take_used_update(found)
            return
        if found.status is UpdateStatus.INVALID:
            self._refuse(Kind.UPDATE, found.id, "status", "INVALID in FMA, which says no reason: it stays so")
            return
        model = self._model(found.model_id)
        # Constructed as it is: a message from outside would have to say the digest, which nobody knows yet.
        message = SubmitModelUpdate.model_construct(
            submission_id=submission_id_of(model.uuid, found.id),
            model_id=model.uuid,
            client_id=found.client_uuid,
            base_aggregate=found.base_aggregate_id,
            data_uri=found.uri,
        )
        try:
            submission = submit_update(self._hub, message, found.id)
        except (LimitExceeded, ModelIsOver, UnknownModel):
            return  # it waits in FMA's table until there is room, or for the model's next run
        except Refused as refused:
            self._refuse(Kind.UPDATE, found.id, refused.field, refused.reason)
            return
        if not submission.repeated:
            self._taken.counts["updates"] += 1

    def _take_used_update(self, found: FoundUpdate) -> None:
        if found.applied_aggregate_id is None:
            self._refuse(Kind.UPDATE, found.id, "applied_aggregate", "COMPLETE in FMA, and in no aggregate")
            return
        blob = self._store(Kind.UPDATE, found.id, found.uri)
        if blob is not None:
            self._adopt("used updates", lambda: self._deployment.adopt_used_update(found, blob))

    def _take_score(self, found: FoundScore) -> None:
        try:
            message = AddScore(
                model_id=self._model(found.model_id).uuid,
                aggregate_id=found.aggregate_id,
                client_id=found.client_uuid,
                validation_results=found.validation_results,
            )
            add_score(self._hub, message)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            self._refuse(Kind.SCORE, found.id, ".".join(map(str, first["loc"])), first["msg"])
        except Refused as refused:
            self._refuse(Kind.SCORE, found.id, refused.field, refused.reason)
        else:
            self._taken.counts["scores"] += 1

    # --- parts ------------------------------------------------------------------------------------

    def _model(self, model_id: int) -> FederatedModel:
        model = self._hub.metadata.pull_federated_model_w_id(model_id)
        assert model is not None, "only what belongs to the hub's models is found"
        return model

    def _store(self, kind: Kind, row_id: int, uri: str) -> BlobRef | None:
        """The file's bytes in the store; None, and the row is refused, if they can't be had."""
        try:
            return self._hub.model_data.take_in(uri, None)
        except ModelDataError as error:
            self._refuse(kind, row_id, "file", error.reason)
            return None

    def _look_at(self, kind: Kind, row_id: int, blob: BlobRef) -> tuple[tuple[str, tuple[int, ...], str], ...] | None:
        try:
            reader = self._hub.model_data.open(blob, DataFormat.JSON)
        except ModelDataError as error:
            self._refuse(kind, row_id, "file", error.reason)
            return None
        reader.close()
        return reader.tensors

    def _adopt(self, what: str, adopt: Callable[[], object]) -> None:
        try:
            self._hub.metadata.transact(lambda _: adopt())
        except AlreadyExists:  # another worker has just taken it
            return
        self._taken.counts[what] += 1

    def _refuse(self, kind: Kind, row_id: int, rule_field: str | None, reason: str) -> None:
        def refuse(_: object) -> bool:
            is_new = self._deployment.refuse(kind, row_id, reason)
            if is_new:
                payload: Mapping[str, object] = {"kind": str(kind), "id": row_id}
                self._hub.metadata.add_dead_letter(
                    TAKEOVER, payload, kind="NotTakenOver", field=rule_field, reason=reason
                )
            return is_new

        self._taken.refused += self._hub.metadata.transact(refuse)


def describe(counts: Mapping[str, int]) -> str:
    """`2 updates, 1 scores`: what was taken over, for people."""
    return ", ".join(f"{number} {what}" for what, number in counts.items()) or "nothing"
