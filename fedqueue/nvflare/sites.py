"""What a site's result says, and what the hub knows of the sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from fedqueue.errors import InvalidArgument
from fedqueue.tensors import Array, as_tensors

# FLARE's own, which its controllers write: the name under which the site is registered.
CLIENT_NAME = "client_name"


class UnreadableResult(Exception):
    """A result that no update can be made of; says why."""


def site_of(model: FLModel) -> str:
    """Who sent it. Raises: UnreadableResult."""
    name = (model.meta or {}).get(CLIENT_NAME) or (model.meta or {}).get(FLMetaKey.SITE_NAME)
    if not isinstance(name, str) or not name:
        raise UnreadableResult("the result does not say which site it comes from")
    return name


def weight_of(model: FLModel) -> float:
    """How much it counts: its steps, as in FLARE's own FedAvg, or 1. Raises: UnreadableResult."""
    steps = (model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
    if steps is None:
        return 1.0
    if isinstance(steps, bool) or not isinstance(steps, int | float) or not math.isfinite(steps) or steps <= 0:
        raise UnreadableResult(f"{FLMetaKey.NUM_STEPS_CURRENT_ROUND} must be finite and above 0, not {steps!r}")
    return float(steps)


def whole(model: FLModel, base: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """The site's parameters, whole: a difference is added to what it was made from. Raises: UnreadableResult."""
    if not isinstance(model.params, Mapping) or not model.params:
        raise UnreadableResult("the result has no parameters")
    try:
        tensors = as_tensors(model.params, "params")
    except InvalidArgument as error:
        raise UnreadableResult(str(error)) from error
    if model.params_type != ParamsType.DIFF:
        return tensors
    start = base()
    if tensors.keys() != start.keys():
        unlike = ", ".join(sorted(tensors.keys() ^ start.keys()))
        raise UnreadableResult(f"the differences and the model they are to be added to differ in {unlike}")
    unlike = ", ".join(sorted(name for name in tensors if tensors[name].shape != start[name].shape))
    if unlike:
        raise UnreadableResult(f"the differences have other shapes than the model: {unlike}")
    # In the model's own type: what the site has trained, but for the rounding of that type.
    return {name: (start[name] + tensors[name]).astype(start[name].dtype) for name in tensors}


def numbers_of(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics that are single finite numbers; numpy's are too."""
    numbers: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            continue
        if math.isfinite(value):
            numbers[str(name)] = float(value)
    return numbers


def weighted_mean(said: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Of each metric, over those who gave it."""
    names = {name for _, numbers in said for name in numbers}
    means = {}
    for name in sorted(names):
        given = [(weight, numbers[name]) for weight, numbers in said if name in numbers]
        means[name] = sum(weight * value for weight, value in given) / sum(weight for weight, _ in given)
    return means
