"""Messages as somebody with the broker's address may send them: kombu's envelopes before the gate, and each task called
with whatever JSON can say, over a hub whose metadata are in memory."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from kombu.serialization import registry

from config.settings import Settings
from connectors.broker.redis_transport import Channel, take_safely_from_redis
from connectors.memory import InMemoryMetadataConnector
from connectors.storage import FileModelDataConnector
from fedqueue.gate import close_side_doors, find_fault
from fedqueue.messages import Answer, names
from tasks.hub import Hub
from tests.fuzz.mutations import JsonMutator
from tests.fuzz.running import Parse
from worker.bootstrap import TASK_MODULES

MODEL: Final = str(UUID(int=1))
CLIENT: Final = str(UUID(int=2))
TRUST: Final = str(UUID(int=3))
OTHER: Final = str(UUID(int=4))
_LIFE: Final = 150  # calls that one hub sees: what they leave behind grows

_LOG: Final = {"event_id": str(UUID(int=10)), "model_id": MODEL, "log": "hello", "details": {"a": [1, {"b": None}]}}
_POINT: Final = {
    "event_id": str(UUID(int=11)),
    "model_id": MODEL,
    "label": "loss",
    "result": 0.5,
    "global_round": 1,
    "fl_client_name": "site-1",
}
_EVENTS: Final = [
    {"event_id": str(UUID(int=12)), "model_id": MODEL, "event_type": "TRAINING_STARTED"},
    {
        "event_id": str(UUID(int=13)),
        "model_id": MODEL,
        "event_type": "ROUND_STARTED",
        "global_round": 1,
        "details": {"total_rounds": 2},
    },
    {"event_id": str(UUID(int=14)), "model_id": MODEL, "log": "away", "success": False, "fl_client_name": "nobody"},
    {
        "event_id": str(UUID(int=15)),
        "model_id": MODEL,
        "metric": {"label": "loss", "result": 0.5, "x_value": 1},
        "global_round": 1,
    },
]
_UPDATE: Final = {
    "submission_id": str(UUID(int=20)),
    "model_id": MODEL,
    "client_id": CLIENT,
    "num_examples": 3,
    "base_aggregate": 1,
    "data": [1, 2, 4],
    "metrics": {"loss": 0.5},
}

# A call of each task that the hub carries out.
CALLS: Final[Mapping[str, list[Any]]] = {
    names.MODELS_CREATE: [
        {"model_id": OTHER, "data_format": "json", "initial_data": [[1, 2], [3]], "clients": [CLIENT]},
        {
            "model_id": OTHER,
            "name": "digits",
            "aggregator": "trimmed_mean",
            "aggregator_params": {"beta": 0.3},
            "requirement": "all_of",
            "requirement_args": {"requirements": [["require_x_clients", [2]], ["deadline", {"seconds": 5}]]},
            "update_schema": {"type": "array", "items": {"type": "number"}},
            "client_agg_results_schema": {"type": "object", "properties": {"accuracy": {"type": "number"}}},
            "score_metric": "accuracy",
            "furthest_base_agg": 2,
        },
        {"model_id": OTHER, "aggregator": "fedasync", "data_format": "json", "initial_data": [1.0], "max_norm": 3.5},
    ],
    names.MODELS_EDIT: [{"model_id": MODEL, "changes": {"name": "b", "requirement": None, "patience": 2}}],
    names.MODELS_PAUSE: [{"model_id": MODEL, "user_id": "ada"}],
    names.MODELS_RESUME: [{"model_id": MODEL}],
    names.MODELS_REGISTER_CLIENT: [{"model_id": MODEL, "client_id": OTHER, "name": "north"}],
    names.MODELS_GET: [{"model_id": MODEL}],
    names.MODELS_LATEST: [{"model_id": MODEL, "include_data": True}],
    names.MODELS_PROGRESS: [{"model_id": MODEL}],
    names.MODELS_PUBLISH: [{"model_id": MODEL, "version": "1.0", "aggregate_id": 1, "final": True}],
    names.MODELS_DELETE: [{"model_id": MODEL, "user_id": "ada"}],
    names.MODELS_DELETE_FOR_PROJECT: [{"project_id": "chest", "user_id": "ada"}],
    names.MODELS_UPDATE_STATUS: [{"model_id": MODEL, "status": "STOPPED", "user_id": "ada"}],
    names.UPDATES_SUBMIT: [
        _UPDATE,
        {name: value for name, value in _UPDATE.items() if name != "data"}
        | {"data_uri": "file:///nowhere/x", "digest": "0" * 64},
    ],
    names.SCORES_ADD: [
        {"model_id": MODEL, "aggregate_id": 1, "client_id": CLIENT, "validation_results": {"accuracy": 0.5}}
    ],
    names.TRUSTS_ADD: [{"trust_id": OTHER, "name": "King's", "code": "KCH"}],
    names.TRUSTS_LIST: [{"model_id": MODEL}, {}],
    names.TRUSTS_SET_SLOT: [{"fl_client_name": "site-2", "trust_id": TRUST}],
    names.TRUSTS_SET_MODEL: [{"model_id": MODEL, "trust_ids": [TRUST]}],
    names.TRUSTS_SET_CLIENT: [{"client_id": CLIENT, "trust_id": TRUST}],
    names.EVENTS_INGEST: [{"events": _EVENTS}, _EVENTS[0]],
    names.LOGS_ADD: [{"entries": [_LOG, _LOG]}],
    names.METRICS_ADD: [{"points": [_POINT]}],
    names.LOGS_LIST: [{"model_id": MODEL}],
    names.METRICS_GET: [{"model_id": MODEL}],
    names.ROUNDS_AGGREGATE: [{"model_id": MODEL}, {"model_id": 1}],
    names.ROUNDS_POLL: [{}],
    names.MAINTENANCE_OUTBOX: [{}],
}


class _Metadata(InMemoryMetadataConnector):
    """In memory; what is kept as a dead letter must be what a database can keep."""

    def add_dead_letter(self, task: str, payload: Any, *, kind: str, field: str | None, reason: str) -> None:
        text = json.dumps([task, payload, kind, field, reason], allow_nan=False, ensure_ascii=False)
        assert "\0" not in text.encode().decode(), "text that PostgreSQL refuses"
        assert field is None or len(field) <= 200
        super().add_dead_letter(task, payload, kind=kind, field=field, reason=reason)


class _Tasks:
    """The application's own tasks, over a hub that is made anew now and then."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self._app: Any = Celery("fuzz", set_as_current=True, include=TASK_MODULES, fixups=[])
        self._app.loader.import_default_modules()
        self._app.finalize()
        self._calls = 0
        # A line of log for each refusal would take longer than the refusal.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self._begin_anew()

    def call(self, task: str, payload: Any) -> Answer:
        self._calls += 1
        if self._calls % _LIFE == 0:
            self._begin_anew()
        returned = self._app.tasks[task](payload)
        json.dumps(returned)
        return Answer.model_validate(returned)

    def _begin_anew(self) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self._app.hub = Hub(
            settings=Settings(home=self._folder),
            metadata=_Metadata(clock=lambda: 1_000_000),
            model_data=FileModelDataConnector(self._folder / "store"),
            send=lambda task, message, queue: None,
            worker="fuzz",
        )
        create = {"model_id": MODEL, "data_format": "json", "requirement": None, "clients": [CLIENT]}
        first = {name: value for name, value in _UPDATE.items() if name != "base_aggregate"}
        before = (
            (names.MODELS_CREATE, create | {"project_id": "chest"}),
            (names.TRUSTS_ADD, {"trust_id": TRUST, "name": "Guy's", "code": "GSTT"}),
            (names.TRUSTS_SET_SLOT, {"fl_client_name": "site-1", "trust_id": TRUST}),
            (names.TRUSTS_SET_MODEL, {"model_id": MODEL, "trust_ids": [TRUST]}),
            (names.UPDATES_SUBMIT, first | {"submission_id": str(UUID(int=19))}),
            (names.ROUNDS_AGGREGATE, {"model_id": MODEL}),
        )
        for task, payload in before:
            answer = Answer.model_validate(self._app.tasks[task](payload))
            assert answer.rejection is None, (task, answer)


def tasks(seed: int) -> tuple[Parse, Callable[[], bytes]]:
    """Every task, called with what came off the wire as its argument."""
    tasks = _Tasks()
    corpus = [[task, call] for task, calls in CALLS.items() for call in calls]
    known = {task for task, _ in corpus}

    def parse(data: bytes) -> bool:
        try:
            # As a worker does it.
            called = registry.loads(data, "application/json", "utf-8", force=True)  # type: ignore[no-untyped-call]
        except KombuError:
            return False
        if not isinstance(called, list) or len(called) != 2 or not isinstance(called[0], str) or called[0] not in known:
            return False
        return tasks.call(*called).rejection is None

    return parse, JsonMutator(corpus, seed, longest=1 << 15).draw


def envelopes(seed: int) -> tuple[Parse, Callable[[], bytes]]:
    """What lies in a queue on Redis, up to the call that a worker would make of it."""
    close_side_doors(is_signed=False)
    take_safely_from_redis()
    channel = Channel.__new__(Channel)
    corpus: list[Any] = []
    for task, calls in CALLS.items():
        body = json.dumps([[calls[0]], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        headers: dict[str, Any] = {"task": task, "id": CLIENT, "ignore_result": True, "retries": 0}
        headers |= {"timelimit": [None, 3.5], "eta": None, "expires": "2026-01-01T00:00:00+00:00", "argsrepr": "()"}
        envelope = {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}, "priority": 0},
        }
        corpus.append(envelope)
        packed = envelope | {"body": base64.b64encode(body.encode()).decode()}
        corpus.append(packed | {"properties": {**envelope["properties"], "body_encoding": "base64"}})  # type: ignore[dict-item]

    def parse(data: bytes) -> bool:
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError):
            return False  # the script that takes it puts it aside
        if not isinstance(raw, dict):
            return False
        message = channel.Message(raw, channel=channel)
        if message.errors or find_fault(message, is_signed=False) is not None:
            return False
        arguments, named, _ = message.decode()  # type: ignore[no-untyped-call]
        assert isinstance(arguments, list)
        assert isinstance(named, dict)
        assert isinstance(message.headers["task"], str)
        assert isinstance(message.headers["id"], str)
        return True

    return parse, JsonMutator(corpus, seed).draw
