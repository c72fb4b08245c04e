"""Requirements that count: updates, clients, examples, seconds, aggregates (DESIGN 7)."""

from __future__ import annotations

from math import ceil, fsum

from pydantic import Field

from tasks.domain.requirements.registry import Facts, NoArguments, Outlook, Requirement, Verdict, register


class AtLeast(NoArguments):
    """At least `x` of them."""

    x: int = Field(ge=1, strict=True)


class Fraction(NoArguments):
    """A share of the registered clients."""

    fraction: float = Field(gt=0, le=1)


class Examples(NoArguments):
    """At least `n` examples."""

    n: float = Field(gt=0)


class Deadline(NoArguments):
    """So long after the first ready update, if so many are there."""

    seconds: float = Field(gt=0)
    min_updates: int = Field(default=1, ge=1, strict=True)


class Released(NoArguments):
    """Aggregates up to that number."""

    number: int = Field(ge=0, strict=True)


def _at_least(have: int, needed: int, unit: str) -> Verdict:
    return Verdict(have >= needed, f"{have} of {needed} {unit}")


def _all_clients(_arguments: NoArguments, facts: Facts) -> Verdict:
    # Nobody registered is not everybody: an empty round must not be aggregated.
    return _at_least(len(facts.clients), max(1, len(facts.registered_clients)), "clients")


def _require_x_updates(arguments: AtLeast, facts: Facts) -> Verdict:
    return _at_least(len(facts.updates), arguments.x, "updates")


def _require_x_clients(arguments: AtLeast, facts: Facts) -> Verdict:
    return _at_least(len(facts.clients), arguments.x, "clients")


def _require_fraction(arguments: Fraction, facts: Facts) -> Verdict:
    # Rounded first: 0.7 of 10 is 7, though 0.7 * 10 is a little more in binary.
    needed = ceil(round(arguments.fraction * len(facts.registered_clients), 9))
    return _at_least(len(facts.clients), max(1, needed), "clients")


def _min_examples(arguments: Examples, facts: Facts) -> Verdict:
    have = fsum(update.num_examples for update in facts.updates)
    return Verdict(have >= arguments.n, f"{have:g} of {arguments.n:g} examples")


def _deadline(arguments: Deadline, facts: Facts) -> Verdict:
    enough = _at_least(len(facts.updates), arguments.min_updates, "updates")
    if not facts.updates:
        return Verdict(False, f"{enough}, {arguments.seconds:g} s after the first")
    waited = (facts.now - min(update.not_before for update in facts.updates)) / 1000
    words = f"{enough}, {min(waited, arguments.seconds):.1f} of {arguments.seconds:g} s since the first"
    return Verdict(enough.is_met and waited >= arguments.seconds, words)


def _released(arguments: Released, facts: Facts) -> Verdict:
    words = f"{len(facts.updates)} of 1 updates, aggregate {facts.head + 1}, released up to {arguments.number}"
    return Verdict(bool(facts.updates) and facts.head < arguments.number, words)


def _at_least_x(arguments: AtLeast, outlook: Outlook) -> bool:
    return outlook.updates >= arguments.x


def _at_least_min_updates(arguments: Deadline, outlook: Outlook) -> bool:
    return outlook.updates >= arguments.min_updates


def _is_released(arguments: Released, outlook: Outlook) -> bool:
    return outlook.head < arguments.number


register(Requirement("all_clients", NoArguments, _all_clients))
register(Requirement("require_x_updates", AtLeast, _require_x_updates, _at_least_x))
register(Requirement("require_x_clients", AtLeast, _require_x_clients, _at_least_x))
register(Requirement("require_fraction", Fraction, _require_fraction))
register(Requirement("min_examples", Examples, _min_examples))
register(Requirement("deadline", Deadline, _deadline, _at_least_min_updates))
register(Requirement("released", Released, _released, _is_released))
