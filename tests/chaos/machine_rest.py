"""What must hold of the machine's world: at every moment, and when all has come to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from fedqueue.messages import EditModel, Policy, names
from tasks.domain.models import edit_model
from tests.chaos.invariants import orphans, violations
from tests.chaos.machine_workers import Fate
from tests.chaos.machine_world import DAY_MS, World

_LONG: Final = 10_000_000  # beyond any lease and any rest of a failed update

# So many crashes, and innocents may be taken for poison.
_FEW_ATTEMPTS: Final = 10


def judge(world: World) -> None:
    """What holds at every moment, as far as rows can tell."""
    assert violations(world.ground.facts(), quiet=False, blobs=False) == []


def drain(world: World) -> None:
    """Everybody who is dead is given up, the rest let through; then everything is judged, values and all.

    Half of those who sleep are dead, too; the others wake up when all is over, and must change nothing any more.
    """
    for sleeper in world.asleep[::2]:
        sleeper.end()
    world.asleep = world.asleep[1::2]
    _deliver_all(world)  # edits of the requirement among them
    edit_model(world.hub, EditModel(model_id=world.model.uuid, changes=Policy(requirement=None)))
    for submission_id, message in world.submissions.items():
        if submission_id not in world.answers:
            world.send(names.UPDATES_SUBMIT, message)
    _come_to_rest(world)
    _judge_at_rest(world)
    before = _totals(world)
    while world.asleep:
        world.wake(0, "lives")
    _deliver_all(world)
    assert _totals(world) == before, "a zombie has changed what was over"
    _judge_at_rest(world)
    world.turn(DAY_MS)
    world.collect()
    _deliver_all(world)
    _judge_at_rest(world)
    assert orphans(world.ground.facts(), world.folder / "store") == []


def _totals(world: World) -> object:
    facts = world.ground.facts()
    return [(a["number"], a["data_digest"]) for a in facts.aggregates], [u["status"] for u in facts.updates]


def _come_to_rest(world: World) -> None:
    quiet = 0
    for _ in range(100):
        world.turn(_LONG)
        world.sweep()
        before = _totals(world)
        _deliver_all(world)
        # The first may have found the dead, whose updates then rest a while.
        quiet = quiet + 1 if _totals(world) == before else 0
        if quiet == 2:
            return
    raise AssertionError("the rounds come to no end")


def _deliver_all(world: World) -> None:
    for _ in range(2000):
        if not world.waiting:
            return
        world.deliver(0, Fate())
    raise AssertionError(f"the messages come to no end: {[m.task for m in world.waiting[:5]]}")


def _judge_at_rest(world: World) -> None:
    facts = world.ground.facts()
    assert violations(facts, quiet=True) == []
    is_over, excuses = facts.models[0]["status"] == "ERROR", _excuses(world)
    assert not is_over or excuses["POISON"], "a healthy model has ended in ERROR"
    updates = {str(update["submission_id"]): update for update in facts.updates}
    assert updates.keys() <= world.submissions.keys()
    for submission_id, (update_id, status) in world.answers.items():
        update = updates[submission_id]
        assert update["id"] == update_id
        if status == "INVALID":
            assert update["status"] == "INVALID"
        elif update["status"] != "COMPLETE" and not is_over:
            assert excuses[update["reason_code"]] > 0, f"an accepted update is {update}"
            excuses[update["reason_code"]] -= 1
    if not is_over:
        assert updates.keys() == world.submissions.keys(), "a submission has become nothing"
    _judge_told(world, facts.models[0]["head"])
    lines = Counter(row["event_id"] for row in facts.logs)
    points = Counter(world.ground.points())
    for event_id, is_point in world.events.items():
        assert (lines[event_id], points[event_id]) == (not is_point, is_point), f"event {event_id}"


def _excuses(world: World) -> Counter[str]:
    """For how many updates each reason is one not to count although they were accepted."""
    model, any_number = world.model, len(world.submissions)
    return Counter(
        STALE=any_number if model.furthest_base_agg is not None else 0,
        DUPLICATE=0 if model.allow_repeats else any_number,
        POISON=any_number if world.hub.settings.max_attempts < _FEW_ATTEMPTS else 0,
        # One for each time that the store gave back other bytes.
        CORRUPT=world.corrupted,
    )


def _judge_told(world: World, head: int) -> None:
    """What others were told: every post, one thing under a key, in order at first."""
    firsts: dict[str, Mapping[str, Any]] = {}
    for key, message in world.told:
        assert firsts.setdefault(key, message) == message, f"two things were told under {key}"
    order = [message["sequence"] for message in firsts.values()]
    assert order == sorted(order), "one thing was told before another that came first"
    for number in range(1, head + 1):
        assert f"aggregate.posted:{world.model.uuid}:{number}" in firsts, f"nobody was told of aggregate {number}"
