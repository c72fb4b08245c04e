"""Requirements by name, each with typed arguments and a predicate over the facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from connectors.records import ModelUpdate
from tasks.domain.errors import InvalidPolicy


@dataclass(frozen=True, slots=True)
class Facts:
    """What a requirement may look at: the updates that would count, who could have sent one, and the time."""

    updates: Sequence[ModelUpdate]
    registered_clients: frozenset[int]
    now: int = 0  # milliseconds since 1970, by the clock that `not_before` was set by
    head: int = 0  # the number of the model's newest aggregate

    @property
    def clients(self) -> frozenset[int]:
        """Row ids of the registered clients behind the updates."""
        return frozenset(u.client_id for u in self.updates if u.client_id is not None) & self.registered_clients


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known without looking at any update: at most so many would count, and the newest aggregate's number."""

    updates: int
    head: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a round may be aggregated, and how near it is, for people."""

    is_met: bool
    words: str

    def __str__(self) -> str:
        return self.words


class NoArguments(BaseModel):
    """A requirement that takes none; the base of those that take some."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _always(_arguments: Any, _outlook: Outlook) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Requirement:
    """A predicate over the facts, with typed arguments.

    `may_be_met` spares looks in vain: it is False only where no facts of that outlook could meet the requirement.
    """

    name: str
    arguments: type[NoArguments]
    judge: Callable[[Any, Facts], Verdict]
    may_be_met: Callable[[Any, Outlook], bool] = _always


_requirements: dict[str, Requirement] = {}


def register(requirement: Requirement) -> Requirement:
    """Make it known under its name. Raises: ValueError for a name that is taken."""
    if requirement.name in _requirements:
        raise ValueError(f"a requirement called {requirement.name!r} is registered already")
    _requirements[requirement.name] = requirement
    return requirement


def known_requirements() -> tuple[str, ...]:
    """Every registered name, sorted."""
    return tuple(sorted(_requirements))


def check_requirement(
    name: str | None, arguments: Mapping[str, Any] | Sequence[Any] | None
) -> tuple[str | None, dict[str, Any] | None]:
    """The requirement's name and its arguments by name; FMA's positional list is accepted.

    Raises: InvalidPolicy naming the field, the rule and what is known.
    """
    if not name:
        if arguments:
            raise InvalidPolicy("arguments without a requirement", field="requirement_args")
        return None, None
    requirement, checked = _read(name, arguments)
    return requirement.name, checked.model_dump(mode="json") or None


def judge(name: str | None, arguments: Mapping[str, Any] | Sequence[Any] | None, facts: Facts) -> Verdict:
    """Whether the requirement is met by the facts; without a name, any update meets it. Raises: InvalidPolicy."""
    if not name:
        return Verdict(len(facts.updates) >= 1, f"{len(facts.updates)} of 1 updates")
    requirement, checked = _read(name, arguments)
    return requirement.judge(checked, facts)


def may_be_met(name: str | None, arguments: Mapping[str, Any] | Sequence[Any] | None, outlook: Outlook) -> bool:
    """Whether it is worth while to judge: False where the requirement is not met for certain. Raises: InvalidPolicy."""
    if outlook.updates < 1:
        return False
    if not name:
        return True
    requirement, checked = _read(name, arguments)
    return requirement.may_be_met(checked, outlook)


def _read(name: str, arguments: Mapping[str, Any] | Sequence[Any] | None) -> tuple[Requirement, NoArguments]:
    requirement = _requirements.get(name)
    if requirement is None:
        near = get_close_matches(name, _requirements, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(known_requirements())
        raise InvalidPolicy(f"no requirement is called {name!r}{hint}; known are {known}", field="requirement")
    names = list(requirement.arguments.model_fields)
    try:
        return requirement, requirement.arguments.model_validate(_by_name(name, names, arguments))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidPolicy(
            f"{name}: {where or 'arguments'}: {first['msg']} (it takes {', '.join(names) or 'no arguments'})",
            field=f"requirement_args.{where}".rstrip("."),
        ) from error


def _by_name(name: str, names: list[str], arguments: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any]:
    if arguments is None:
        return {}
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if len(arguments) > len(names):
        raise InvalidPolicy(
            f"{name} takes {len(names)} arguments ({', '.join(names) or 'none'}), not {len(arguments)}",
            field="requirement_args",
        )
    return dict(zip(names, arguments, strict=False))
