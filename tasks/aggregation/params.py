"""Parameters of an aggregator: typed, frozen, refused when misspelt."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class IntegerPolicy(StrEnum):
    """What becomes of integer tensors (counters, quantised weights), which have no fractions to average into."""

    ROUNDED_MEAN = "rounded_mean"  # the exact weighted mean, rounded half to even
    MAX = "max"
    LATEST = "latest"  # the last update's, in the order given


class AggregatorParams(BaseModel):
    """What every aggregator takes; each adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    integers: IntegerPolicy = IntegerPolicy.ROUNDED_MEAN
