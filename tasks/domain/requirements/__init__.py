"""Requirements: what must have arrived before a round is aggregated.

A name that is not known is refused where a policy is set, never taken for "no requirement"; a count of clients
counts clients, not rows (DESIGN 11).
"""

from tasks.domain.requirements import composed as composed  # registers all_of, any_of and not
from tasks.domain.requirements import counted as counted  # registers the others
from tasks.domain.requirements.registry import (
    Facts,
    NoArguments,
    Outlook,
    Requirement,
    Verdict,
    check_requirement,
    judge,
    known_requirements,
    may_be_met,
    register,
)

__all__ = [
    "Facts",
    "NoArguments",
    "Outlook",
    "Requirement",
    "Verdict",
    "check_requirement",
    "judge",
    "known_requirements",
    "may_be_met",
    "register",
]
