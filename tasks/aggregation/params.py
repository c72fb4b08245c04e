"""Parameters of an aggregator: typed, frozen, refused when misspelt."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class IntegerPolicy(StrEnum):
    """What becomes of integer tensors (counters, quantised weights), which have no fractions to average into."""

    ROUNDED_MEAN = "rounded_mean"  # the exact weighted mean, rounded half to even
    MAX = "max"
    LATEST = "latest"  # the last update's, in the order given


class KeyPolicy(StrEnum):
    """What becomes of an update that lacks some of the model's tensors."""

    STRICT = "strict"  # it is refused
    PER_TENSOR = "per_tensor"  # each tensor is combined over the updates that have it, as for adapters (LoRA)


class AggregatorParams(BaseModel):
    """What every aggregator takes; each adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    integers: IntegerPolicy = IntegerPolicy.ROUNDED_MEAN
    keys: KeyPolicy = KeyPolicy.STRICT
