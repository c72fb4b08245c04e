"""The invariants of DESIGN 4.4, and that nothing was lost on the way, judged from the database and the store alone.

Checked: I1, I2, I3, I4, I7 and I9, each as far as rows can show it; I5 by the audit's order and, run by run, by the
feed's; I6 for the hub's own events (a test that sends others counts them itself, with what it sent in hand); I8 once
all is quiet. The second half of I7, that what nobody names is collected, is `orphans`, to be asked a day later.

Test data are integers, so that every aggregate can be computed anew exactly, whatever the order of addition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from uuid import UUID

from tests.chaos.facts import Facts, Row
from tests.chaos.recomputed import BlobWrong, check_blob, mean_of, read_model, same_bits

_STATES: Final = {"PENDING", "RUNNING", "COMPLETE", "FAILED", "INVALID"}
_RUN: Final = ("PENDING", "INITIATED", "PREPARED", "RUNNING")
_ENDS: Final = ("RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED", "ERROR", "STOPPED")
_NO_STATUS: Final = {"CREATE", "EDIT", "DELETE", "PUBLISH"}


@dataclass(frozen=True)
class Accepted:
    """A submission that its sender was told to be accepted."""

    submission_id: UUID
    num_examples: float


def violations(facts: Facts, *, quiet: bool, blobs: bool = True) -> list[str]:
    """Everything that contradicts an invariant, each beginning with its name; empty if all hold.

    `quiet`: nothing is under way any more, so nothing may look as if it were. `blobs`: read the store, too.
    """
    return list(_violations(facts, quiet, blobs))


def unaccounted(facts: Facts, accepted: Iterable[Accepted]) -> list[str]:
    """Accepted submissions that are not in exactly one aggregate with their weight."""
    rows: dict[UUID, list[Row]] = {}
    for update in facts.updates:
        rows.setdefault(update["submission_id"], []).append(update)
    found = []
    for submission in accepted:
        states = [(row["status"], row["num_examples"]) for row in rows.get(submission.submission_id, [])]
        if states != [("COMPLETE", submission.num_examples)]:
            found.append(f"submission {submission.submission_id} ({submission.num_examples:g} examples): {states}")
    return found


def _violations(facts: Facts, quiet: bool, blobs: bool) -> Iterator[str]:
    for model in facts.models:
        mine = _of(facts, model["id"])
        yield from _states(mine)
        yield from _chain(model, mine)
        for aggregate in mine.aggregates:
            yield from _contents(aggregate, mine)
        yield from _conservation(mine)
        yield from _claims(model, mine)
        yield from _history(model, mine)
        yield from _told_once(mine)
        if quiet:
            yield from _at_rest(model, mine)
        if blobs:
            yield from _blobs(mine)
            yield from _values(model, mine)
    yield from _unique(facts)


def _of(facts: Facts, model_id: int) -> Facts:
    def mine(rows: list[Row]) -> list[Row]:
        return [row for row in rows if row["model_id"] == model_id]

    return Facts(
        [row for row in facts.models if row["id"] == model_id],
        mine(facts.updates),
        mine(facts.aggregates),
        mine(facts.artifacts),
        mine(facts.rounds),
        mine(facts.audit),
        mine(facts.logs),
    )


# --- I1: one state, one aggregate -----------------------------------------------------------------


def _states(mine: Facts) -> Iterator[str]:
    posted = {aggregate["id"] for aggregate in mine.aggregates}
    listed = Counter(
        entry["update_id"] for aggregate in mine.aggregates for entry in aggregate["manifest"].get("inputs", [])
    )
    for update in mine.updates:
        name, status = f"update {update['id']}", update["status"]
        if status not in _STATES:
            yield f"I1 {name} is {status}, which is no state"
        if (status == "COMPLETE") != (update["applied_aggregate_id"] is not None):
            yield f"I1 {name} is {status} and names aggregate {update['applied_aggregate_id']}"
        if update["applied_aggregate_id"] is not None and update["applied_aggregate_id"] not in posted:
            yield f"I1 {name} is in aggregate {update['applied_aggregate_id']}, which its model does not have"
        if (status == "RUNNING") != (update["claim"] is not None):
            yield f"I1 {name} is {status} under claim {update['claim']}"
        if (status == "INVALID") != bool(update["reason_code"] and update["reason"]):
            yield f"I1 {name} is {status} for the reason {update['reason_code']}: {update['reason']}"
        if listed[update["id"]] != (status == "COMPLETE"):
            yield f"I1 {name} is {status} and in {listed[update['id']]} manifests"


def _unique(facts: Facts) -> Iterator[str]:
    for submission, times in Counter(update["submission_id"] for update in facts.updates).items():
        if times > 1:
            yield f"I1 submission {submission} is {times} updates"


# --- I2: one chain --------------------------------------------------------------------------------


def _chain(model: Row, mine: Facts) -> Iterator[str]:
    ordered = sorted(mine.aggregates, key=lambda aggregate: int(aggregate["number"]))
    numbers = [aggregate["number"] for aggregate in ordered]
    if numbers != list(range(1, len(ordered) + 1)):
        yield f"I2 model {model['id']} has aggregates of the numbers {numbers}"
    for parent, child in zip([None, *ordered], ordered, strict=False):
        if child["parent_id"] != (None if parent is None else parent["id"]):
            yield f"I2 aggregate {child['id']} (number {child['number']}) has parent {child['parent_id']}"
    if model["head"] != len(ordered):
        yield f"I2 model {model['id']} is at {model['head']} and has {len(ordered)} aggregates"


# --- I3: an aggregate is what its updates are -----------------------------------------------------


def _contents(aggregate: Row, mine: Facts) -> Iterator[str]:
    name, manifest = f"aggregate {aggregate['id']}", aggregate["manifest"]
    used = _used(aggregate, mine)
    examples = sum(update["num_examples"] for update in used)
    if aggregate["num_updates"] != len(used):
        yield f"I3 {name} says {aggregate['num_updates']} updates, {len(used)} name it"
    if aggregate["num_examples"] != examples:
        yield f"I3 {name} says {aggregate['num_examples']} examples, its updates have {examples}"
    facts = [(u["id"], str(u["submission_id"]), u["data_digest"], u["num_examples"]) for u in used]
    said = [
        (entry["update_id"], entry["submission_id"], entry["digest"], entry["num_examples"])
        for entry in manifest.get("inputs", [])
    ]
    if said != facts:
        yield f"I3 {name}'s manifest lists {said}, its updates are {facts}"
    if (manifest.get("number"), manifest.get("digest")) != (aggregate["number"], aggregate["data_digest"]):
        yield f"I3 {name}'s manifest is of another aggregate"
    parent = next((a for a in mine.aggregates if a["id"] == aggregate["parent_id"]), None)
    if manifest.get("parent") != aggregate["parent_id"]:
        yield f"I3 {name}'s manifest names the parent {manifest.get('parent')}"
    current = (manifest.get("current") or {}).get("digest")
    if parent is not None and current != parent["data_digest"]:
        yield f"I3 {name}'s manifest starts from {current}, its parent is {parent['data_digest']}"


def _conservation(mine: Facts) -> Iterator[str]:
    """What came in is what went out: the one figure that every way of losing or doubling would change."""
    came_in = sum(update["num_examples"] for update in mine.updates if update["status"] == "COMPLETE")
    went_out = sum(aggregate["num_examples"] for aggregate in mine.aggregates)
    if came_in != went_out:
        yield f"I3 COMPLETE updates hold {came_in} examples, the aggregates {went_out}"


def _used(aggregate: Row, mine: Facts) -> list[Row]:
    return [update for update in mine.updates if update["applied_aggregate_id"] == aggregate["id"]]


# --- I4: one live claim ---------------------------------------------------------------------------


def _claims(model: Row, mine: Facts) -> Iterator[str]:
    name = f"model {model['id']}"
    open_rounds = [row["fence"] for row in mine.rounds if row["state"] == "CLAIMED"]
    running = {update["claim"] for update in mine.updates if update["status"] == "RUNNING"}
    if len(open_rounds) > 1:
        yield f"I4 {name} has {len(open_rounds)} claimed rounds, {open_rounds}"
    if running - set(open_rounds):
        yield f"I4 {name} has updates RUNNING under {sorted(running)}, its claimed rounds are {open_rounds}"
    if any(row["fence"] > model["fence"] for row in mine.rounds):
        yield f"I4 {name} has a round beyond its fence {model['fence']}"
    posted = sorted((row["aggregate_id"], row["number"]) for row in mine.rounds if row["state"] == "POSTED")
    if posted != sorted((aggregate["id"], aggregate["number"]) for aggregate in mine.aggregates):
        yield f"I4 {name}'s posted rounds are {posted}, which are not its aggregates"


# --- I5 and I9: the run's history -----------------------------------------------------------------


def _history(model: Row, mine: Facts) -> Iterator[str]:
    name = f"model {model['id']}"
    actions = [row["action"] for row in mine.audit]
    if actions.count("CREATE") != 1 or actions[0] != "CREATE":
        yield f"I9 {name} was not created once: {actions}"
    walked = [action for action in actions if action not in _NO_STATUS]
    told: dict[UUID | None, list[str]] = {}
    for log in mine.logs:
        if log["event_type"] in (*_RUN, *_ENDS):
            told.setdefault(log["run_id"], []).append(log["event_type"])
    # Only a run with a name of its own begins anew.
    begun_anew = sum(to == "INITIATED" and not _is_forward(status, to) for status, to in pairwise(walked))
    regressed = any(to != "INITIATED" and not _is_forward(status, to) for status, to in pairwise(walked))
    if regressed or begun_anew > len(told.keys() - {None}):
        yield f"I5 {name} went through {walked}"
    for run, statuses in told.items():
        if not all(_is_forward(status, to) for status, to in pairwise(statuses)):
            yield f"I5 {name} was told to go through {statuses} in run {run}"
    if model["status"] != (walked[-1] if walked else "PENDING"):
        yield f"I9 {name} is {model['status']}, its audit ends at {walked[-1:]}"
    if mine.rounds and not begun_anew and model["status"] not in ("RUNNING", *_ENDS):
        yield f"I9 {name} has had rounds and is {model['status']}"
    published = [artifact["version"] for artifact in mine.artifacts if artifact["version"] != "initial"]
    if actions.count("PUBLISH") != len(published):
        yield f"I9 {name} has the versions {published} and {actions.count('PUBLISH')} audits of them"


def _is_forward(status: str, to: str) -> bool:
    """Whether a run that stood at `status` may go on to `to`."""
    if status not in _RUN:
        return False
    return to in _ENDS or _RUN.index(to) > _RUN.index(status)


# --- I6: every event once -------------------------------------------------------------------------


def _told_once(mine: Facts) -> Iterator[str]:
    told = sorted(log["global_round"] for log in mine.logs if log["event_type"] == "ROUND_AGGREGATED")
    numbers = sorted(aggregate["number"] for aggregate in mine.aggregates)
    if told != numbers:
        yield f"I6 the feed tells of the rounds {told}, the aggregates are {numbers}"
    for log in mine.logs:
        if log["event_type"] == "ROUND_AGGREGATED":
            count = [a["num_updates"] for a in mine.aggregates if a["number"] == log["global_round"]]
            if [log["details"].get("returned")] != count:
                yield f"I6 the feed tells of {log['details']} in round {log['global_round']}, which had {count}"
    started = {log["global_round"] for log in mine.logs if log["event_type"] == "ROUND_STARTED"}
    for number in set(numbers) - started:
        yield f"I6 the feed does not tell that round {number} was started"
    received = _updates_told("CLIENT_RESULT_RECEIVED", mine)
    aside = _updates_told("UPDATE_QUARANTINED", mine)
    for update in mine.updates:
        name, times = f"update {update['id']}", received[update["id"]]
        # One that was set aside as it came in, and put back by an operator, was never received.
        if times > 1 or (not times and not aside[update["id"]]):
            yield f"I6 the feed tells {times} times that {name} came in"
        if update["status"] == "INVALID" and not aside[update["id"]]:
            yield f"I6 the feed does not tell that {name} was set aside"


def _updates_told(event_type: str, mine: Facts) -> Counter[int]:
    return Counter(log["details"].get("update_id") for log in mine.logs if log["event_type"] == event_type)


# --- I8: at rest ----------------------------------------------------------------------------------


def _at_rest(model: Row, mine: Facts) -> Iterator[str]:
    running = [update["id"] for update in mine.updates if update["status"] == "RUNNING"]
    if running:
        yield f"I8 updates {running} are RUNNING although all is quiet"
    claimed = [row["fence"] for row in mine.rounds if row["state"] == "CLAIMED"]
    if claimed:
        yield f"I8 rounds {claimed} of model {model['id']} are CLAIMED although all is quiet"
    if model["lease_until"] is not None:
        yield f"I8 model {model['id']} is leased although all is quiet"


# --- I7: the store, and the numbers in it ---------------------------------------------------------


def _blobs(mine: Facts) -> Iterator[str]:
    named: Sequence[tuple[str, list[Row]]] = (
        ("update", mine.updates),
        ("aggregate", mine.aggregates),
        ("artifact", mine.artifacts),
    )
    for kind, rows in named:
        for row in rows:
            # An INVALID update whose data could not be taken in names none; what retention let go is named no more.
            if (row["data_digest"] is None and row.get("status") == "INVALID") or row.get("is_data_dropped"):
                continue
            yield from _blob(f"{kind} {row['id']}", row)
            if row.get("state_digest") is not None:
                yield from _blob(f"the state of {kind} {row['id']}", _state_of(row))


def _blob(name: str, row: Row) -> Iterator[str]:
    try:
        check_blob(row)
    except BlobWrong as wrong:
        yield f"I7 {name}: {wrong}"


def _state_of(row: Row) -> Row:
    return {"data_uri": row["state_uri"], "data_digest": row["state_digest"], "data_size": row["state_size"]}


def _values(model: Row, mine: Facts) -> Iterator[str]:
    weighted = _is_weighted(model["aggregator"], model["aggregator_params"])
    for aggregate in mine.aggregates:
        used = _used(aggregate, mine)
        try:
            posted = read_model(aggregate, model["data_format"])
            inputs = [read_model(update, model["data_format"]) for update in used]
        except BlobWrong:
            continue  # said already
        weights = [update["num_examples"] if weighted else 1 for update in used]
        if not inputs or not same_bits(posted, mean_of(inputs, weights)):
            yield f"I3 aggregate {aggregate['id']} is not the mean of the updates that name it"


def _is_weighted(aggregator: str, params: Mapping[str, object]) -> bool:
    weighted = ("fedavg", "held_mean")  # the second is a plugin of the tests
    means = (*weighted, "avg_values_if_data", "average_layers")
    assert aggregator in means, f"{aggregator} can't be computed anew here"
    return aggregator in weighted and params.get("weighting", "num_examples") == "num_examples"


# --- I7, the other way round: nothing is kept that nobody names ------------------------------------


def orphans(facts: Facts, store: Path) -> list[str]:
    """Files of the store that no row names: none are left once garbage collection has gone by after their day.

    To be asked when all is quiet: a blob is stored before its row is written.
    """
    named = {row["data_digest"] for rows in (facts.aggregates, facts.artifacts) for row in rows}
    named |= {row.get("state_digest") for row in facts.aggregates}
    named |= {row["data_digest"] for row in facts.updates if not row.get("is_data_dropped")}
    files = sorted(path for room in ("sha256", "staging") for path in (store / room).rglob("*") if path.is_file())
    return [f"I7 no row names {path.relative_to(store)}" for path in files if path.name not in named]
