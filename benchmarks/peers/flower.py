"""Flower's aggregation, as its own strategies call it. Runs in `.peers/flower`.

What builds on a current model, from round to round, is in flower_strategies.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy.aggregate import (
    aggregate,
    aggregate_inplace,
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file, save_file

from benchmarks.peers.flower_strategies import STRATEGIES, WEIGHT, record
from benchmarks.peers.serving import Method, Request, serve


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
                metrics = MetricRecord({WEIGHT: count})
                records.append(RecordDict({"arrays": record(arrays), "metrics": metrics}))
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
    return aggregate_arrayrecords(select_multikrum(records, params["num_byzantine"], 1), WEIGHT)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # Messages can be made only by a task of a run.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    serve(
        {
            "aggregate": _by_lists(lambda results, _params: aggregate(results)),
            "aggregate_inplace": _inplace,
            "aggregate_arrayrecords": _by_records(lambda records, _params: aggregate_arrayrecords(records, WEIGHT)),
            "aggregate_median": _by_lists(lambda results, _params: aggregate_median(results)),
            "FedMedian": _by_records(_by_strategy(lambda _params: FedMedian())),
            "aggregate_trimmed_avg": _by_lists(lambda results, params: aggregate_trimmed_avg(results, params["beta"])),
            "FedTrimmedAvg": _by_records(_by_strategy(lambda params: FedTrimmedAvg(beta=params["beta"]))),
            "aggregate_krum": _by_lists(lambda results, params: aggregate_krum(results, params["num_byzantine"], 0)),
            "select_multikrum": _by_records(_krum_of_records),
        }
        | STRATEGIES
    )
