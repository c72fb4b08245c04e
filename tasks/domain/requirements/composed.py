"""Requirements made of others: all_of, any_of, not (DESIGN 7).

{"requirement": "any_of", "requirement_args": {"of": [
    {"requirement": "all_clients"},
    {"requirement": "deadline", "args": {"seconds": 600, "min_updates": 3}}]}}
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.domain.errors import InvalidPolicy
from tasks.domain.requirements.registry import (
    Facts,
    NoArguments,
    Outlook,
    Requirement,
    Verdict,
    check_requirement,
    judge,
    may_be_met,
    register,
)


class Clause(BaseModel):
    """One of the requirements that another is made of, its arguments checked and named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requirement: str = Field(min_length=1)
    args: dict[str, Any] | list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("requirement"), str):
            try:
                name, arguments = check_requirement(given["requirement"], given.get("args"))
            except InvalidPolicy as error:
                raise ValueError(error.reason) from error
            return {**given, "requirement": name, "args": arguments}
        return given

    def judge(self, facts: Facts) -> Verdict:
        """Its verdict, with its name."""
        verdict = judge(self.requirement, self.args, facts)
        return Verdict(verdict.is_met, f"{self.requirement} ({verdict})")

    def may_be_met(self, outlook: Outlook) -> bool:
        """Whether it is worth while to judge."""
        return may_be_met(self.requirement, self.args, outlook)


class Several(NoArguments):
    """A list of clauses."""

    of: tuple[Clause, ...] = Field(min_length=1, max_length=20)


class One(NoArguments):
    """A single clause."""

    of: Clause


def _all_of(arguments: Several, facts: Facts) -> Verdict:
    verdicts = [clause.judge(facts) for clause in arguments.of]
    return Verdict(all(v.is_met for v in verdicts), " and ".join(v.words for v in verdicts))


def _any_of(arguments: Several, facts: Facts) -> Verdict:
    verdicts = [clause.judge(facts) for clause in arguments.of]
    return Verdict(any(v.is_met for v in verdicts), " or ".join(v.words for v in verdicts))


def _not(arguments: One, facts: Facts) -> Verdict:
    verdict = arguments.of.judge(facts)
    return Verdict(bool(facts.updates) and not verdict.is_met, f"not {verdict.words}")


def _all_may(arguments: Several, outlook: Outlook) -> bool:
    return all(clause.may_be_met(outlook) for clause in arguments.of)


def _any_may(arguments: Several, outlook: Outlook) -> bool:
    return any(clause.may_be_met(outlook) for clause in arguments.of)


register(Requirement("all_of", Several, _all_of, _all_may))
register(Requirement("any_of", Several, _any_of, _any_may))
register(Requirement("not", One, _not))
