"""The protocol's every step by name, so that a worker can be made to die exactly there.

A failpoint is reached by wrappers that `tests/chaos/failpoint_hooks.py` puts around our classes' methods; production
code knows nothing of them. Reaching one asks whoever acts in this thread: in the domain's machine a `Life`, which
counts, dies (`Died`) or sleeps; in a real worker `tests/chaos/failpoint_plugin.py`, which kills the process.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, Protocol, Self


class Failpoint(StrEnum):
    """Where a worker may die, and what that must not do."""

    must_not: str

    def __new__(cls, name: str, must_not: str) -> Self:
        self = str.__new__(cls, name)
        self._value_ = name
        self.must_not = must_not
        return self

    # --- a submission
    BEFORE_STORE = "submission.before_store", "lose a submission that its sender repeats"
    STAGED = "submission.staged", "leave a blob that is not whole under a digest"
    STORED = "submission.stored", "make an update of bytes that no row names"
    SUBMISSION_BEFORE_COMMIT = "submission.before_commit", "leave half an update, or one that nobody was told of"
    SUBMISSION_COMMITTED = "submission.committed", "make two updates of one submission, or answer it in two ways"

    # --- a round's first transaction
    CLAIMED = "claim.claimed", "hold the model without a round"
    REGISTERED = "claim.registered", "leave updates RUNNING without a round"
    CLAIM_BEFORE_COMMIT = "claim.before_commit", "leave anything of the claim, its lease least of all"
    CLAIM_COMMITTED = "claim.committed", "hold updates longer than the lease and a sweep"

    # --- what a dead worker left behind, taken back
    DEAD_CLOSED = "rescue.rounds_closed", "call a round rescued whose updates are still RUNNING"
    DEAD_RETURNED = "rescue.updates_returned", "count a crash twice against the updates"
    RESCUE_COMMITTED = "rescue.committed", "rescue the same round again"

    # --- combining, with no transaction open
    OPENED = "combine.opened", "hold a file, or the model, for good"
    CHUNK_READ = "combine.chunk_read", "give a result of some of the chunks"
    HALF_WRITTEN = "combine.half_written", "leave half a result under a digest"
    RESULT_STAGED = "combine.staged", "leave a result that only its maker can find"
    RESULT_STORED = "combine.stored", "count a result that was never posted"
    RENEWAL_BEFORE_COMMIT = "renewal.before_commit", "keep a dead worker's model"
    RENEWED = "renewal.committed", "keep a dead worker's model longer than the lease and a sweep"

    # --- a round's second transaction
    FENCED = "post.fenced", "move the head without an aggregate"
    AGGREGATE_ADDED = "post.aggregate_added", "leave an aggregate whose updates are not COMPLETE"
    UPDATES_COMPLETED = "post.updates_completed", "count updates in an aggregate that is not there"
    POST_BEFORE_COMMIT = "post.before_commit", "tell anybody of an aggregate that is not there"
    POST_COMMITTED = "post.committed", "post the round again, or keep its news from others"

    # --- what else may become of a round
    LEASE_ENDED = "release.lease_ended", "free the model while its updates are RUNNING"
    RELEASE_BEFORE_COMMIT = "release.before_commit", "tell the feed of what is undone"
    RELEASED = "release.committed", "release a claim that somebody else has taken since"
    GIVE_BACK_BEFORE_COMMIT = "give_back.before_commit", "keep updates that a healthy store would take"
    GIVEN_BACK = "give_back.committed", "count the store's fault against the updates twice"
    SET_ASIDE_BEFORE_COMMIT = "set_aside.before_commit", "set an update aside and keep the others RUNNING"
    SET_ASIDE = "set_aside.committed", "let the others' round wait for anything but a sweep"
    LET_GO_BEFORE_COMMIT = "let_go.before_commit", "free some of the updates"
    LET_GO = "let_go.committed", "count an attempt against the updates"

    # --- what others are told
    OUTBOX_BEFORE_SEND = "outbox.before_send", "keep anything from others for ever"
    OUTBOX_SENT = "outbox.sent", "tell others two different things under one key"
    OUTBOX_BEFORE_COMMIT = "outbox.before_commit", "note as sent what the broker has not"
    OUTBOX_MARKED = "outbox.marked", "send again what is noted as sent"
    HINT_BEFORE_SEND = "hint.before_send", "lose a round: the sweep finds it"
    HINT_SENT = "hint.sent", "make two rounds of two hints"

    # --- FL events
    EMIT_BEFORE_SEND = "events.before_emit", "lose an event that is not acknowledged"
    EMITTED = "events.emitted", "count an event twice that is sent again"
    FEED_BEFORE_COMMIT = "events.before_commit", "keep some entries of a batch"
    FEED_COMMITTED = "events.committed", "write an entry again that is delivered again"
    DRAIN_BEFORE_ACK = "events.before_ack", "lose the batch, or write it again"
    DRAINED = "events.acknowledged", "lose a message of the batch that was not committed"
    LETTER_BEFORE_COMMIT = "dead_letter.before_commit", "drop a refused message silently"
    LETTER_KEPT = "dead_letter.committed", "lose the refused message's answer"

    # --- a message, whatever it asks for
    MESSAGE_DONE = "message.done", "do the message's work twice"
    BEFORE_ACK = "message.before_ack", "do the work twice that is delivered twice"

    # --- the rest
    STATUS_BEFORE_COMMIT = "status.before_commit", "change a status without its audit"
    STATUS_COMMITTED = "status.committed", "change a status again, or audit it twice"
    SCORE_BEFORE_COMMIT = "score.before_commit", "score an aggregate by half its scores"
    SCORED = "score.committed", "keep two scores of one client"
    GARBAGE_LOOKED = "garbage.looked", "delete a blob that a row names"
    GARBAGE_TAKEN_ASIDE = "garbage.taken_aside", "keep a blob that a row names out of its readers' way"
    CHANGE_BEFORE_COMMIT = "change.before_commit", "change a model, or a client, by half"
    CHANGED = "change.committed", "make a second model, or client, of one message"


# Outside transactions, amid a round: who sleeps here wakes up as a zombie and holds nobody up meanwhile.
SUSPENDABLE: Final = (
    Failpoint.CLAIM_COMMITTED,
    Failpoint.OPENED,
    Failpoint.CHUNK_READ,
    Failpoint.HALF_WRITTEN,
    Failpoint.RESULT_STAGED,
    Failpoint.RESULT_STORED,
    Failpoint.RENEWED,
    Failpoint.POST_COMMITTED,
)
# Of the broker's own client, which the domain's machine does without.
WORKERS_ONLY: Final = (Failpoint.DRAIN_BEFORE_ACK, Failpoint.DRAINED)
# Take a stored update that is bad, an aggregator that refuses a round late, or a model deleted meanwhile.
DIRECTED_ONLY: Final = (
    Failpoint.SET_ASIDE_BEFORE_COMMIT,
    Failpoint.SET_ASIDE,
    Failpoint.LET_GO_BEFORE_COMMIT,
    Failpoint.LET_GO,
)

# What real workers reach, given the traffic that it takes (see failpoint_plugin).
ALL: Final = tuple(point for point in Failpoint if point not in DIRECTED_ONLY)
# What the domain's machine reaches.
IN_PROCESS: Final = tuple(point for point in Failpoint if point not in WORKERS_ONLY)


class Died(BaseException):
    """A worker's death within this process: no `except Exception` of the worker's own sees it."""

    def __init__(self, point: Failpoint) -> None:
        super().__init__(str(point))
        self.point = point


class Actor(Protocol):
    """Whoever is asked what happens at a failpoint."""

    def reached(self, point: Failpoint) -> None:
        """Go on by returning, or die. Raises: Died."""

    def alive(self) -> None:
        """Return if the worker lives. Raises: Died: what a dead one still does, in `finally`, must have no effect."""

    def hastens(self, point: Failpoint) -> bool:
        """Whether what is due only now and then shall be done at once, so that the point is reached."""


class _Acting(threading.local):
    actor: Actor | None = None


_here: Final = _Acting()
_everywhere: list[Actor] = []


def reach(point: Failpoint) -> None:
    """Say that the code has come to the point. Raises: Died."""
    actor = _actor()
    if actor is not None:
        actor.reached(point)


def still_alive() -> None:
    """Return unless the worker that acts here is dead. Raises: Died."""
    actor = _actor()
    if actor is not None:
        actor.alive()


def hastens(point: Failpoint) -> bool:
    """See Actor."""
    actor = _actor()
    return actor is not None and actor.hastens(point)


def act_everywhere(actor: Actor) -> None:
    """Let it decide in all threads of this process that nobody else decides in."""
    _everywhere[:] = [actor]


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Let it decide in this thread."""
    before, _here.actor = _here.actor, actor
    try:
        yield
    finally:
        _here.actor = before


def _actor() -> Actor | None:
    if _here.actor is not None:
        return _here.actor
    return _everywhere[0] if _everywhere else None


class Life:
    """One worker's life within this process. It counts into `counts`, and dies where `dies` says so."""

    def __init__(
        self,
        counts: Counter[Failpoint],
        dies: Callable[[Failpoint], bool] = lambda point: False,
        *,
        sleeps: Callable[[Failpoint], None] = lambda point: None,
        hastens: bool = True,
    ) -> None:
        """`sleeps` is asked first, and may block."""
        self.death: Failpoint | None = None
        self._counts = counts
        self._dies = dies
        self._sleeps = sleeps
        self._hastens = hastens

    def reached(self, point: Failpoint) -> None:
        self.alive()
        self._counts[point] += 1
        self._sleeps(point)
        if self._dies(point):
            self.death = point
            raise Died(point)

    def alive(self) -> None:
        if self.death is not None:
            raise Died(self.death)

    def hastens(self, point: Failpoint) -> bool:
        return self._hastens
