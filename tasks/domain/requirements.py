"""Requirements: what must have arrived before a round is aggregated.

A name that is not known is refused where a policy is set, never taken for "no requirement"; a count of clients
counts clients, not rows (DESIGN 11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectors.records import ModelUpdate
from tasks.domain.errors import InvalidPolicy


@dataclass(frozen=True, slots=True)
class Facts:
    """What a requirement may look at: the updates that would count, and who could have sent one."""

    updates: Sequence[ModelUpdate]
    registered_clients: frozenset[int]

    @property
    def clients(self) -> frozenset[int]:
        """Row ids of the registered clients behind the updates."""
        return frozenset(u.client_id for u in self.updates if u.client_id is not None) & self.registered_clients


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a round may be aggregated, and how near it is."""

    is_met: bool
    have: int
    needed: int
    unit: str

    def __str__(self) -> str:
        return f"{self.have} of {self.needed} {self.unit}"


class NoArguments(BaseModel):
    """A requirement that takes none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AtLeast(NoArguments):
    """A requirement that counts up to `x`."""

    x: int = Field(ge=1, strict=True)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A predicate over the facts, with typed arguments."""

    name: str
    arguments: type[NoArguments]
    judge: Callable[[Any, Facts], Verdict]


def _no_requirement(_arguments: NoArguments, facts: Facts) -> Verdict:
    return Verdict(len(facts.updates) >= 1, len(facts.updates), 1, "updates")


def _all_clients(_arguments: NoArguments, facts: Facts) -> Verdict:
    have, needed = len(facts.clients), len(facts.registered_clients)
    return Verdict(have == needed > 0, have, max(needed, 1), "clients")


def _require_x_updates(arguments: AtLeast, facts: Facts) -> Verdict:
    return Verdict(len(facts.updates) >= arguments.x, len(facts.updates), arguments.x, "updates")


def _require_x_clients(arguments: AtLeast, facts: Facts) -> Verdict:
    return Verdict(len(facts.clients) >= arguments.x, len(facts.clients), arguments.x, "clients")


_ANY_UPDATE = Requirement("any update", NoArguments, _no_requirement)
_REQUIREMENTS = {
    requirement.name: requirement
    for requirement in (
        Requirement("all_clients", NoArguments, _all_clients),
        Requirement("require_x_updates", AtLeast, _require_x_updates),
        Requirement("require_x_clients", AtLeast, _require_x_clients),
    )
}


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
    """Whether the requirement is met by the facts. Raises: InvalidPolicy."""
    if not name:
        return _ANY_UPDATE.judge(NoArguments(), facts)
    requirement, checked = _read(name, arguments)
    return requirement.judge(checked, facts)


def _read(name: str, arguments: Mapping[str, Any] | Sequence[Any] | None) -> tuple[Requirement, NoArguments]:
    requirement = _REQUIREMENTS.get(name)
    if requirement is None:
        near = get_close_matches(name, _REQUIREMENTS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(sorted(_REQUIREMENTS))
        raise InvalidPolicy(f"no requirement is called {name!r}{hint}; known are {known}", field="requirement")
    names = list(requirement.arguments.model_fields)
    if arguments is None:
        named: dict[str, Any] = {}
    elif isinstance(arguments, Mapping):
        named = dict(arguments)
    else:
        if len(arguments) > len(names):
            raise InvalidPolicy(
                f"{name} takes {len(names)} arguments ({', '.join(names) or 'none'}), not {len(arguments)}",
                field="requirement_args",
            )
        named = dict(zip(names, arguments, strict=False))
    try:
        return requirement, requirement.arguments.model_validate(named)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidPolicy(
            f"{name}: {where}: {first['msg']} (it takes {', '.join(names) or 'no arguments'})",
            field=f"requirement_args.{where}",
        ) from error
