"""Aggregates computed anew from the stored bytes, in exact integer arithmetic: no rounding can excuse a difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from tests.chaos.facts import Row

# Named arrays, or FMA's nested lists.
Model = dict[str, NDArray[Any]] | list[Any]


class BlobWrong(Exception):
    """The bytes that a row names are not there, or are others."""


def check_blob(row: Row) -> bytes:
    """The bytes that the row names. Raises: BlobWrong."""
    path = Path(unquote(urlsplit(row["data_uri"]).path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BlobWrong(f"{row['data_uri']} can't be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != row["data_digest"]:
        raise BlobWrong(f"{row['data_uri']} holds other bytes than {row['data_digest']}")
    if len(content) != row["data_size"]:
        raise BlobWrong(f"{row['data_uri']} has {len(content)} bytes, its row says {row['data_size']}")
    return content


def read_model(row: Row, data_format: str) -> Model:
    """The model that the row names. Raises: BlobWrong."""
    content = check_blob(row)
    if data_format == "json":
        lists: list[Any] = json.loads(content)
        return lists
    arrays: dict[str, NDArray[Any]] = load(content)
    return arrays


def mean_of(inputs: Sequence[Model], weights: Sequence[float]) -> Model:
    """The weighted mean, element by element: an exact sum of integers, divided once, rounded once to the dtype."""
    whole = [_integer(weight) for weight in weights]
    first = inputs[0]
    if isinstance(first, list):
        lists: list[Any] = _mean_of_lists(inputs, whole)
        return lists
    mean: dict[str, NDArray[Any]] = {}
    for name, like in first.items():
        total: Any = sum(
            _integers(arrays[name]) * weight
            for arrays, weight in zip(inputs, whole, strict=True)
            if isinstance(arrays, dict)
        )
        # int64 / int64 in numpy rounds each to float64 first: exact below 2**53, which integer test data keep.
        assert np.abs(total).max(initial=0) < 2**53
        mean[name] = (total / sum(whole)).astype(like.dtype)
    return mean


def _mean_of_lists(inputs: Sequence[Any], weights: Sequence[int]) -> Any:
    if isinstance(inputs[0], list):
        return [_mean_of_lists(parts, weights) for parts in zip(*inputs, strict=True)]
    return sum(_integer(value) * weight for value, weight in zip(inputs, weights, strict=True)) / sum(weights)


def same_bits(left: Model, right: Model) -> bool:
    """Whether two models are the same to the bit."""
    if isinstance(left, list) or isinstance(right, list):
        return left == right
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def _integers(values: NDArray[Any]) -> NDArray[np.int64]:
    whole = values.astype(np.int64)
    assert np.array_equal(whole, values), "test data must be integers"
    return whole


@cache
def _integer(value: float) -> int:
    assert value == int(value), "test data must be integers"
    return int(value)
