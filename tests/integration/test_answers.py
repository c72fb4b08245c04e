"""Every mistake a caller can make gets a typed, readable answer, and the round goes on without it.

A worker as production runs it, SQLite, a real broker, and `fedqueue.Client`; where the client would catch a mistake
before sending it, the bare message is sent, as a service in another language might. A misspelt setting is answered
before a worker starts: tests/integration/test_worker_process.py.

Its length is the list of mistakes: every one meets the same worker, and shows the round going on after it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from config.settings import Settings
from fedqueue import Client, Rejected, UpdateRejected
from fedqueue.messages import ModelView, ScoreView, UpdateView
from fedqueue.messages import names as wire
from tests.chaos.fleet import fleet_running
from tests.servers import Server

LARGEST = 100_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, valkey: Server) -> Iterator[Settings]:
    """A running worker's settings."""
    folder = tmp_path_factory.mktemp("answers")
    broker = valkey.url.removesuffix("/0") + "/7"  # a database of its own: other tests flush theirs
    chosen = Settings(home=folder / "home", broker_url=broker, max_update_bytes=LARGEST, worker_concurrency=2)
    with fleet_running(chosen, folder / "logs", workers=1):
        yield chosen


@dataclass
class Table:
    """A model, its client, and somebody who makes mistakes with them."""

    hub: Client
    settings: Settings
    folder: Path
    model: ModelView
    client: UUID

    def submit(self, data: Any, **fields: Any) -> UpdateView:
        arguments = {"num_examples": 1.0} | fields
        return self.hub.submit_update(
            arguments.pop("model_id", self.model.model_id), arguments.pop("client_id", self.client), data, **arguments
        )

    def send(self, task: str, message: Any) -> Any:
        """The bare message."""
        return self.hub._ask(task, message, ScoreView if task == wire.SCORES_ADD else UpdateView, {}, None)

    def bare(self, **fields: Any) -> dict[str, Any]:
        """An update as a bare message: its data in the store, unless `fields` says otherwise."""
        message = {"submission_id": str(uuid4()), "model_id": str(self.model.model_id), "client_id": str(self.client)}
        if not {"data", "data_uri"} & fields.keys():
            fields |= self.stored(save({"w": np.ones(3, np.float32)}))
        return message | fields

    def stored(self, content: bytes) -> dict[str, str]:
        """Where such bytes lie in the store."""
        from fedqueue.blobs import keep_blob, new_blob, path_of

        with new_blob(path_of(self.settings.store_url)) as file:
            file.write(content)
            path, digest = keep_blob(path_of(self.settings.store_url), file)
        return {"data_uri": path.as_uri(), "digest": digest}

    def post(self) -> int:
        """The next aggregate's id, from one good update; it holds that update alone."""
        head = self.hub.latest(self.model.model_id)
        json_model = self.model.data_format == "json"
        data = [1.0, 2.0, 3.0] if json_model else {"w": np.array([1, 2, 3], np.float32)}
        self.submit(data, base_aggregate=head.aggregate_id)
        posted = self.hub.wait_for_aggregate(self.model.model_id, after=head.number, timeout=30)
        fetched = self.hub.fetch_latest(self.model.model_id)
        assert (fetched.data if json_model else fetched.arrays["w"].tolist()) == [1.0, 2.0, 3.0]
        assert (posted.number, posted.num_updates) == (head.number + 1, 1)
        assert posted.aggregate_id is not None
        return posted.aggregate_id

    def dead_letters(self) -> list[tuple[str, str, str | None, str, Any]]:
        """(task, kind, field, reason, message) of every refused message that the hub has kept, by plain SQL."""
        with closing(sqlite3.connect(self.settings.database_url.removeprefix("sqlite:///"))) as file:
            rows = file.execute("SELECT task, kind, field, reason, payload FROM dead_letter ORDER BY id").fetchall()
        return [(task, kind, field, reason, json.loads(payload)) for task, kind, field, reason, payload in rows]


@pytest.fixture
def table(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    """A model of three float32, or as the case's own policy has it."""
    policy: dict[str, Any] = {"requirement": "require_x_clients", "requirement_args": [1]}
    own = getattr(request, "param", {})
    if own.get("data_format") != "json":
        policy["initial"] = {"w": np.zeros(3, np.float32)}
    with Client(settings.broker_url, settings.result_url, settings.store_url) as hub:
        model = hub.create_model(**(policy | own))
        yield Table(hub, settings, tmp_path, model, hub.register_client(model.model_id).client_id)


def floats(*values: float) -> dict[str, NDArray[np.float32]]:
    return {"w": np.array(values, np.float32)}


# --- messages that are refused --------------------------------------------------------------------

_JSON = {"data_format": "json"}


@dataclass(frozen=True)
class Refusal:
    """A mistake, and the answer to it: the rule's name, the field, and words of the sentence."""

    make: Callable[[Table], object]
    kind: str
    field: str | None
    says: str


def _reuse(table: Table) -> None:
    first = table.submit(floats(1, 2, 3))
    table.submit(floats(4, 5, 6), submission_id=first.submission_id)


def _score(table: Table, results: dict[str, Any], **fields: Any) -> None:
    table.hub.edit_model(
        table.model.model_id,
        client_agg_results_schema={"type": "object", "properties": {"accuracy": {"type": "number"}}},
    )
    arguments: dict[str, Any] = {"aggregate_id": table.post(), "client_id": table.client} | fields
    table.hub.add_score(table.model.model_id, validation_results=results, **arguments)


def _retake(table: Table) -> None:
    first, second = table.post(), table.post()
    table.hub.publish(table.model.model_id, "1.0", first)
    table.hub.publish(table.model.model_id, "1.0", second)


REFUSALS = {
    "a misspelt aggregator": Refusal(
        lambda t: t.hub.create_model(aggregator="fedvag"), "InvalidPolicy", "aggregator", "did you mean 'fedavg'?"
    ),
    "a misspelt parameter": Refusal(
        lambda t: t.hub.create_model(aggregator="fedavg", aggregator_params={"wieghting": "uniform"}),
        "InvalidPolicy",
        "aggregator_params",
        "did you mean 'weighting'?",
    ),
    "a misspelt requirement": Refusal(
        lambda t: t.hub.create_model(requirement="require_x_cleints", requirement_args=[2]),
        "InvalidPolicy",
        "requirement",
        "did you mean 'require_x_clients'?",
    ),
    "a requirement's misspelt argument": Refusal(
        lambda t: t.hub.create_model(requirement="require_x_clients", requirement_args={"y": 2}),
        "InvalidPolicy",
        "requirement_args.x",
        "it takes x",
    ),
    "a misspelt requirement in an edit": Refusal(
        lambda t: t.hub.edit_model(t.model.model_id, requirement="all_client"),
        "InvalidPolicy",
        "requirement",
        "did you mean 'all_clients'?",
    ),
    "a schema that is none": Refusal(
        lambda t: t.hub.create_model(data_format="json", update_schema={"type": "lists"}),
        "InvalidPolicy",
        "update_schema",
        "not a JSON Schema",
    ),
    "an initial model that is not finite": Refusal(
        lambda t: t.hub.create_model(initial=floats(1, np.inf)), "InvalidModelData", "initial", "w[1] is inf"
    ),
    "a model id that is taken": Refusal(
        lambda t: t.hub.create_model(model_id=t.model.model_id, initial=floats(7)),
        "ModelReused",
        "model_id",
        "choose a new model_id",
    ),
    "an unknown model": Refusal(
        lambda t: t.submit(floats(1, 2, 3), model_id=UUID(int=9)), "UnknownModel", "model_id", f"{UUID(int=9)}"
    ),
    "a submission id with another payload": Refusal(
        _reuse, "SubmissionReused", "submission_id", "a new update needs a new submission_id"
    ),
    "a base that the model does not have": Refusal(
        lambda t: t.submit(floats(1, 2, 3), base_aggregate=987_654), "UnknownAggregate", "base_aggregate", "987654"
    ),
    "a message with an unknown field": Refusal(
        lambda t: t.send(wire.UPDATES_SUBMIT, t.bare(wieght=3)), "InvalidMessage", "wieght", "not permitted"
    ),
    "a message without its model": Refusal(
        lambda t: t.send(wire.UPDATES_SUBMIT, {"submission_id": str(uuid4())}), "InvalidMessage", "model_id", "required"
    ),
    "a message that is none": Refusal(
        lambda t: t.send(wire.UPDATES_SUBMIT, ["an", "update"]), "InvalidMessage", None, "dictionary"
    ),
    "data and a reference at once": Refusal(
        lambda t: t.send(wire.UPDATES_SUBMIT, t.bare(data=[1], data_uri="file:///x", digest="0" * 64)),
        "InvalidMessage",
        None,
        "exactly one of data and data_uri",
    ),
    "a metric that is no number": Refusal(
        lambda t: t.send(wire.UPDATES_SUBMIT, t.bare(metrics={"loss": "low"})),
        "InvalidMessage",
        "metrics.loss",
        "number",
    ),
    "results that break the schema of scores": Refusal(
        lambda t: _score(t, {"accuracy": "high"}), "InvalidScore", "validation_results", "$.accuracy: 'high'"
    ),
    "a stranger's score": Refusal(
        lambda t: _score(t, {"accuracy": 1}, client_id=UUID(int=5)), "UnknownClient", "client_id", "register it first"
    ),
    "a score of no aggregate": Refusal(
        lambda t: _score(t, {"accuracy": 1}, aggregate_id=987_654), "UnknownAggregate", "aggregate_id", "987654"
    ),
    "a version of nothing": Refusal(
        lambda t: t.hub.publish(t.model.model_id, "1.0"), "UnknownAggregate", "aggregate_id", "no aggregate yet"
    ),
    "a version that is taken": Refusal(_retake, "VersionTaken", "version", "'1.0'"),
}


@pytest.mark.parametrize("mistake", REFUSALS)
def test_refused(table: Table, mistake: str) -> None:
    """The answer names the rule and the field; the message is kept as a dead letter; the model posts its round."""
    refusal = REFUSALS[mistake]
    with pytest.raises(Rejected) as rejected:
        refusal.make(table)
    answer = rejected.value
    assert (answer.kind, answer.field) == (refusal.kind, refusal.field)
    assert refusal.says in answer.reason
    assert len(answer.reason.split()) >= 2, "a sentence, not a code"
    task, kind, field, reason, message = table.dead_letters()[-1]
    assert (kind, field, reason) == (answer.kind, answer.field, answer.reason)
    assert task.startswith("fedqueue.")
    assert message, "kept whole, so that somebody can look into it"
    table.post()


# --- updates that are set aside -------------------------------------------------------------------


@dataclass(frozen=True)
class Quarantine:
    """A bad update, and why it is INVALID; `policy`: of the model that finds it so."""

    send: Callable[[Table], UpdateView]
    code: str
    says: str
    policy: dict[str, Any] | None = None


def _truncated(table: Table) -> UpdateView:
    path = table.folder / "truncated.safetensors"
    save_file({"w": np.ones(3, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-2])
    return table.submit(path)


def _outside(table: Table) -> UpdateView:
    path = table.folder / "mine.safetensors"
    save_file({"w": np.ones(3, np.float32)}, path)
    return _sent(table, data_uri=path.as_uri(), digest="0" * 64)


def _sent(table: Table, **fields: Any) -> UpdateView:
    """A bare message; an INVALID update in the answer raised as the client raises it."""
    view: UpdateView = table.send(wire.UPDATES_SUBMIT, table.bare(**fields))
    if view.status == "INVALID":
        raise UpdateRejected(view.reason_code or "", view.reason or "", view.update_id, view.submission_id)
    return view


def _gone(table: Table) -> UpdateView:
    from fedqueue.blobs import path_of

    reference = table.stored(save({"w": np.full(3, 77, np.float32)}))
    path_of(reference["data_uri"]).unlink()
    return _sent(table, **reference)


def _stale(table: Table) -> UpdateView:
    first = table.post()
    table.post()
    return table.submit(floats(1, 2, 3), base_aggregate=first)


QUARANTINES = {
    "an unregistered client": Quarantine(
        lambda t: t.submit(floats(1, 2, 3), client_id=UUID(int=7)), "UNREGISTERED_CLIENT", "is not registered"
    ),
    "a wrong shape": Quarantine(
        lambda t: t.submit({"w": np.ones((3, 3), np.float32)}),
        "SHAPE",
        "tensor 'w' has shape [3, 3], the model's [3]",
    ),
    "a wrong dtype": Quarantine(lambda t: t.submit({"w": np.ones(3)}), "DTYPE", "tensor 'w' is F64, the model's F32"),
    "a missing tensor": Quarantine(
        lambda t: t.submit({"v": np.ones(3, np.float32)}), "SCHEMA", "tensor 'w' is missing"
    ),
    "a tensor too many": Quarantine(
        lambda t: t.submit(floats(1, 2, 3) | {"v": np.ones(1)}), "SCHEMA", "tensor 'v' is none of the model's"
    ),
    "a NaN": Quarantine(lambda t: t.submit(floats(1, np.nan, 3)), "NOT_FINITE", "w[1] is nan"),
    "an infinity": Quarantine(lambda t: t.submit(floats(1, 2, -np.inf)), "NOT_FINITE", "w[2] is -inf"),
    "a truncated file": Quarantine(_truncated, "CORRUPT", "bytes"),
    "bytes that are no model": Quarantine(lambda t: _sent(t, **t.stored(b"not a model")), "CORRUPT", "safetensors"),
    "another digest than the bytes'": Quarantine(
        lambda t: _sent(t, **(t.stored(save({"w": np.ones(3, np.float32)})) | {"digest": "0" * 64})),
        "CORRUPT",
        "0" * 64,
    ),
    "a reference to nothing": Quarantine(_gone, "CORRUPT", "nothing is stored at"),
    "a reference out of the store": Quarantine(_outside, "CORRUPT", "lies under none of the configured roots"),
    "a reference to another machine": Quarantine(
        lambda t: _sent(t, data_uri="https://example.org/model", digest="0" * 64), "CORRUPT", "only files are read here"
    ),
    "inline data where files are due": Quarantine(
        lambda t: _sent(t, data=[1.0, 2.0, 3.0]), "SCHEMA", "send a data_uri"
    ),
    "an update too large": Quarantine(
        lambda t: t.submit({"w": np.ones(LARGEST, np.float32)}), "TOO_LARGE", str(LARGEST)
    ),
    "no examples": Quarantine(lambda t: _sent(t, num_examples=0.0), "WEIGHT", "must be above 0"),
    "a negative weight": Quarantine(lambda t: _sent(t, num_examples=-3.0), "WEIGHT", "num_examples is -3"),
    "a norm beyond the model's bound": Quarantine(
        lambda t: t.submit(floats(30, 40, 0)), "NORM", "its L2 norm is 50, the model allows 10", {"max_norm": 10.0}
    ),
    "a base too old": Quarantine(_stale, "STALE", "only the 1 newest count", {"furthest_base_agg": 1}),
    "data against the model's schema": Quarantine(
        lambda t: t.submit([1.0, 2.0]),
        "SCHEMA",
        "$: [1.0, 2.0]",
        _JSON | {"update_schema": {"type": "array", "minItems": 3}},
    ),
    "lists that are not numbers": Quarantine(lambda t: t.submit([1.0, "two", 3.0]), "SCHEMA", "[1] is text", _JSON),
}


@pytest.mark.parametrize(
    ("table", "mistake"), [(bad.policy or {}, name) for name, bad in QUARANTINES.items()], indirect=["table"]
)
def test_set_aside(table: Table, mistake: str) -> None:
    """The answer says why, in one code and one sentence; the update is kept as INVALID; the model posts its round."""
    bad = QUARANTINES[mistake]
    with pytest.raises(UpdateRejected) as rejected:
        bad.send(table)
    answer = rejected.value
    assert answer.reason_code == bad.code
    assert bad.says in answer.reason
    assert len(answer.reason.split()) >= 2, "a sentence, not a code"
    assert table.hub.get_model(table.model.model_id).updates["INVALID"] == 1
    table.post()
    assert table.hub.get_model(table.model.model_id).updates["INVALID"] == 1


# --- what is no mistake ---------------------------------------------------------------------------


def test_a_repeated_submission_is_answered_as_the_first_time(table: Table) -> None:
    """While it waits, when it has been counted, and when it was refused: one update, whatever it has become."""
    table.hub.pause_model(table.model.model_id)
    arguments: dict[str, Any] = {"submission_id": uuid4(), "num_examples": 2.0}
    first = table.submit(floats(1, 2, 3), **arguments)
    again = table.submit(floats(1, 2, 3), **arguments)
    assert (first.status, first.repeated) == (again.status, False) == ("PENDING", False)
    assert (again.update_id, again.repeated) == (first.update_id, True)
    table.hub.resume_model(table.model.model_id)
    posted = table.hub.wait_for_aggregate(table.model.model_id, after=0, timeout=30)
    counted = table.submit(floats(1, 2, 3), **arguments)
    assert (counted.update_id, counted.status, counted.repeated) == (first.update_id, "COMPLETE", True)
    assert (posted.num_updates, posted.num_examples) == (1, 2.0)
    bad = {"submission_id": uuid4()}
    ids = []
    for _ in range(2):
        with pytest.raises(UpdateRejected) as rejected:
            table.submit(floats(np.nan, 2, 3), **bad)
        ids.append((rejected.value.update_id, rejected.value.reason_code))
    assert ids[0] == ids[1]
    table.post()


def test_a_paused_model_says_so_and_takes_updates_all_the_same(table: Table) -> None:
    assert not table.hub.pause_model(table.model.model_id, user_id="ada").allow_aggregation
    assert table.submit(floats(1, 2, 3)).status == "PENDING"
    assert not table.hub.get_model(table.model.model_id).allow_aggregation
    assert table.hub.resume_model(table.model.model_id).allow_aggregation
    assert table.hub.wait_for_aggregate(table.model.model_id, after=0, timeout=30).num_updates == 1


@pytest.mark.parametrize("table", [{"max_rounds": 1}], indirect=True)
def test_a_model_whose_run_is_over_says_so(table: Table) -> None:
    table.post()
    with pytest.raises(Rejected) as rejected:
        table.submit(floats(1, 2, 3))
    assert (rejected.value.kind, rejected.value.field) == ("ModelIsOver", "model_id")
    assert "is RESULTS_UPLOADED: its run takes no more updates" in rejected.value.reason


def test_of_two_updates_of_one_client_the_older_is_set_aside_and_says_for_which(table: Table) -> None:
    table.hub.pause_model(table.model.model_id)
    older, newer = table.submit(floats(9, 9, 9)), table.submit(floats(1, 2, 3))
    table.hub.resume_model(table.model.model_id)
    assert table.hub.wait_for_aggregate(table.model.model_id, after=0, timeout=30).num_updates == 1
    assert table.hub.fetch_latest(table.model.model_id).arrays["w"].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(UpdateRejected, match=f"superseded by update {newer.update_id} of the same client") as rejected:
        table.submit(floats(9, 9, 9), submission_id=older.submission_id)
    assert rejected.value.reason_code == "DUPLICATE"
