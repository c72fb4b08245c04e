"""Which status of a model's run may follow which, and what a callback changes (DESIGN 4.2). Pure: every connector,
and the rules, decide by these functions alone."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID, uuid4, uuid5

from connectors.records import ModelStatus

FORWARD = (ModelStatus.PENDING, ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING)
FINAL = frozenset(
    {ModelStatus.RESULTS_UPLOADED, ModelStatus.RESULTS_UPLOAD_FAILED, ModelStatus.ERROR, ModelStatus.STOPPED}
)
# Their entries in the feed tell of no success.
FAILED_STATUSES = frozenset({ModelStatus.ERROR, ModelStatus.STOPPED, ModelStatus.RESULTS_UPLOAD_FAILED})

# What FL servers call them.
_OTHER_NAMES = {"TRAINING_STARTED": ModelStatus.RUNNING}


class Ignored(StrEnum):
    """Why a status changed nothing."""

    REPEATED = "repeated"  # it stands already, or this very event was counted before
    BACKWARD = "backward"  # the run is further on
    OVER = "over"  # the run has ended: only a new one leaves that state
    STALE_RUN = "stale run"  # it is about an earlier run, or one that never began
    DELETED = "deleted"  # a deleted model accepts nothing
    REUSED = "event reused"  # its event_id was given to something else


@dataclass(frozen=True, slots=True)
class Decision:
    """What a status does to a model: nothing, for a reason, or a change, perhaps under another run."""

    change: bool
    new_run: UUID | None = None  # the model's run from now on; None: the one it has
    reason: str = ""


def as_status(name: str) -> ModelStatus:
    """The status of that name; TRAINING_STARTED is read as RUNNING. Raises: ValueError naming the known ones."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    try:
        return ModelStatus(name)
    except ValueError:
        known = ", ".join([*ModelStatus, *_OTHER_NAMES])
        raise ValueError(f"no status is called {name!r}: known are {known}") from None


def may_become(status: ModelStatus, to: ModelStatus) -> bool:
    """Whether a run in `status` moves on to `to`: forward along the chain, skips allowed, or out of it."""
    if status not in FORWARD:
        return False
    if to in FORWARD:
        return FORWARD.index(to) > FORWARD.index(status)
    return True


def decide(
    status: ModelStatus,
    current_run: UUID | None,
    known_runs: Container[UUID],
    to: ModelStatus,
    run_id: UUID | None = None,
    by_user: bool = False,
) -> Decision:
    """What `to` does to a model in `status`, whose runs were `known_runs` and, last, `current_run` (None: no name yet).

    A status of the current run, or of none in particular (`run_id` None), moves it forward or changes nothing. An
    unknown `run_id` begins a new run with INITIATED, whatever stood before; with any other status it gives a name to a
    first run that has none yet and is not over, and is stale otherwise. So is every earlier run's. A user's INITIATED
    that names no run begins a new one where the last is over: nothing else does, however late it comes.
    """
    if run_id is None and by_user and to is ModelStatus.INITIATED and status in FINAL:
        return Decision(True, new_run=uuid4())
    if run_id is None or run_id == current_run:
        return _within_run(status, to)
    if run_id in known_runs:
        return Decision(False, reason=Ignored.STALE_RUN)
    if to is ModelStatus.INITIATED:
        return Decision(True, new_run=run_id)
    # Nobody has named the run until now, so this is no earlier one's callback: there was none.
    if current_run is None and status not in FINAL:
        within = _within_run(status, to)
        return Decision(True, new_run=run_id) if within.change else within
    return Decision(False, reason=Ignored.STALE_RUN)


def is_heard(current_run: UUID | None, run_id: UUID | None, reason: str) -> bool:
    """Whether a status that changed nothing, for that reason, is a word of the run under way (`run_id` None: of it)."""
    return reason in (Ignored.REPEATED, Ignored.BACKWARD) and (run_id is None or current_run in (None, run_id))


def event_id_of(model_uuid: UUID, run_id: UUID | None, status: ModelStatus) -> UUID:
    """The id of the feed's entry about a run reaching `status`, where no callback brought one."""
    return uuid5(model_uuid, f"status {name_of(run_id)} {status}")


def name_of(run_id: UUID | None) -> str:
    """The run in keys: "0" for the one that nobody named."""
    return "0" if run_id is None else str(run_id)


def _within_run(status: ModelStatus, to: ModelStatus) -> Decision:
    if may_become(status, to):
        return Decision(True)
    if to == status:
        return Decision(False, reason=Ignored.REPEATED)
    return Decision(False, reason=Ignored.OVER if status in FINAL else Ignored.BACKWARD)
