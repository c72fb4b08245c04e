"""Aggregation: how many updates become one model. Pure numerics: no files, no Celery, no database."""

from tasks.aggregation import means as means  # registers fedavg and FMA's two
from tasks.aggregation.arrays import Combined, UpdateArrays, combine
from tasks.aggregation.engine import DEFAULT_BUDGET_BYTES, Report, combine_streams
from tasks.aggregation.errors import (
    AggregationError,
    CurrentUnusable,
    InvalidParameter,
    NoUpdates,
    ResultNotFinite,
    StateUnexpected,
    UnknownAggregator,
    UnknownParameter,
    UpdateUnusable,
)
from tasks.aggregation.params import AggregatorParams, IntegerPolicy
from tasks.aggregation.registry import Aggregator, Needs, check_params, find_aggregator, known_aggregators, register
from tasks.aggregation.streams import Chunk, TensorSink, TensorSource, TensorSpec, UpdateStream

__all__ = [
    "DEFAULT_BUDGET_BYTES",
    "AggregationError",
    "Aggregator",
    "AggregatorParams",
    "Chunk",
    "Combined",
    "CurrentUnusable",
    "IntegerPolicy",
    "InvalidParameter",
    "Needs",
    "NoUpdates",
    "Report",
    "ResultNotFinite",
    "StateUnexpected",
    "TensorSink",
    "TensorSource",
    "TensorSpec",
    "UnknownAggregator",
    "UnknownParameter",
    "UpdateArrays",
    "UpdateStream",
    "UpdateUnusable",
    "check_params",
    "combine",
    "combine_streams",
    "find_aggregator",
    "known_aggregators",
    "register",
]
