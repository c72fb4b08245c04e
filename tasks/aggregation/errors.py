"""What the engine refuses, and which update is at fault."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class AggregationError(Exception):
    """The root of the engine's errors. Whatever raised it, nothing of the outcome may be used."""


class UnknownAggregator(AggregationError):
    """No aggregator of that name is registered."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(known)
        self.nearest = nearest_of(name, known)
        super().__init__(f"no aggregator is called {name!r}{_hint(self.nearest)}; known are {', '.join(known)}")


class UnknownParameter(AggregationError):
    """The aggregator has no parameter of that name."""

    def __init__(self, aggregator: str, name: str, known: Sequence[str]) -> None:
        self.aggregator = aggregator
        self.name = name
        self.known = tuple(known)
        self.nearest = nearest_of(name, known)
        super().__init__(f"{aggregator} has no parameter {name!r}{_hint(self.nearest)}; it takes {', '.join(known)}")


class InvalidParameter(AggregationError):
    """A parameter's value is not one that the aggregator can work with."""

    def __init__(self, aggregator: str, name: str, reason: str) -> None:
        super().__init__(f"{aggregator}: {name}: {reason}")
        self.aggregator = aggregator
        self.name = name
        self.reason = reason


class StateUnexpected(AggregationError):
    """State was handed to an aggregator that keeps none between rounds."""

    def __init__(self, aggregator: str) -> None:
        super().__init__(f"{aggregator} keeps no state between rounds: leave `state` out")
        self.aggregator = aggregator


class StateUnusable(AggregationError):
    """The state of the last round is not the one that this aggregator keeps for this model."""

    def __init__(self, aggregator: str, reason: str) -> None:
        super().__init__(f"{aggregator}: its state {reason}; go on with the state it left, or with none to start anew")
        self.aggregator = aggregator
        self.reason = reason


class NothingToStartFrom(AggregationError):
    """The aggregator works on what updates add to a model, and neither that model nor the current one is known."""

    def __init__(self, aggregator: str, label: str) -> None:
        super().__init__(f"{aggregator} works on deltas: give the current model, or {label} the base it started from")
        self.aggregator = aggregator


class TooFewUpdates(AggregationError):
    """The aggregator's guarantee does not hold for so few updates."""

    def __init__(self, aggregator: str, given: int, needed: int, why: str) -> None:
        super().__init__(f"{aggregator} needs {needed} updates or more ({why}), not {given}")
        self.aggregator = aggregator
        self.given = given
        self.needed = needed


class ReferenceMissing(AggregationError):
    """A model that the aggregator takes beside the updates was not given."""

    def __init__(self, aggregator: str, name: str) -> None:
        super().__init__(f"{aggregator} needs the model that its parameter {name!r} names")
        self.aggregator = aggregator
        self.name = name


class TensorMissing(AggregationError):
    """No update has the tensor, and there is no current model to take it from."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"tensor {tensor!r} is in no update, and no current model was given to take it from")
        self.tensor = tensor


class OutOfBudget(AggregationError):
    """What must be kept at once does not fit the memory budget."""

    def __init__(self, aggregator: str, needed: int, budget: int) -> None:
        super().__init__(f"{aggregator} needs {needed} bytes of memory for so many updates, the budget is {budget}")
        self.aggregator = aggregator
        self.needed = needed
        self.budget = budget


class NoUpdates(AggregationError):
    """There is nothing to combine."""

    def __init__(self) -> None:
        super().__init__("no updates were given: an aggregate needs at least one")


class UpdateUnusable(AggregationError):
    """One update can't take part; without it the others can be combined.

    `index` is its position among the updates given, `reason_code` one of SCHEMA, SHAPE, DTYPE, WEIGHT, NOT_FINITE.
    """

    def __init__(self, index: int, reason_code: str, reason: str, label: str = "") -> None:
        super().__init__(f"{label or f'update at position {index}'}: {reason}")
        self.index = index
        self.reason_code = reason_code
        self.reason = reason
        self.label = label


class CurrentUnusable(AggregationError):
    """The model to start from, or another given beside the updates, can't be combined with them: none is at fault."""

    def __init__(self, reason: str, what: str = "the current model") -> None:
        super().__init__(f"{what}: {reason}")
        self.reason = reason


class ResultNotFinite(AggregationError):
    """Every update is finite, but what came of them does not fit the tensor's dtype."""

    def __init__(self, tensor: str, element: int, dtype: str) -> None:
        super().__init__(
            f"{tensor}[{element}] is beyond what {dtype} can hold although every update's value is finite: "
            "keep the model in a wider dtype, or lower what makes it grow"
        )
        self.tensor = tensor
        self.element = element
        self.dtype = dtype


def nearest_of(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` was most likely meant to be; None if none is near."""
    found = get_close_matches(name.lower(), known, n=1)
    return found[0] if found else None


def _hint(nearest: str | None) -> str:
    return f" (did you mean {nearest!r}?)" if nearest else ""
