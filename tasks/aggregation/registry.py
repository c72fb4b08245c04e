"""Aggregators by name, each with its typed parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tasks.aggregation.errors import InvalidParameter, UnknownAggregator, UnknownParameter
from tasks.aggregation.params import AggregatorParams
from tasks.aggregation.streams import Chunk, FloatArray, UpdateStream


@dataclass(frozen=True, slots=True)
class Needs:
    """What combining a chunk takes, settled once before the first chunk."""

    weights: tuple[float, ...]  # one an update, > 0; integer tensors are averaged by them too
    arrays: int  # float64 arrays of a chunk's length alive at once: what the memory budget is divided by


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Two functions make an aggregator: what each chunk needs, and how a chunk is combined.

    The engine owns reading, memory, order, casting, the integer policy and writing. `combine_chunk` gets float
    tensors only, answers float64, and must not depend on where a chunk begins or ends: element by element the
    outcome is the same for any chunk size.
    """

    name: str
    params: type[AggregatorParams]
    needs: Callable[[Any, Sequence[UpdateStream]], Needs]
    combine_chunk: Callable[[Any, Needs, Chunk], FloatArray]


_aggregators: dict[str, Aggregator] = {}


def register(aggregator: Aggregator) -> Aggregator:
    """Make it known under its name. Raises: ValueError for a name that is taken."""
    if aggregator.name in _aggregators:
        raise ValueError(f"an aggregator called {aggregator.name!r} is registered already")
    _aggregators[aggregator.name] = aggregator
    return aggregator


def known_aggregators() -> tuple[str, ...]:
    """Every registered name, sorted."""
    return tuple(sorted(_aggregators))


def find_aggregator(name: str) -> Aggregator:
    """The aggregator of that name. Raises: UnknownAggregator naming the known ones and the nearest."""
    try:
        return _aggregators[name]
    except KeyError:
        raise UnknownAggregator(name, known_aggregators()) from None


def check_params(name: str, params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None) -> AggregatorParams:
    """The aggregator's parameters, typed: from a mapping by name, or from FMA's positional list.

    A list gives the aggregator's own parameters in their order, `integers` last.
    Raises: UnknownAggregator, UnknownParameter, InvalidParameter.
    """
    model = find_aggregator(name).params
    if isinstance(params, AggregatorParams):
        if type(params) is not model:
            raise InvalidParameter(name, "params", f"{type(params).__name__} are another aggregator's parameters")
        return params
    # The base class's fields come first in pydantic's order; FMA's lists start with what is the aggregator's own.
    shared = list(AggregatorParams.model_fields)
    known = [field for field in model.model_fields if field not in shared] + shared
    if params is None:
        params = {}
    if isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence):
        raise InvalidParameter(name, "params", f"give a mapping or a list, not {type(params).__name__}")
    if not isinstance(params, Mapping):
        if len(params) > len(known):
            raise InvalidParameter(
                name, "params", f"{len(params)} were given, it takes {len(known)}: {', '.join(known)}"
            )
        params = dict(zip(known, params, strict=False))
    for given in params:
        if given not in known:
            raise UnknownParameter(name, str(given), known)
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "params"
        raise InvalidParameter(name, where, f"{first['msg']}, not {first['input']!r}") from error
