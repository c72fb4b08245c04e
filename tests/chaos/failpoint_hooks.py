"""The wrappers that reach the failpoints: around our connectors', writers' and hub's methods, put on and taken off.

A transaction is told by the verbs that were called in it: nothing here knows a private function of the rules.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Final

from connectors.memory import InMemoryMetadataConnector
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.storage import file_connector, garbage, json_files, safetensors_files
from connectors.storage.file_connector import FileModelDataConnector
from connectors.storage.json_files import JsonWriter
from connectors.storage.safetensors_files import SafetensorsWriter
from fedqueue.messages import names
from tasks.domain.leases import LeaseKeeper
from tasks.draining import Drain
from tasks.hub import Hub
from tests.chaos.failpoints import Died, Failpoint, hastens, reach, still_alive

# Every verb that writes, and the point that is reached when it has: None, if it only tells what a transaction is.
_VERBS: Final[dict[str, Failpoint | None]] = {
    "claim_model": None,
    "renew_claim": None,
    "release_claim": Failpoint.LEASE_ENDED,
    "register_model_updates_for_aggregation": Failpoint.REGISTERED,
    "add_round": None,
    "close_round": None,
    "close_dead_rounds": Failpoint.DEAD_CLOSED,
    "return_model_updates": None,
    "register_model_updates_invalid": None,
    "requeue_model_updates": None,
    "register_model_updates_data_dropped": None,
    "post_new_model_aggregate": Failpoint.AGGREGATE_ADDED,
    "register_model_update_used_in_aggregate": Failpoint.UPDATES_COMPLETED,
    "add_model_update": None,
    "register_outbox_messages_sent": None,
    "update_model_status": None,
    "post_client_aggregate_score": None,
    "add_logs": None,
    "add_metrics": None,
    "add_dead_letter": None,
    "add_federated_model": None,
    "change_federated_model": None,
    "delete_federated_models": None,
    "register_client": None,
    "add_model_artifact": None,
    "add_audit": None,
}
_FEED: Final = {"add_logs", "add_metrics"}
_EVENT_TASKS: Final = {names.LOGS_ADD, names.METRICS_ADD, names.MODELS_UPDATE_STATUS, names.MODELS_UPDATE_STATUSES}


class _State(threading.local):
    """What this thread's worker is at."""

    def __init__(self) -> None:
        self.verbs: set[str] | None = None  # of the open transaction
        self.combining = False  # between a claim and what becomes of it
        self.noting = False


_state: Final = _State()
_undo: list[Callable[[], None]] = []


@contextmanager
def hooked() -> Iterator[None]:
    """The wrappers, for as long as the block."""
    install()
    try:
        yield
    finally:
        while _undo:
            _undo.pop()()


def install() -> None:
    """Put the wrappers on; a second time changes nothing."""
    if _undo:
        return
    for connector in (InMemoryMetadataConnector, SqlAlchemyMetadataConnector):
        for verb, point in _VERBS.items():
            _wrap(connector, verb, _told(verb, point))
        _wrap(connector, "claim_model", _claiming)
        _wrap(connector, "return_model_updates", _returning)
        _wrap(connector, "_fenced", _fencing)
        _wrap(connector, "transaction", _transaction)
    for name in ("take_in", "push_model_data_to_storage"):
        _wrap(FileModelDataConnector, name, _storing)
    _wrap(FileModelDataConnector, "collect_garbage", _collecting)
    _wrap(garbage, "_modified", _taking_aside)
    for module in (file_connector, json_files, safetensors_files):
        _wrap(module, "keep_blob", _keeping)
    for writer in (SafetensorsWriter, JsonWriter):
        _wrap(writer, "write", _writing)
        _wrap(writer, "commit", _committing)
    _wrap(LeaseKeeper, "keep", _opening)
    _wrap(LeaseKeeper, "note_bytes", _noting)
    _wrap(Hub, "__init__", _sending)
    _wrap(Drain, "acknowledge", _draining)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    own, before = name in vars(owner), getattr(owner, name)
    wrapped = wraps(before)(wrapper(before))
    setattr(owner, name, wrapped)
    _undo.append(lambda: setattr(owner, name, before) if own else delattr(owner, name))


# --- transactions ---------------------------------------------------------------------------------


def _transaction(original: Any) -> Any:
    @contextmanager
    def transaction(self: Any) -> Iterator[Any]:
        still_alive()
        with original(self) as opened:
            verbs = _state.verbs = set()
            try:
                yield opened
                points = () if opened.rolled_back else _points_of(verbs)
                for before, _ in points:
                    if before is not None:
                        reach(before)
            except Died:
                # As if the process were gone: the connection breaks, and the server undoes what it was told.
                session = getattr(opened, "session", None)
                if session is not None:
                    session.invalidate()
                raise
            finally:
                _state.verbs = None
        if "add_round" in verbs:
            _state.combining = True
        elif "renew_claim" not in verbs:
            _state.combining = False
        for _, after in points:
            reach(after)

    return transaction


def _points_of(verbs: AbstractSet[str]) -> list[tuple[Failpoint | None, Failpoint]]:
    """(before its commit, after it) for each thing that the transaction did."""
    found: list[tuple[Failpoint | None, Failpoint]] = []
    if "close_dead_rounds" in verbs:
        found.append((Failpoint.DEAD_RETURNED, Failpoint.RESCUE_COMMITTED))
    if "add_round" in verbs:
        found.append((Failpoint.CLAIM_BEFORE_COMMIT, Failpoint.CLAIM_COMMITTED))
    elif "post_new_model_aggregate" in verbs:
        found.append((Failpoint.POST_BEFORE_COMMIT, Failpoint.POST_COMMITTED))
    elif "close_round" in verbs:
        found.append(_end_of_round(verbs))
    elif "release_claim" in verbs:
        found.append((Failpoint.RELEASE_BEFORE_COMMIT, Failpoint.RELEASED))
    elif "renew_claim" in verbs:
        found.append((Failpoint.RENEWAL_BEFORE_COMMIT, Failpoint.RENEWED))
    elif "add_model_update" in verbs:
        found.append((Failpoint.SUBMISSION_BEFORE_COMMIT, Failpoint.SUBMISSION_COMMITTED))
    elif "register_outbox_messages_sent" in verbs:
        found.append((Failpoint.OUTBOX_BEFORE_COMMIT, Failpoint.OUTBOX_MARKED))
    elif "post_client_aggregate_score" in verbs:
        found.append((Failpoint.SCORE_BEFORE_COMMIT, Failpoint.SCORED))
    elif "update_model_status" in verbs:
        found.append((Failpoint.STATUS_BEFORE_COMMIT, Failpoint.STATUS_COMMITTED))
    elif verbs & _FEED and verbs <= _FEED | {"add_dead_letter"}:
        found.append((Failpoint.FEED_BEFORE_COMMIT, Failpoint.FEED_COMMITTED))
    elif verbs == {"add_dead_letter"}:
        found.append((Failpoint.LETTER_BEFORE_COMMIT, Failpoint.LETTER_KEPT))
    elif verbs:
        found.append((Failpoint.CHANGE_BEFORE_COMMIT, Failpoint.CHANGED))
    return found


def _end_of_round(verbs: AbstractSet[str]) -> tuple[Failpoint, Failpoint]:
    if "register_model_updates_invalid" in verbs:
        return Failpoint.SET_ASIDE_BEFORE_COMMIT, Failpoint.SET_ASIDE
    if "returned as FAILED" in verbs:
        return Failpoint.GIVE_BACK_BEFORE_COMMIT, Failpoint.GIVEN_BACK
    return Failpoint.LET_GO_BEFORE_COMMIT, Failpoint.LET_GO


def _told(verb: str, point: Failpoint | None) -> Callable[[Any], Any]:
    def wrapper(original: Any) -> Any:
        def told(self: Any, *args: Any, **named: Any) -> Any:
            if _state.verbs is not None:
                _state.verbs.add(verb)
            found = original(self, *args, **named)
            if point is not None:
                reach(point)
            return found

        return told

    return wrapper


def _claiming(original: Any) -> Any:
    def claim_model(self: Any, *args: Any, **named: Any) -> Any:
        claim = original(self, *args, **named)
        if claim is not None:
            reach(Failpoint.CLAIMED)
        return claim

    return claim_model


def _returning(original: Any) -> Any:
    def return_model_updates(self: Any, *args: Any, **named: Any) -> Any:
        if _state.verbs is not None:
            _state.verbs.add(f"returned as {named['status']}")
        return original(self, *args, **named)

    return return_model_updates


def _fencing(original: Any) -> Any:
    def fenced(self: Any, *args: Any, **named: Any) -> Any:
        original(self, *args, **named)
        if "the post" in args:
            reach(Failpoint.FENCED)

    return fenced


# --- the store ------------------------------------------------------------------------------------


def _storing(original: Any) -> Any:
    def store(self: Any, *args: Any, **named: Any) -> Any:
        reach(Failpoint.BEFORE_STORE)
        blob = original(self, *args, **named)
        reach(Failpoint.STORED)
        return blob

    return store


def _keeping(original: Any) -> Any:
    def keep_blob(root: Any, file: Any, *args: Any, **named: Any) -> Any:
        with _left_behind(file):
            reach(Failpoint.RESULT_STAGED if _state.combining else Failpoint.STAGED)
        return original(root, file, *args, **named)

    return keep_blob


@contextmanager
def _left_behind(file: Any) -> Iterator[None]:
    """A staged file as a dead process leaves it, whose `finally` clears nothing away."""
    try:
        yield
    except Died:
        with suppress(FileNotFoundError):  # collected while it slept
            os.link(file.name, f"{file.name}-left")
        raise


def _writing(original: Any) -> Any:
    def write(self: Any, name: str, start: int, values: Any) -> None:
        half = values.size // 2
        if _state.combining and half:
            original(self, name, start, values[:half])
            with _left_behind(self._file):
                reach(Failpoint.HALF_WRITTEN)
            start, values = start + half, values[half:]
        original(self, name, start, values)

    return write


def _committing(original: Any) -> Any:
    def commit(self: Any) -> Any:
        blob = original(self)
        if _state.combining:
            reach(Failpoint.RESULT_STORED)
        return blob

    return commit


def _collecting(original: Any) -> Any:
    def collect_garbage(self: Any, older_than: float, is_named: Callable[[Sequence[str]], AbstractSet[str]]) -> Any:
        def look(digests: Sequence[str]) -> AbstractSet[str]:
            named = is_named(digests)
            reach(Failpoint.GARBAGE_LOOKED)
            return named

        return original(self, older_than, look)

    return collect_garbage


def _taking_aside(original: Any) -> Any:
    def modified(path: Any) -> Any:
        if path.name.startswith("collected-"):
            reach(Failpoint.GARBAGE_TAKEN_ASIDE)
        return original(path)

    return modified


# --- combining, sending, acknowledging --------------------------------------------------------------


def _opening(original: Any) -> Any:
    def keep(self: Any) -> None:
        if not _state.noting:
            reach(Failpoint.OPENED)
        if hastens(Failpoint.RENEWAL_BEFORE_COMMIT) or hastens(Failpoint.RENEWED):
            self._renewed = -math.inf
        original(self)

    return keep


def _noting(original: Any) -> Any:
    def note_bytes(self: Any, bytes_done: int) -> None:
        reach(Failpoint.CHUNK_READ)
        _state.noting = True
        try:
            original(self, bytes_done)
        finally:
            _state.noting = False

    return note_bytes


def _sending(original: Any) -> Any:
    def make(self: Any, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        object.__setattr__(self, "send", _watched(self.send))

    return make


def _watched(send: Callable[[str, Any, str | None], None]) -> Callable[[str, Any, str | None], None]:
    def watched(task: str, message: Any, queue: str | None) -> None:
        still_alive()
        if queue is not None:
            before, after = Failpoint.OUTBOX_BEFORE_SEND, Failpoint.OUTBOX_SENT
        elif task in _EVENT_TASKS:
            before, after = Failpoint.EMIT_BEFORE_SEND, Failpoint.EMITTED
        else:
            before, after = Failpoint.HINT_BEFORE_SEND, Failpoint.HINT_SENT
        reach(before)
        send(task, message, queue)
        reach(after)

    return watched


def _draining(original: Any) -> Any:
    def acknowledge(self: Any, messages: Any) -> None:
        reach(Failpoint.DRAIN_BEFORE_ACK)
        original(self, messages)
        reach(Failpoint.DRAINED)

    return acknowledge
