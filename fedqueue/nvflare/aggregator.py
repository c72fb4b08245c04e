"""A ModelAggregator that hands every site's result to the hub as it comes, and returns the hub's next aggregate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final, cast
from uuid import UUID

from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from fedqueue.arguments import PolicyFields, as_uuid
from fedqueue.bridges.rounds import NothingPosted, ServerRounds
from fedqueue.bridges.telling import Telling
from fedqueue.client import Client
from fedqueue.errors import FedqueueError, InvalidArgument
from fedqueue.messages import LatestView
from fedqueue.model_calls import FetchedModel
from fedqueue.nvflare.sites import (
    CLIENT_NAME,
    UnreadableResult,
    numbers_of,
    site_of,
    weight_of,
    weighted_mean,
    whole,
)
from fedqueue.payload import ModelData
from fedqueue.tensors import Array

MADE_BY: Final = "nvflare"


class HubModelAggregator(ModelAggregator):
    """The hub's aggregation for FedAvg (`HubFedAvg`, or FLARE's own) and ScatterAndGather.

    `model_id` names the hub's model: one of its own for each training. `policy` are fields of
    `fedqueue.Client.create_model` (`aggregator`, `aggregator_params`, …) for a model that is not there yet; `HubFedAvg`
    makes it from its initial model. With FLARE's own controllers it must be there, or `initial` be the path of a file
    (.npz, .safetensors) with the parameters that FLARE begins with.
    `slots` maps sites to the names under which the hub knows their institutions. `loss_key` names the metric that
    qfedavg needs. The hub is found as by `fedqueue.Client()`, from the server's environment.

    Sites may send FULL parameters or a DIFF; what comes back is FULL. What a site sends twice in a round counts once.
    """

    # FLARE writes a component's arguments into the job, from attributes of the same names: plain values only.
    def __init__(
        self,
        model_id: str,
        policy: dict[str, Any] | None = None,
        initial: str | None = None,
        slots: dict[str, str] | None = None,
        loss_key: str = "loss",
        timeout: float = 600.0,
    ) -> None:
        """Connects to nothing yet. Raises: InvalidArgument."""
        super().__init__()
        self.model_id = str(as_uuid(model_id, "model_id"))
        self.policy = policy
        self.initial = initial
        self.slots = slots
        self.loss_key = loss_key
        self.timeout = timeout
        self._guard = Lock()
        self._training: _Training | None = None
        self._round: _Round | None = None
        self._trouble: FedqueueError | None = None

    def begin(self, initial: Callable[[], ModelData], num_rounds: int | None) -> FetchedModel:
        """What to begin with, and how many rounds there are already. Raises: RoundNotPosted, Rejected."""
        training = self._training or self._connect()
        newest = training.rounds.begin(initial, num_rounds)
        self._training = training
        return newest

    # --- FLARE's interface ------------------------------------------------------------------------

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Whether the hub took the result; ScatterAndGather's way to give one."""
        of_round = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        if of_round is not None and of_round != fl_ctx.get_prop(AppConstants.CURRENT_ROUND, of_round):
            # ScatterAndGather hands over what it no longer waited for, which was trained from another round's model.
            self.log_warning(fl_ctx, f"a late result of round {of_round} is not taken")
            return False
        model = FLModelUtils.from_shareable(shareable, fl_ctx)
        peer = fl_ctx.get_peer_context()
        if peer is not None:
            model.meta.setdefault(CLIENT_NAME, peer.get_identity_name())
        self.fl_ctx = fl_ctx
        try:
            self.accept_model(model)
        except ResultRefused as refusal:
            self.warning(str(refusal))
            return False
        return True

    def accept_model(self, model: FLModel) -> None:
        """Hand it to the hub.

        Raises: ResultRefused, which FLARE counts as not accepted; Unanswered and Rejected, which end the round.
        """
        # FLARE may call from several threads; a round is opened by the first.
        try:
            self._accept(model)
        except FedqueueError as error:
            # FLARE goes on with the other results: the round must not, as the site did nothing wrong.
            self._trouble = error
            raise

    def _accept(self, model: FLModel) -> None:
        with self._guard:
            if self._round is None:
                self._round = self._open()
            current = self._round
        training = current.training
        site = "a site"
        try:
            site = site_of(model)
            weight = weight_of(model)
            tensors = whole(model, current.base)
            numbers = numbers_of(model.metrics)
            refusal = training.rounds.submit(
                site,
                tensors,
                num_examples=weight,
                num_steps=weight if weight.is_integer() else None,
                loss=numbers.get(self.loss_key),
                metrics=numbers,
            )
        except UnreadableResult as error:
            refusal = str(error)
        if refusal is not None:
            training.telling.failure(current.number, site, f"the result was refused: {refusal}")
            raise ResultRefused(f"{site}: {refusal}")
        # What a site measures it measures on what it was given.
        training.telling.metrics("evaluate", current.number - 1, numbers, site)
        current.accepted[site] = (weight, numbers)

    def aggregate_model(self) -> FLModel:
        """The hub's next aggregate, FULL, with the mean of the sites' metrics; what there was, if none can be made.

        Raises: RoundNotPosted (the hub posted none in time, or was told to stop), Unanswered; and whatever kept the hub
        from judging one of the round's results.
        """
        if self._trouble is not None:
            raise self._trouble
        with self._guard:
            current, self._round = self._round or self._open(), None
        telling = current.training.telling
        try:
            newest = self._newest(current)
        except NothingPosted as nothing:
            self.error(str(nothing))
            telling.failure(current.number, "server", str(nothing))
            newest = None
        params = current.base() if newest is None else newest.arrays
        means = weighted_mean(list(current.accepted.values()))
        telling.metrics("evaluate", current.number - 1, means)
        telling.send()
        return FLModel(params_type=ParamsType.FULL, params=dict(params), metrics=means or None)

    @staticmethod
    def _newest(current: _Round) -> FetchedModel | None:
        rounds = current.training.rounds
        if current.accepted:
            return rounds.close()
        current.training.telling.failure(
            current.number, "server", "no result of the round could be used: the model is as it was"
        )
        return rounds.catch_up()

    def reset_stats(self) -> None:
        """Forget a round that was not aggregated; what the hub has of it, the sites' next results replace."""
        with self._guard:
            self._round, self._trouble = None, None

    # --- the hub ----------------------------------------------------------------------------------

    def _connect(self) -> _Training:
        hub = Client()
        model_id = as_uuid(self.model_id, "model_id")
        rounds = ServerRounds(hub, model_id, MADE_BY, cast(PolicyFields, self.policy or {}), self.timeout)
        return _Training(hub, model_id, rounds, Telling(hub, model_id, MADE_BY, (self.slots or {}).get))

    def _open(self) -> _Round:
        if self._training is None:
            newest = self.begin(self.given, None)
            if newest.number > 0:
                raise InvalidArgument(
                    "model_id",
                    f"{self.model_id} has {newest.number} aggregates, and this controller begins with a model of its "
                    "own: HubFedAvg goes on with the hub's, another model_id begins anew",
                )
        assert self._training is not None
        return _Round(self._training, self._training.rounds.open())

    def given(self) -> ModelData:
        """The file that the training begins with. Raises: InvalidArgument if none was named."""
        if self.initial is None:
            raise InvalidArgument("initial", f"model {self.model_id} is not on the hub, and no initial model was given")
        return self.initial


class ResultRefused(Exception):
    """A site's result that is in no aggregate; says why."""


@dataclass(frozen=True)
class _Training:
    """What the server process has of the hub."""

    hub: Client
    model_id: UUID
    rounds: ServerRounds
    telling: Telling


@dataclass
class _Round:
    """One round, from its first result."""

    training: _Training
    begun_from: LatestView
    accepted: dict[str, tuple[float, dict[str, float]]] = field(default_factory=dict)
    _base: Mapping[str, Array] | None = None

    @property
    def number(self) -> int:
        """Of the aggregate that it makes."""
        return self.begun_from.number + 1

    def base(self) -> Mapping[str, Array]:
        """The parameters that the sites train from; fetched for those who send differences."""
        if self._base is None:
            self._base = self.training.hub.fetch_latest(self.training.model_id).arrays
        return self._base
