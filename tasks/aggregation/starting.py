"""What a round starts from: the current model, the updates' bases, or (a first round) nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.aggregation.errors import NothingToStartFrom, ReferenceMissing
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.registry import Aggregator, check_params, find_aggregator
from tasks.aggregation.streams import TensorSource, TensorSpec, UpdateStream
from tasks.aggregation.structure import check_model

_MEAN = "fedavg"


class StartFrom(StrEnum):
    """What an aggregator of deltas does where there is no model to subtract."""

    NOTHING = "nothing"  # it refuses
    MEAN = "mean"  # the updates' mean, weighted by num_examples, becomes the model: a hub's first round


@dataclass(frozen=True, slots=True)
class Start:
    """What the round computes with."""

    algorithm: Aggregator
    current: TensorSource | None
    params: AggregatorParams | None = None  # None: the round's own
    facts: Mapping[str, Any] = field(default_factory=dict)


def starting_point(
    algorithm: Aggregator,
    updates: Sequence[UpdateStream],
    tensors: Sequence[TensorSpec],
    current: TensorSource | None,
    references: Mapping[str, TensorSource],
    without_model: StartFrom,
) -> Start:
    """The algorithm and the model that it starts from.

    Where updates name their bases but no current model is given, the base of the least stale (of equals, the last)
    is the current model.
    Raises: NothingToStartFrom, ReferenceMissing, CurrentUnusable.
    """
    for name in algorithm.references:
        if name not in references:
            raise ReferenceMissing(algorithm.name, name)
        check_model(references[name], tensors, f"the model {name!r}")
    if current is not None:
        check_model(current, tensors, "the current model")
    if not algorithm.deltas:
        return Start(algorithm, current)
    for index, update in enumerate(updates):
        if update.base is not None:
            check_model(update.base, tensors, f"the base of {update.label or f'update {index}'}")
        elif current is None:
            if without_model is StartFrom.MEAN and algorithm.may_start_from_mean:
                mean = check_params(_MEAN, {})
                return Start(find_aggregator(_MEAN), None, mean, {"started_from": "the weighted mean"})
            raise NothingToStartFrom(algorithm.name, update.label or f"update {index}")
    if current is None:
        current = min(reversed(updates), key=lambda update: update.staleness).base
    return Start(algorithm, current)
