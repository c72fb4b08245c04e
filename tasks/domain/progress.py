"""How far a run has come, from the largest round of each kind that was told: repeats and disorder change nothing.

Pure. A connector gathers the ProgressFacts; what follows from them is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from statistics import median
from types import MappingProxyType
from typing import Final
from uuid import UUID

from connectors.records import ProgressFacts, Sender

_LAST_ROUNDS: Final = 10  # whose durations tell how long the next ones take


class ParticipantState(StrEnum):
    """Where a participant stands in the run."""

    TRAINING = "training"  # a round is under way, and nothing has come back from it yet
    RETURNED = "returned"  # its result of the round is there
    DROPPED = "dropped"  # it has failed since it last returned one
    WAITING = "waiting"  # nothing is asked of it, as far as is known: between two rounds, or left out of them


@dataclass(frozen=True, slots=True)
class Member:
    """One who is meant to take part: `key` is what ProgressFacts call it, a trust's row id or a name."""

    key: Sender
    name: str
    trust_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Participant:
    """Where one of them stands, and the newest round it returned a result in (0: none)."""

    member: Member
    state: ParticipantState
    last_round: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A run's rounds, counted from 1, and who takes part."""

    current_round: int
    completed_rounds: int
    total_rounds: int | None
    participants: tuple[Participant, ...]
    eta_seconds: float | None


def progress_of(
    facts: ProgressFacts,
    members: Sequence[Member],
    *,
    max_rounds: int | None,
    is_over: bool,
    now: datetime,
    names: Mapping[Sender, str] = MappingProxyType({}),
) -> Progress:
    """The progress that the facts amount to at the time `now`.

    `members` are those who are meant to take part; who was heard of besides comes after them, called as in `names`,
    else by the key itself. `max_rounds` is the model's own total, for runs that tell none. Seconds left: the median
    duration of the last rounds for each round that is left, less what the present one has taken; None if no total or
    duration is known, or the run is over.
    """
    current = max(facts.started_round, facts.aggregated_round, *facts.returned.values(), 0)
    total = facts.total_rounds if facts.total_rounds is not None else max_rounds
    known = {member.key for member in members}
    others = sorted({*facts.returned, *facts.dropped} - known, key=str)
    everyone = [*members, *(Member(key, names.get(key, str(key))) for key in others)]
    under_way = not is_over and current > facts.aggregated_round
    return Progress(
        current_round=current,
        completed_rounds=facts.aggregated_round,
        total_rounds=total,
        participants=tuple(_participant(member, facts, current, under_way, is_over) for member in everyone),
        eta_seconds=None if is_over or total is None else _seconds_left(facts, total, now),
    )


def _participant(member: Member, facts: ProgressFacts, current: int, under_way: bool, is_over: bool) -> Participant:
    returned = facts.returned.get(member.key, 0)
    dropped = facts.dropped.get(member.key)
    if (dropped is not None and dropped >= max(returned + 1, 0)) or dropped == 0 == returned:
        state = ParticipantState.DROPPED
    elif returned and (returned >= current or is_over):
        state = ParticipantState.RETURNED
    else:
        state = ParticipantState.TRAINING if under_way else ParticipantState.WAITING
    return Participant(member, state, returned)


def _seconds_left(facts: ProgressFacts, total: int, now: datetime) -> float | None:
    left = total - facts.aggregated_round
    if left <= 0:
        return 0.0
    durations = list(_durations(facts.round_times))[-_LAST_ROUNDS:]
    if not durations:
        return None
    each = median(durations)
    since = {number: end for number, _start, end in facts.round_times}.get(facts.aggregated_round)
    taken = 0.0 if since is None else max(0.0, (now - since).total_seconds())
    return (left - 1) * each + max(0.0, each - taken)


def _durations(round_times: Iterable[tuple[int, datetime | None, datetime | None]]) -> Iterator[float]:
    """Seconds of each finished round, by ascending round.

    From the end of the round before, not from its own start: what passes between two rounds is part of what is left,
    and the hub's own rounds are said to start only when everything has been returned.
    """
    ends = {number: end for number, _start, end in round_times}
    for number, start, end in sorted(round_times, key=lambda times: times[0]):
        begin = ends.get(number - 1) or start
        if begin is not None and end is not None and end > begin:
            yield (end - begin).total_seconds()
