"""Where an update's time goes: the spans that traced workers wrote, put in the order of one update's way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedqueue.messages.names import ROUNDS_AGGREGATE, UPDATES_SUBMIT

Span = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of the way: medians over the updates; what was done in it."""

    name: str
    milliseconds: float
    statements: int = 0
    fsyncs: int = 0
    fsync_milliseconds: float = 0.0


def read_spans(trace: Path) -> list[Span]:
    """Every span of the trace, by its beginning."""
    return sorted(map(json.loads, trace.read_text().splitlines()), key=lambda span: float(span["began"]))


def stages_of(spans: Sequence[Span], updates: Sequence[tuple[float, float]]) -> list[Stage]:
    """The stages of one update's way. `updates`: when each was handed to the client, and seen in the database."""
    ways = [way for handed, seen in updates if (way := _way(spans, handed, seen)) is not None]
    if not ways:
        raise ValueError("the trace holds no whole way of an update")
    stages = []
    for position, (name, _, _) in enumerate(ways[0]):
        took = median(way[position][1] for way in ways)
        done = [way[position][2] for way in ways]
        stages.append(
            Stage(
                name,
                took * 1000,
                round(median(d["statements"] for d in done)),
                round(median(d["fsyncs"] for d in done)),
                median(d["fsync_seconds"] for d in done) * 1000,
            )
        )
    return stages


_NOTHING = {"statements": 0, "fsyncs": 0, "fsync_seconds": 0.0}


def _way(spans: Sequence[Span], handed: float, seen: float) -> list[tuple[str, float, Mapping[str, float]]] | None:
    """(stage, seconds, what was done in it) of one update; None if it was disturbed (another task in between)."""
    within = [span for span in spans if handed <= span["began"] <= seen]
    submits = [s for s in spans if s["span"] == f"task {UPDATES_SUBMIT}" and handed <= s["began"] <= seen]
    combines = [s for s in within if s["span"] == "combine"]
    if len(submits) != 1 or len(combines) != 1:
        return None
    submit, combine = submits[0], combines[0]
    rounds = [s for s in spans if s["span"] == f"task {ROUNDS_AGGREGATE}" and _holds(s, combine)]
    client = [s for s in within if s["span"] == "client store" and s["began"] < submit["began"]]
    taken = [s for s in within if s["span"] == "take in" and _holds(submit, s)]
    written = [s for s in within if s["span"] == "transaction" and _holds(submit, s)]
    hint = [s for s in within if s["span"] == "send" and _holds(submit, s)]
    if not (len(rounds) == len(client) == len(taken) == len(written) == len(hint) == 1):
        return None
    task = rounds[0]
    transactions = [s for s in spans if s["span"] == "transaction" and _holds(task, s)]
    stored = [s for s in within if s["span"] == "store" and _holds(combine, s)]
    if len(transactions) != 2 or len(stored) != 1:
        return None
    claim, post = transactions
    store = stored[0]
    before_store = _less(combine, store)
    return [
        ("client: data into the store", _length(client[0]), client[0]),
        ("queue: to the submit task", submit["began"] - client[0]["ended"], _NOTHING),
        (
            "submit: look up, check the data",
            taken[0]["ended"] - submit["began"],
            _less(_less(submit, written[0]), hint[0]),
        ),
        ("submit: write the update", _length(written[0]), written[0]),
        ("submit: send the hint", _length(hint[0]), hint[0]),
        ("queue: to the aggregate task", max(0.0, task["began"] - hint[0]["ended"]), _NOTHING),
        ("aggregate: find the model", claim["began"] - task["began"], _NOTHING),
        ("aggregate: claim", _length(claim), claim),
        ("aggregate: read and combine", _length(combine) - _length(store), before_store),
        ("aggregate: store, fsynced", _length(store), store),
        ("aggregate: post", _length(post), post),
        ("all until seen in the database", seen - handed, _NOTHING),
    ]


def _holds(outer: Span, inner: Span) -> bool:
    return bool(outer["pid"] == inner["pid"] and outer["began"] <= inner["began"] and inner["ended"] <= outer["ended"])


def _length(span: Span) -> float:
    return float(span["ended"] - span["began"])


def _less(outer: Span, inner: Span) -> Mapping[str, float]:
    return {key: outer[key] - inner[key] for key in _NOTHING}
