"""NVIDIA FLARE's aggregation: weighted means as they arrive, buffered rounds, SCAFFOLD. Runs in `.peers/nvflare`."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_common.workflows.scaffold import Scaffold
from nvflare.edge.assessors.buff_model_manager import BuffModelManager
from nvflare.edge.mud import ModelUpdate
from safetensors.numpy import load_file, save_file

from benchmarks.peers.serving import Request, serve

Arrays = dict[str, Any]


def _weighted(request: Request) -> None:
    helper = WeightedAggregationHelper()
    for index, (file, count) in enumerate(zip(request.files, request.num_examples, strict=True)):
        with request.phase("read"):
            arrays = load_file(file)
        with request.phase("combine"):
            helper.add(arrays, count, f"site-{index + 1}", 0)
    with request.phase("combine"):
        combined = helper.get_result()
    with request.phase("write"):
        save_file(combined, request.out)


def _buffered(request: Request) -> None:
    """Rounds of BuffModelManager: each update's delta from the model it started at, under that model's version."""
    manager = BuffModelManager(
        len(request.files) // request.rounds,
        global_lr=request.params["eta"],
        staleness_weight=request.params.get("staleness_weight", True),
    )
    context = FLContext()
    manager.initialize_model(DXO(DataKind.WEIGHTS, data=load_file(request.current)), context)
    manager.generate_new_model(context)  # version 1 is the initial model
    models = {manager.current_model_version: _model_of(manager)}
    combined: Arrays = {}
    for number, updates in enumerate(request.by_round(), 1):
        newest = manager.current_model_version
        for index in updates:
            version = newest - request.staleness[index]
            update = load_file(request.files[index])
            delta = {name: array - models[version][name] for name, array in update.items()}
            sent = DXO(DataKind.WEIGHT_DIFF, data={"dict": delta, "count": 1}).to_shareable()
            manager.process_updates({version: ModelUpdate(version, sent, {f"device-{index}": 0.0})}, context)
        if manager.current_model_version != newest + 1:
            raise ValueError(f"nothing came of round {number}")
        models[newest + 1] = _model_of(manager)
        combined |= {request.name_of(name, number): array for name, array in models[newest + 1].items()}
    save_file(combined, request.out)


def _model_of(manager: BuffModelManager) -> Arrays:
    """It keeps lists of numbers."""
    return {name: np.asarray(values, np.float64) for name, values in manager.current_model.data.items()}


class _ScaffoldFromFiles(Scaffold):
    """Its rounds, with clients whose training has been done: only what would go over the network is replaced."""

    def __init__(self, request: Request) -> None:
        super().__init__(num_clients=len(request.files) // request.rounds, num_rounds=request.rounds)
        self.fl_ctx = FLContext()
        self.model = FLModel(ParamsType.FULL, load_file(request.current))
        self._global_ctrl_weights = {name: np.zeros_like(array) for name, array in self.model.params.items()}
        self._request, self._by_round = request, request.by_round()
        self.combined: Arrays = {}

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        return [f"site-{index + 1}" for index in range(num_clients or 0)]

    def send_model_and_wait(self, *, targets: list[str], data: FLModel) -> list[FLModel]:
        """Each client's delta and what its control variate changed by, as NVFLARE's own client works it out."""
        request, results = self._request, []
        c = data.meta[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL]
        for site, index in zip(targets, self._by_round[self.current_round], strict=True):
            delta = {name: array - data.params[name] for name, array in load_file(request.files[index]).items()}
            taken = request.num_steps[index] * request.params["local_learning_rate"]
            meta = {
                "client_name": site,
                FLMetaKey.NUM_STEPS_CURRENT_ROUND: request.num_steps[index],
                AlgorithmConstants.SCAFFOLD_CTRL_DIFF: {name: -c[name] - delta[name] / taken for name in delta},
            }
            results.append(FLModel(ParamsType.DIFF, delta, meta=meta, current_round=self.current_round))
        return results

    def save_model(self, model: FLModel) -> None:
        number = self.current_round + 1
        named = {"c/" + name: array for name, array in self._global_ctrl_weights.items()} | model.params
        self.combined |= {self._request.name_of(name, number): np.array(array) for name, array in named.items()}


def _scaffold(request: Request) -> None:
    controller = _ScaffoldFromFiles(request)
    controller._run_rounds()
    save_file(controller.combined, request.out)


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # there is no engine for the events of its components
    serve({"WeightedAggregationHelper": _weighted, "BuffModelManager": _buffered, "Scaffold": _scaffold})
