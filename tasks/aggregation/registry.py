"""Aggregators by name, each with its typed parameters: what a plugin writes against."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tasks.aggregation.chunks import Chunk
from tasks.aggregation.errors import InvalidParameter, UnknownAggregator, UnknownParameter
from tasks.aggregation.params import AggregatorParams, KeyPolicy
from tasks.aggregation.streams import Array, FloatArray, UpdateStream


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of a round before anything of its tensors is read."""

    updates: tuple[UpdateStream, ...]
    scalars: Mapping[str, FloatArray]  # what the last round left of the aggregator's `scalars`; zeros in the first
    is_first: bool  # no state came in
    budget_bytes: int
    noise_seed: bytes | None = None  # 32 bytes; None: a new one that nobody knows


@dataclass(frozen=True, slots=True)
class Needs:
    """What combining a chunk takes, settled once before the first chunk is combined."""

    weights: tuple[float, ...]  # one an update, at least 0, not all 0; integer tensors are averaged by them too
    arrays: int  # float64 arrays of a chunk's length alive at once: what the memory budget is divided by
    found: Any = None  # whatever else `combine_chunk` must know of all updates
    scalars: Mapping[str, FloatArray | float] = field(default_factory=dict)  # for the next round
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the report, as JSON knows it: picks, epsilon, …


# One pass over the stream: what a segment of a float tensor adds. The engine sums it over all segments, in order.
Fold = Callable[[Chunk], FloatArray]
Measuring = Generator[Fold, FloatArray, Needs]


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Two functions make an aggregator: what each chunk needs, and how a chunk is combined.

    `needs` either returns Needs at once, or measures first: as a generator it yields a Fold for every pass over all
    updates that it wants, is sent its sum, and returns Needs in the end (`distances = yield fold`).
    `combine_chunk` gets float tensors only, answers float64 (or the tensor's dtype, cast once), and must not depend on
    where a chunk begins or ends: element by element the outcome is the same for any chunk size. The engine owns
    reading, threads, memory, order, casting, the integer policy and writing; `combine_chunk` and folds are called by
    several threads at once.
    """

    name: str
    params: type[AggregatorParams]
    needs: Callable[[Any, Inputs], Needs | Measuring]
    combine_chunk: Callable[[Any, Needs, Chunk], Array]
    deltas: bool = False  # works on what an update adds to its base: needs the base or the current model
    state: tuple[str, ...] = ()  # kept between rounds, a float64 tensor for each float tensor: Chunk.state and .keep
    scalars: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # kept likewise: name and shape
    references: tuple[str, ...] = ()  # models it takes beside the updates, each named by the parameter of that name
    by_tensor: bool = False  # combines each tensor by itself, so that `keys = per_tensor` has a meaning
    may_start_from_mean: bool = True  # a first round without any model to start from may be the weighted mean
    floats_only: bool = False  # integers and booleans stay as the current model has them
    # How many updates a round takes at least with these parameters; None: any number. The hub waits for so many before
    # it claims a round; `needs` still refuses fewer, for callers that do not ask first.
    fewest: Callable[[Any], int] | None = None


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


def fewest_updates(name: str, params: Mapping[str, Any] | Sequence[Any] | AggregatorParams | None) -> int:
    """How many updates a round takes at least, the models beside them not counted; 1 where any number will do.

    Raises: UnknownAggregator, UnknownParameter, InvalidParameter.
    """
    fewest = find_aggregator(name).fewest
    return 1 if fewest is None else max(1, fewest(check_params(name, params)))


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
        checked: AggregatorParams = model.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "params"
        raise InvalidParameter(name, where, f"{first['msg']}, not {first['input']!r}") from error
    if checked.keys is KeyPolicy.PER_TENSOR and not find_aggregator(name).by_tensor:
        raise InvalidParameter(name, "keys", "it looks at whole updates, so each must have every tensor: give strict")
    return checked
