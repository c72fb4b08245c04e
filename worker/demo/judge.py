"""The judge: were all accepted updates counted, each once? Found out from the hub's files, not from the hub.

It reads the database with sqlite3 and the blobs with numpy, and imports nothing of the application: an error shared
by hub and judge could not be seen. Each aggregate is computed anew from the updates that its rows name.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

Arrays = dict[str, NDArray[Any]]
Fetch = Callable[[str], bytes]


@dataclass(frozen=True)
class Accepted:
    """One submission that a participant saw accepted."""

    submission_id: UUID
    num_examples: float


@dataclass(frozen=True)
class JudgedAggregate:
    """One aggregate as the hub's files have it."""

    number: int
    num_updates: int
    num_examples: float
    arrays: Arrays = field(repr=False)


@dataclass
class Verdict:
    """What was found. `problems` says every single thing that is not as it should be, for people."""

    aggregates: list[JudgedAggregate] = field(default_factory=list)
    submitted: int = 0
    lost: set[UUID] = field(default_factory=set)
    counted_twice: set[UUID] = field(default_factory=set)
    set_aside: int = 0  # INVALID with a reason: not counted, and the participant could know
    rounds_cut_short: int = 0  # claims that did not end in a post: their worker died, or gave them back
    problems: list[str] = field(default_factory=list)
    listed: set[UUID] = field(default_factory=set, repr=False)  # submissions that some manifest lists


def read_journals(journals: Iterable[Path]) -> list[Accepted]:
    """Every submission that the participants wrote down."""
    lines = (line for journal in journals for line in journal.read_text(encoding="utf-8").splitlines())
    entries = map(json.loads, lines)
    return [Accepted(UUID(entry["submission_id"]), entry["num_examples"]) for entry in entries]


def _from_file(uri: str) -> bytes:
    return Path(unquote(urlsplit(uri).path)).read_bytes()


def judge(database: Path, model_id: UUID, accepted: Sequence[Accepted], fetch: Fetch = _from_file) -> Verdict:
    """What became of the accepted submissions, by the hub's database and store. Nothing may run on them any more.

    `fetch`: the bytes behind a row's reference, where the store is not a folder.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        by_uuid = "SELECT id FROM federated_model WHERE uuid IN (?, ?)"
        model = connection.execute(by_uuid, (model_id.hex, str(model_id))).fetchone()
        if model is None:
            raise ValueError(f"{database} knows no model {model_id}")
        updates = connection.execute(
            "SELECT * FROM model_update WHERE model_id = ? ORDER BY id", (model["id"],)
        ).fetchall()
        aggregates = connection.execute(
            "SELECT * FROM model_aggregate WHERE model_id = ? ORDER BY number", (model["id"],)
        ).fetchall()
        (cut_short,) = connection.execute(
            "SELECT COUNT(*) FROM round WHERE model_id = ? AND state <> 'POSTED'", (model["id"],)
        ).fetchone()
    verdict = Verdict(submitted=len(accepted), rounds_cut_short=cut_short)
    _check_submissions(verdict, accepted, updates, aggregates)
    _check_chain(verdict, aggregates)
    for aggregate in aggregates:
        used = [row for row in updates if row["applied_aggregate_id"] == aggregate["id"]]
        _check_aggregate(verdict, aggregate, used, fetch)
    return verdict


def _check_submissions(
    verdict: Verdict, accepted: Sequence[Accepted], updates: Sequence[sqlite3.Row], aggregates: Sequence[sqlite3.Row]
) -> None:
    posted = {row["id"] for row in aggregates}
    rows: dict[UUID, list[sqlite3.Row]] = {}
    for row in updates:
        rows.setdefault(UUID(row["submission_id"]), []).append(row)
    for submission in accepted:
        found = rows.get(submission.submission_id, [])
        counted = [row for row in found if row["status"] == "COMPLETE" and row["applied_aggregate_id"] in posted]
        excused = [row for row in found if row["status"] == "INVALID" and row["reason_code"] and row["reason"]]
        if len(counted) > 1:
            verdict.counted_twice.add(submission.submission_id)
            verdict.problems.append(f"submission {submission.submission_id} is in {len(counted)} aggregates")
        elif excused and not counted:
            verdict.set_aside += 1
        elif not counted:
            verdict.lost.add(submission.submission_id)
            states = ", ".join(row["status"] for row in found) or "unknown to the hub"
            verdict.problems.append(
                f"submission {submission.submission_id} was accepted and is in no aggregate ({states})"
            )
        for row in counted:
            if row["num_examples"] != submission.num_examples:
                weighs, wanted = row["num_examples"], submission.num_examples
                verdict.problems.append(f"submission {submission.submission_id} weighs {weighs:g}, not {wanted:g}")
    for submission_id, times in Counter(submission.submission_id for submission in accepted).items():
        if times > 1:
            verdict.problems.append(f"submission {submission_id} was written down {times} times")
    strangers = {row_id for row_id, found in rows.items() if any(row["status"] == "COMPLETE" for row in found)}
    for row_id in sorted(strangers - {submission.submission_id for submission in accepted}, key=str):
        verdict.problems.append(f"submission {row_id} is in an aggregate, but nobody saw it accepted")


def _check_chain(verdict: Verdict, aggregates: Sequence[sqlite3.Row]) -> None:
    parent = None
    for number, row in enumerate(aggregates, start=1):
        if row["number"] != number or row["parent_id"] != parent:
            verdict.problems.append(f"aggregate {row['number']} does not follow the one before it")
        parent = row["id"]


def _check_aggregate(verdict: Verdict, aggregate: sqlite3.Row, used: Sequence[sqlite3.Row], fetch: Fetch) -> None:
    number = aggregate["number"]
    posted = _read(aggregate, fetch)
    verdict.aggregates.append(JudgedAggregate(number, aggregate["num_updates"], aggregate["num_examples"], posted))
    if aggregate["num_updates"] != len(used):
        verdict.problems.append(
            f"aggregate {number} says that it holds {aggregate['num_updates']} updates; {len(used)} name it"
        )
    examples = sum(row["num_examples"] for row in used)
    if aggregate["num_examples"] != examples:
        said = aggregate["num_examples"]
        verdict.problems.append(
            f"aggregate {number} says that it holds {said:g} examples; its updates have {examples:g}"
        )
    listed = [UUID(entry["submission_id"]) for entry in json.loads(aggregate["manifest"])["inputs"]]
    if listed != [UUID(row["submission_id"]) for row in used]:
        verdict.problems.append(f"aggregate {number}'s manifest lists other updates than name it")
    verdict.counted_twice.update(id_ for id_, times in Counter(listed).items() if times > 1)
    verdict.counted_twice.update(verdict.listed.intersection(listed))
    verdict.listed.update(listed)
    inputs = [(_read(row, fetch), row["num_examples"]) for row in used]
    seen: set[str] = set()
    for row in used:
        # The same values under two submission ids count twice without any row being wrong.
        if row["data_digest"] in seen:
            verdict.counted_twice.add(UUID(row["submission_id"]))
            verdict.problems.append(f"aggregate {number} holds the values of {row['submission_id']} twice")
        seen.add(row["data_digest"])
    if not inputs or not _same_bytes(posted, weighted_mean(inputs)):
        verdict.problems.append(f"aggregate {number} is not the weighted mean of its updates")


def weighted_mean(inputs: Sequence[tuple[Arrays, float]]) -> Arrays:
    """The sum of weight times values, in the order given, over the sum of weights: float64, rounded once at the end."""
    total = sum(weight for _, weight in inputs)
    mean: Arrays = {}
    for name, first in inputs[0][0].items():
        summed = np.zeros(first.shape, np.float64)
        for arrays, weight in inputs:
            summed += arrays[name].astype(np.float64) * weight
        mean[name] = (summed / total).astype(first.dtype)
    return mean


def _same_bytes(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def _read(row: sqlite3.Row, fetch: Fetch) -> Arrays:
    """The row's blob, if its bytes are those that the row names. Raises: ValueError otherwise."""
    content = fetch(row["data_uri"])
    if hashlib.sha256(content).hexdigest() != row["data_digest"]:
        raise ValueError(f"{row['data_uri']} does not hold the bytes that its row names")
    arrays: Arrays = load(content)
    return arrays
