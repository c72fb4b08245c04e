"""Aggregation: how many updates become one model. Pure numerics: no files, no Celery, no database."""

# Imported for their registering what they hold.
from tasks.aggregation import asynchronous as asynchronous
from tasks.aggregation import bulyan as bulyan
from tasks.aggregation import clipping as clipping
from tasks.aggregation import dp_fedavg as dp_fedavg
from tasks.aggregation import fedopt as fedopt
from tasks.aggregation import fltrust as fltrust
from tasks.aggregation import geometric_median as geometric_median
from tasks.aggregation import heterogeneous as heterogeneous
from tasks.aggregation import krum as krum
from tasks.aggregation import means as means
from tasks.aggregation import ranks as ranks
from tasks.aggregation.arrays import Combined, UpdateArrays, combine
from tasks.aggregation.chunks import Chunk
from tasks.aggregation.engine import DEFAULT_BUDGET_BYTES, Report, combine_streams
from tasks.aggregation.errors import (
    AggregationError,
    CurrentUnusable,
    InvalidParameter,
    NothingToStartFrom,
    NoUpdates,
    OutOfBudget,
    ReferenceMissing,
    ResultNotFinite,
    StateUnexpected,
    StateUnusable,
    TensorMissing,
    TooFewUpdates,
    UnknownAggregator,
    UnknownParameter,
    UpdateUnusable,
)
from tasks.aggregation.kernels import Engine
from tasks.aggregation.params import AggregatorParams, IntegerPolicy, KeyPolicy
from tasks.aggregation.registry import (
    Aggregator,
    Fold,
    Inputs,
    Measuring,
    Needs,
    check_params,
    fewest_updates,
    find_aggregator,
    known_aggregators,
    register,
)
from tasks.aggregation.starting import StartFrom
from tasks.aggregation.state import state_tensors
from tasks.aggregation.streams import TensorSink, TensorSource, TensorSpec, UpdateStream

__all__ = [
    "DEFAULT_BUDGET_BYTES",
    "AggregationError",
    "Aggregator",
    "AggregatorParams",
    "Chunk",
    "Combined",
    "CurrentUnusable",
    "Engine",
    "Fold",
    "Inputs",
    "IntegerPolicy",
    "InvalidParameter",
    "KeyPolicy",
    "Measuring",
    "Needs",
    "NoUpdates",
    "NothingToStartFrom",
    "OutOfBudget",
    "ReferenceMissing",
    "Report",
    "ResultNotFinite",
    "StartFrom",
    "StateUnexpected",
    "StateUnusable",
    "TensorMissing",
    "TensorSink",
    "TensorSource",
    "TensorSpec",
    "TooFewUpdates",
    "UnknownAggregator",
    "UnknownParameter",
    "UpdateArrays",
    "UpdateStream",
    "UpdateUnusable",
    "check_params",
    "combine",
    "combine_streams",
    "fewest_updates",
    "find_aggregator",
    "known_aggregators",
    "register",
    "state_tensors",
]
