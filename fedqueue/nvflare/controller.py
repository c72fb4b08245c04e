"""FLARE's FedAvg that begins where the hub is."""

from __future__ import annotations

from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.fedavg import FedAvg

from fedqueue.errors import InvalidArgument
from fedqueue.nvflare.aggregator import HubModelAggregator
from fedqueue.payload import ModelData


class HubFedAvg(FedAvg):
    """FedAvg with a `HubModelAggregator`: sampling, waiting, early stopping and saving are FLARE's own.

    The initial model is the hub's number 0: `model`, else what the persistor loads, else the aggregator's `initial`.
    A job that is submitted again goes on with the hub's newest aggregate, and does the rounds of `num_rounds` that are
    not there yet: none, if all are.
    """

    # FLARE's, which publishes no types.
    aggregator: HubModelAggregator
    model: Any
    start_round: int
    num_rounds: int

    def __init__(self, *args: Any, aggregator: HubModelAggregator, **kwargs: Any) -> None:
        """As of FedAvg. Raises: InvalidArgument."""
        if not isinstance(aggregator, HubModelAggregator):
            raise InvalidArgument("aggregator", "must be a HubModelAggregator")
        super().__init__(*args, aggregator=aggregator, **kwargs)

    def run(self) -> None:
        """The rounds that the hub has not yet."""
        self._first_round, self._all_rounds = self.start_round, self.num_rounds
        newest = self.aggregator.begin(self._initial, self.num_rounds)
        rest = max(0, self.num_rounds - newest.number)
        self.info(f"Model {self.aggregator.model_id}: the hub has {newest.number} rounds, {rest} are to be done.")
        self.model = FLModel(params_type=ParamsType.FULL, params=dict(newest.arrays))
        self.start_round, self.num_rounds = self.start_round + newest.number, rest
        super().run()
        if not rest:
            self.save_model(self.model)

    def send_model(self, *args: Any, data: FLModel, **kwargs: Any) -> Any:
        """As of FedAvg; the total, by which sites plan their learning rate, is the training's and not the rest."""
        data.start_round, data.total_rounds = self._first_round, self._all_rounds
        return super().send_model(*args, data=data, **kwargs)

    def _initial(self) -> ModelData:
        if self.model is None and self.persistor is None:
            return self.aggregator.given()
        given = self.load_model() if self.model is None else self.model
        params: ModelData = given.params if isinstance(given, FLModel) else given
        return params
