"""Tasks about rounds. Both are hints: whatever they miss, the next sweep finds in the database."""

from __future__ import annotations

import structlog

from fedqueue.messages import AggregateRound, PollRounds, RoundView, names
from tasks.base import hint, hub_task, tell_others
from tasks.domain.models import find_model
from tasks.domain.rounds import run_round
from tasks.domain.silence import end_silent_runs
from tasks.domain.takeover import describe, take_over
from tasks.hub import Hub

_log = structlog.get_logger(__name__)

_QUIET = ("waiting", "idle", "claimed", "paused", "over", "deleted")


@hub_task(names.ROUNDS_AGGREGATE, AggregateRound)
def aggregate(hub: Hub, message: AggregateRound) -> RoundView:
    """The model's next aggregate, if its round is due; else why not."""
    # A deleted model is one for the hub itself, whose hints name row ids: a dead worker may have left a round of it.
    model = find_model(hub, message.model_id, deleted=isinstance(message.model_id, int))
    outcome = run_round(hub, model.id)
    number = None if outcome.aggregate is None else outcome.aggregate.number
    tell = _log.debug if outcome.outcome in _QUIET else _log.info
    tell("round." + outcome.outcome, model_id=str(model.uuid), number=number, reason=outcome.reason or None)
    if outcome.look_again:
        hint(hub, names.ROUNDS_AGGREGATE, {"model_id": model.id})
    if outcome.outcome not in _QUIET:
        tell_others(hub)
    aggregate_id = None if outcome.aggregate is None else outcome.aggregate.id
    return RoundView(aggregate_id=aggregate_id, outcome=outcome.outcome, reason=outcome.reason)


@hub_task(names.ROUNDS_POLL, PollRounds)
def poll(hub: Hub, message: PollRounds) -> RoundView:  # noqa: ARG001  # it carries nothing
    """A hint for every model that has something to do: updates waiting, or left behind by a dead worker.

    What has come into an FMA deployment by its own API is taken over first; and runs that have been silent for too long
    end in ERROR by the way.
    """
    taken = take_over(hub, seconds=hub.settings.task_soft_time_limit_seconds / 4)
    if taken:
        _log.info("deployment.taken_over", taken=describe(taken.counts), refused=taken.refused)
    ended = end_silent_runs(hub)
    if ended:
        _log.warning("run.silent", ended=ended)
        tell_others(hub)
    found = hub.metadata.pull_models_to_aggregate()
    for model_id in found:
        hint(hub, names.ROUNDS_AGGREGATE, {"model_id": model_id})
    return RoundView(outcome="polled", reason=f"{len(found)} models have something to do, {ended} silent runs ended")
