"""Flower's aggregation, as its own strategies call it. Runs in `.peers/flower`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import QFedAvg as OldQFedAvg
from flwr.server.strategy.aggregate import (
    aggregate,
    aggregate_inplace,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, QFedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file, save_file

from benchmarks.peers.serving import Method, Request, serve

_WEIGHT = "num-examples"


def _by_lists(combine: Callable[[list[Any], dict[str, Any]], list[Any]]) -> Method:
    """The API of `Strategy`: each update a list of arrays."""

    def method(request: Request) -> None:
        with request.phase("read"):
            updates = [load_file(file) for file in request.files]
        names = list(updates[0])
        lists = [[update[name] for name in names] for update in updates]
        with request.phase("combine"):
            combined = combine(list(zip(lists, request.num_examples, strict=True)), request.params)
        with request.phase("write"):
            save_file({name: np.asarray(array) for name, array in zip(names, combined, strict=True)}, request.out)

    return method


def _inplace(request: Request) -> None:
    with request.phase("read"):
        updates = [load_file(file) for file in request.files]
    names = list(updates[0])
    with request.phase("convert"):
        results: list[Any] = [
            (None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([update[name] for name in names]), count, {}))
            for update, count in zip(updates, request.num_examples, strict=True)
        ]
        del updates
    with request.phase("combine"):
        combined = aggregate_inplace(results)
    with request.phase("write"):
        save_file(dict(zip(names, combined, strict=True)), request.out)


def _by_records(combine: Callable[[list[Any], dict[str, Any]], Any]) -> Method:
    """The message API: each update an ArrayRecord of serialized arrays, beside a metric with its weight."""

    def method(request: Request) -> None:
        records = []
        for file, count in zip(request.files, request.num_examples, strict=True):
            with request.phase("read"):
                arrays = load_file(file)
            with request.phase("convert"):
                metrics = MetricRecord({_WEIGHT: count})
                records.append(RecordDict({"arrays": _record(arrays), "metrics": metrics}))
        with request.phase("combine"):
            combined = combine(records, request.params)
        with request.phase("write"):
            save_file({name: array.numpy() for name, array in combined.items()}, request.out)

    return method


def _by_strategy(make: Callable[[dict[str, Any]], Any]) -> Callable[[list[Any], dict[str, Any]], Any]:
    def combine(records: list[Any], params: dict[str, Any]) -> Any:
        replies = [Message(record, dst_node_id=1, message_type="train") for record in records]
        combined, _metrics = make(params).aggregate_train(1, replies)
        return combined

    return combine


def _krum_of_records(records: list[Any], params: dict[str, Any]) -> Any:
    return aggregate_arrayrecords(select_multikrum(records, params["num_byzantine"], 1), _WEIGHT)


def _qfedavg(request: Request) -> None:
    """The message API's: each client's loss comes with its arrays."""
    strategy = QFedAvg(client_learning_rate=1 / request.params["lipschitz"], q=request.params["q"])
    strategy.current_arrays = _record(load_file(request.current))
    replies = []
    for file, count, loss in zip(request.files, request.num_examples, request.losses, strict=True):
        metrics = MetricRecord({_WEIGHT: count, "train_loss": loss})
        content = RecordDict({"arrays": _record(load_file(file)), "metrics": metrics})
        replies.append(Message(content, dst_node_id=1, message_type="train"))
    combined, _metrics = strategy.aggregate_train(1, replies)
    save_file({name: array.numpy() for name, array in combined.items()}, request.out)


def _old_qfedavg(request: Request) -> None:
    """The API of `Strategy`: it knows no client's loss, only what the server's own evaluation says, here their mean."""
    loss = sum(request.losses) / len(request.losses)
    strategy = OldQFedAvg(
        q_param=request.params["q"],
        qffl_learning_rate=1 / request.params["lipschitz"],
        evaluate_fn=lambda _round, _parameters, _config: (loss, {}),
    )
    current = load_file(request.current)
    names = list(current)
    strategy.pre_weights = [current[name] for name in names]
    results: list[Any] = []
    for file, count in zip(request.files, request.num_examples, strict=True):
        update = load_file(file)
        parameters = ndarrays_to_parameters([update[name] for name in names])
        results.append((None, FitRes(Status(Code.OK, ""), parameters, count, {})))
    combined, _metrics = strategy.aggregate_fit(1, results, [])
    assert combined is not None
    save_file(dict(zip(names, parameters_to_ndarrays(combined), strict=True)), request.out)


def _record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # Messages can be made only by a task of a run.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    serve(
        {
            "aggregate": _by_lists(lambda results, _params: aggregate(results)),
            "aggregate_inplace": _inplace,
            "aggregate_arrayrecords": _by_records(lambda records, _params: aggregate_arrayrecords(records, _WEIGHT)),
            "aggregate_median": _by_lists(lambda results, _params: aggregate_median(results)),
            "FedMedian": _by_records(_by_strategy(lambda _params: FedMedian())),
            "aggregate_trimmed_avg": _by_lists(lambda results, params: aggregate_trimmed_avg(results, params["beta"])),
            "FedTrimmedAvg": _by_records(_by_strategy(lambda params: FedTrimmedAvg(beta=params["beta"]))),
            "aggregate_krum": _by_lists(lambda results, params: aggregate_krum(results, params["num_byzantine"], 0)),
            "select_multikrum": _by_records(_krum_of_records),
            "QFedAvg": _qfedavg,
            "server.strategy.QFedAvg": _old_qfedavg,
        }
    )
