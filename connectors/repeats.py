"""Entries that carry an `event_id`: which of a batch are new, which repeat what is there, which contradict it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from connectors.records import Kept, LogEntry, Metric, NewLog, NewMetric

New = TypeVar("New", NewLog, NewMetric)
Standing = TypeVar("Standing")


def first_of_each(entries: Sequence[New], live_models: Collection[int]) -> dict[UUID, New]:
    """By event id, in order: the entries that are to be written unless their event is there already."""
    firsts: dict[UUID, New] = {}
    for entry in entries:
        if entry.model_id in live_models:
            firsts.setdefault(entry.event_id, entry)
    return firsts


def what_became(
    entries: Sequence[New],
    live_models: Collection[int],
    standing: Mapping[UUID, Standing],
    is_same: Callable[[New, New | Standing], bool],
    elsewhere: Container[UUID] = frozenset(),
) -> list[Kept]:
    """For each entry of a batch. `standing`: by event id, what was there before; of other events the first is new.

    `elsewhere`: the event ids that stand for something of another kind: a point's, if these are a feed's entries.
    """
    became: list[Kept] = []
    firsts: dict[UUID, New] = {}
    for entry in entries:
        if entry.model_id not in live_models:
            became.append(Kept.DELETED)
        elif entry.event_id in elsewhere:
            became.append(Kept.CONFLICT)
        elif entry.event_id not in standing and entry.event_id not in firsts:
            firsts[entry.event_id] = entry
            became.append(Kept.NEW)
        else:
            there = standing[entry.event_id] if entry.event_id in standing else firsts[entry.event_id]
            became.append(Kept.REPEATED if is_same(entry, there) else Kept.CONFLICT)
    return became


def is_same_log(new: NewLog, there: NewLog | LogEntry) -> bool:
    """Whether both are the same message, as far as its sender wrote it."""
    return (
        _is_same_fact(new, there)
        and new.event_type == there.event_type
        and new.log == there.log
        and new.success == there.success
        and new.global_round == there.global_round
        and is_same_json(new.details, there.details)
    )


def is_same_metric(new: NewMetric, there: NewMetric | Metric) -> bool:
    """Whether both are the same message, as far as its sender wrote it."""
    return (
        _is_same_fact(new, there)
        and (new.label, new.x_label) == (there.label, there.x_label)
        and (new.x_value, new.result, new.global_round) == (there.x_value, there.result, there.global_round)
    )


def is_same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, however a database spells their numbers (1e300 comes back as a whole one)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same_json, one, other))
    if _is_number(one) and _is_number(other):
        return bool(one == other) or _as_float(one) == _as_float(other)
    return type(one) is type(other) and bool(one == other)


def is_same_run(named: UUID | None, there: UUID | None) -> bool:
    """Whether what names that run (None: "the current one") may be what is there."""
    return named is None or there is None or named == there


def _is_same_fact(new: NewLog | NewMetric, there: NewLog | LogEntry | NewMetric | Metric) -> bool:
    # The trust of a name may have changed since, and so may the run that "the current one" was: the hub found both.
    return (
        new.model_id == there.model_id
        and new.fl_client_name == there.fl_client_name
        and (new.fl_client_name is not None or new.trust_id == there.trust_id)
        and is_same_run(new.run_id, there.run_id)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None
