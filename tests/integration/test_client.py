"""`fedqueue.Client` against a whole hub: a real server, real workers, a real database and store.

Its length is the client's: a test for each thing it can be asked, all of them against one hub.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from config.loading import load_settings
from config.places import broker_url_in, database_url_in, store_url_in
from config.settings import Settings
from fedqueue import Client, HubFailed, HubUnavailable, Rejected, RoundNotPosted, UpdateRejected
from fedqueue.messages import ModelView
from worker.supervisor import Supervisor

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


def hub_settings(home: Path, **others: Any) -> Settings:
    """An embedded hub's settings, wherever the environment's point."""
    places = {
        "database_url": database_url_in(home),
        "broker_url": broker_url_in(home),
        "result_url": broker_url_in(home),
        "store_url": store_url_in(home),
    }
    return load_settings(None, home=home, **places | others)


@pytest.fixture(scope="module")
def supervisor(home: Path) -> Iterator[Supervisor]:
    with Supervisor(hub_settings(home)) as running:
        yield running


@pytest.fixture
def hub(supervisor: Supervisor) -> Iterator[Client]:
    settings = supervisor.settings
    with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
        yield client


Make = Callable[..., tuple[ModelView, list[UUID]]]


@pytest.fixture
def make(hub: Client) -> Make:
    """A model and so many registered clients of it."""

    def make(clients: int = 1, **fields: Any) -> tuple[ModelView, list[UUID]]:
        model = hub.create_model(**{"requirement": "require_x_clients", "requirement_args": {"x": clients}} | fields)
        return model, [hub.register_client(model.model_id).client_id for _ in range(clients)]

    return make


def test_a_round_goes_from_two_clients_arrays_to_the_model_they_fetch(hub: Client, make: Make) -> None:
    model, (north, south) = make(2, initial={"w": np.zeros(2, np.float32)})
    start = hub.fetch_latest(model.model_id)
    assert (start.number, start.aggregate_id, start.arrays["w"].tolist()) == (0, None, [0.0, 0.0])
    first = hub.submit_update(model.model_id, north, {"w": np.array([1.0, 2.0], np.float32)}, num_examples=1)
    assert first.status == "PENDING"
    hub.submit_update(model.model_id, south, {"w": np.array([5.0, 6.0], np.float32)}, num_examples=3)
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert (posted.number, posted.num_updates, posted.num_examples, posted.parent_id) == (1, 2, 4.0, None)
    fetched = hub.fetch_latest(model.model_id)
    assert fetched.arrays["w"].tolist() == [4.0, 5.0]  # (1 + 3 × 5) / 4 and (2 + 3 × 6) / 4
    assert fetched.arrays["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ({"w": np.array([1.0, 2.0], np.float32)}, [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 2.0]),
        ([0.5] * 100_000, [0.5] * 100_000),
    ],
    ids=["arrays", "inline", "a JSON model too large to travel"],
)
def test_data_that_was_put_once_is_a_model_and_an_update_and_is_fetched_as_it_was_waited_for(
    hub: Client, make: Make, data: Any, values: list[float]
) -> None:
    payload = hub.put(data)
    assert hub.put(data).digest == payload.digest
    model, (client,) = make(initial=payload)
    hub.submit_update(model.model_id, client, payload, num_examples=1)
    latest = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    fetched = hub.fetch(latest)
    assert fetched.number == 1
    assert (fetched.data or fetched.arrays["w"].tolist()) == values


def test_the_second_aggregate_names_the_first_as_its_parent(hub: Client, make: Make) -> None:
    model, (client,) = make(data_format="json")
    hub.submit_update(model.model_id, client, [1, 2], num_examples=1)
    first = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    hub.submit_update(model.model_id, client, [3, 4], num_examples=1, base_aggregate=first.aggregate_id)
    second = hub.wait_for_aggregate(model.model_id, after=1, timeout=30)
    assert (second.number, second.parent_id) == (2, first.aggregate_id)


def test_fmas_published_case_holds_for_inline_lists(hub: Client, make: Make) -> None:
    model, (north, south) = make(2, aggregator="avg_values_if_data", data_format="json")
    hub.submit_update(model.model_id, north, [1, 2, 4], num_examples=1)
    hub.submit_update(model.model_id, south, [5, 2, 3], num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert hub.fetch_latest(model.model_id).data == [3.0, 2.0, 3.5]


def test_a_json_model_too_large_to_travel_comes_from_the_store(hub: Client, make: Make) -> None:
    model, (client,) = make(data_format="json")
    values = [0.5] * 100_000
    hub.submit_update(model.model_id, client, values, num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert hub.fetch_latest(model.model_id).data == values


def test_a_file_is_an_update_and_so_is_a_json_file(hub: Client, make: Make, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model, (client,) = make()
    save_file({"w": np.array([1.5])}, tmp_path / "update.safetensors")
    hub.submit_update(model.model_id, client, tmp_path / "update.safetensors", num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert hub.fetch_latest(model.model_id).arrays["w"].tolist() == [1.5]

    lists, (client,) = make(data_format="json")
    (tmp_path / "update.json").write_text("[[1.0], [2.0, 3.0]]")
    hub.submit_update(lists.model_id, client, str(tmp_path / "update.json"), num_examples=1)
    hub.wait_for_aggregate(lists.model_id, after=0, timeout=30)
    assert hub.fetch_latest(lists.model_id).data == [[1.0], [2.0, 3.0]]


def test_numpys_files_are_a_model_and_its_updates(hub: Client, tmp_path: Path) -> None:
    np.savez(tmp_path / "start.npz", w=np.zeros(2, np.float32), b=np.zeros((), np.float32))
    model = hub.create_model(initial=tmp_path / "start.npz", requirement="require_x_clients", requirement_args={"x": 2})
    assert model.data_format == "safetensors"
    assert {name: a.tolist() for name, a in hub.fetch_latest(model.model_id).arrays.items()} == {"b": 0.0, "w": [0, 0]}
    for at, num_examples in ((1, 1), (5, 3)):
        client = hub.register_client(model.model_id).client_id
        path = tmp_path / f"update {at}.npz"
        np.savez_compressed(path, b=np.float32(at), w=np.array([at, -at], np.float32))
        hub.submit_update(model.model_id, client, path, num_examples=num_examples)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    fetched = hub.fetch_latest(model.model_id).arrays
    assert (fetched["w"].tolist(), fetched["b"].tolist()) == ([4.0, -4.0], 4.0)  # (1 + 3 × 5) / 4
    assert fetched["w"].dtype == np.float32


def test_a_lone_array_is_a_model_of_one_tensor(hub: Client, make: Make, tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.zeros((1, 2)))
    model, (client,) = make(initial=tmp_path / "start.npy")
    hub.submit_update(model.model_id, client, {"values": np.array([[1.5, 2.5]])}, num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert hub.fetch_latest(model.model_id).arrays["values"].tolist() == [[1.5, 2.5]]


def test_a_bad_file_of_numpys_is_refused_with_its_reason(hub: Client, make: Make, tmp_path: Path) -> None:
    model, (client,) = make(data_format="safetensors")
    lists, (other,) = make(data_format="json")
    np.savez(tmp_path / "good.npz", w=np.ones(3))
    np.savez(tmp_path / "objects.npz", w=np.array([None, {}]))
    np.savez_compressed(tmp_path / "bomb.npz", w=np.zeros(1 << 25))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
    (tmp_path / "text.npz").write_text("no archive at all")
    for model_id, sender, name, code in (
        (model.model_id, client, "objects.npz", "DTYPE"),
        (model.model_id, client, "bomb.npz", "TOO_LARGE"),
        (model.model_id, client, "cut.npz", "CORRUPT"),
        (model.model_id, client, "text.npz", "CORRUPT"),
        (lists.model_id, other, "good.npz", "SCHEMA"),
    ):
        with pytest.raises(UpdateRejected) as refused:
            hub.submit_update(model_id, sender, tmp_path / name, num_examples=1)
        assert refused.value.reason_code == code, name
    with pytest.raises(Rejected, match="CORRUPT: not a sound") as rejected:
        hub.create_model(initial=tmp_path / "cut.npz")
    assert (rejected.value.kind, rejected.value.field) == ("InvalidModelData", "initial")


def test_bfloat16_goes_there_and_back(hub: Client, make: Make) -> None:
    model, (client,) = make()
    hub.submit_update(model.model_id, client, {"w": np.array([1.5, -3.0], ml_dtypes.bfloat16)}, num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    fetched = hub.fetch_latest(model.model_id).arrays["w"]
    assert fetched.dtype == np.dtype(ml_dtypes.bfloat16)
    assert fetched.astype(float).tolist() == [1.5, -3.0]


def test_a_submission_id_counts_once_however_often_it_comes(hub: Client, make: Make) -> None:
    model, (client,) = make()
    submission_id = uuid4()
    arrays = {"w": np.ones(1)}
    views = [
        hub.submit_update(model.model_id, client, arrays, num_examples=2, submission_id=submission_id) for _ in range(3)
    ]
    assert len({view.update_id for view in views}) == 1
    assert [view.repeated for view in views] == [False, True, True]
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert (posted.num_updates, posted.num_examples) == (1, 2.0)


def test_a_submission_id_with_another_payload_is_refused(hub: Client, make: Make) -> None:
    model, (client,) = make()
    submission_id = hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1).submission_id
    with pytest.raises(Rejected):
        hub.submit_update(model.model_id, client, {"w": np.zeros(1)}, num_examples=1, submission_id=submission_id)


def test_models_and_clients_sent_twice_under_one_id_are_one(hub: Client) -> None:
    model_id, client_id = uuid4(), uuid4()
    assert hub.create_model(model_id=model_id, name="a") == hub.create_model(model_id=model_id, name="a")
    for _ in range(2):
        hub.register_client(model_id, client_id)
    assert hub.get_model(model_id).clients == 1


def test_an_update_sent_without_waiting_arrives(hub: Client, make: Make) -> None:
    model, (client,) = make()
    submission_id = hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1, wait=False)
    assert isinstance(submission_id, UUID), "no answer to it"
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)


@pytest.mark.parametrize(
    ("fields", "suggested"),
    [
        ({"aggregator": "fedvag"}, "fedavg"),
        ({"requirement": "require_x_client", "requirement_args": [1]}, "require_x_clients"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(
    hub: Client, fields: dict[str, Any], suggested: str
) -> None:
    """A misspelt requirement once disabled the gate (DESIGN 11)."""
    with pytest.raises(Rejected, match=suggested) as rejected:
        hub.create_model(**fields)
    assert rejected.value.field is not None


def test_an_unknown_model_is_named(hub: Client) -> None:
    missing = uuid4()
    with pytest.raises(Rejected, match=str(missing)) as rejected:
        hub.get_model(missing)
    assert rejected.value.kind == "UnknownModel"


def truncated(arrays: Arrays, folder: Path) -> Path:
    from safetensors.numpy import save_file

    path = folder / "truncated.safetensors"
    save_file(arrays, path)
    path.write_bytes(path.read_bytes()[:-3])
    return path


def test_bad_updates_are_refused_by_reason_and_the_round_goes_on_without_them(
    hub: Client, make: Make, tmp_path: Path
) -> None:
    model, (north, south) = make(2, initial={"w": np.zeros(3)})
    stranger = uuid4()
    bad: list[tuple[UUID, Any, str]] = [
        (stranger, {"w": np.ones(3)}, "UNREGISTERED_CLIENT"),
        (north, {"w": np.ones((3, 3))}, "SHAPE"),
        (north, {"w": np.ones(3), "v": np.ones(1)}, "SCHEMA"),
        (north, {"w": np.ones(3, np.float32)}, "DTYPE"),
        (north, {"w": np.array([1.0, np.nan, 1.0])}, "NOT_FINITE"),
        (north, truncated({"w": np.ones(3)}, tmp_path), "CORRUPT"),
    ]
    codes = []
    for client, data, _ in bad:
        with pytest.raises(UpdateRejected) as rejected:
            hub.submit_update(model.model_id, client, data, num_examples=1)
        assert rejected.value.update_id > 0
        codes.append(rejected.value.reason_code)
    assert codes == [code for _, _, code in bad]
    assert hub.latest(model.model_id).number == 0
    hub.submit_update(model.model_id, north, {"w": np.ones(3)}, num_examples=1)
    hub.submit_update(model.model_id, south, {"w": np.full(3, 3.0)}, num_examples=1)
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    assert posted.num_updates == 2
    assert hub.fetch_latest(model.model_id).arrays["w"].tolist() == [2.0, 2.0, 2.0]
    assert hub.get_model(model.model_id).updates["INVALID"] == len(bad)


def test_a_paused_model_waits_and_a_resumed_one_goes_on(hub: Client, make: Make) -> None:
    model, (client,) = make()
    assert not hub.pause_model(model.model_id).allow_aggregation
    hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1)
    with pytest.raises(RoundNotPosted):
        hub.wait_for_aggregate(model.model_id, after=0, timeout=1.5)
    assert hub.resume_model(model.model_id).allow_aggregation
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)


def test_an_edit_changes_what_it_names_and_nothing_else(hub: Client, make: Make) -> None:
    model, _ = make(3, name="before", furthest_base_agg=2)
    edited = hub.edit_model(model.model_id, name="after")
    assert (edited.name, edited.furthest_base_agg, edited.requirement_args) == ("after", 2, {"x": 3})


def test_an_aggregate_is_published_and_scored(hub: Client, make: Make) -> None:
    model, (client,) = make()
    hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1)
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    artifact = hub.publish(model.model_id, "1.0")
    assert (artifact.version, artifact.aggregate_id, artifact.digest) == ("1.0", posted.aggregate_id, posted.digest)
    assert hub.publish(model.model_id, "1.0") == artifact
    assert posted.aggregate_id is not None
    for accuracy in (0.5, 0.75):
        score = hub.add_score(model.model_id, posted.aggregate_id, client, {"accuracy": accuracy})
    assert score.validation_results == {"accuracy": 0.75}


def test_nobody_waits_for_a_model_whose_last_round_is_posted(hub: Client, make: Make) -> None:
    model, (client,) = make(max_rounds=1)
    hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    started = time.monotonic()
    with pytest.raises(RoundNotPosted, match="RESULTS_UPLOADED"):
        hub.wait_for_aggregate(model.model_id, after=1, timeout=60)
    assert time.monotonic() - started < 10


def test_the_endpoint_file_is_enough_to_find_the_hub(
    supervisor: Supervisor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("FEDQUEUE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FEDQUEUE_HOME", str(home))
    with Client() as found:
        model = found.create_model(initial={"w": np.ones(2)})
        assert found.fetch_latest(model.model_id).arrays["w"].tolist() == [1.0, 1.0]


def test_the_celery_variables_of_the_service_around_do_not_divert_it(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery prefers them to any configuration: a service that runs Celery itself has them set."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    with Client(supervisor.settings.broker_url) as diverted:
        assert diverted.create_model(name="here").name == "here"


def test_answers_also_come_over_a_reply_queue(tmp_path: Path) -> None:
    """rpc:// is what RabbitMQ offers, where no key can be looked up."""
    with Supervisor(hub_settings(tmp_path, result_url="rpc://", embedded_workers=1)) as running:
        settings = running.settings
        with Client(settings.broker_url, "rpc://", settings.store_url) as hub:
            model = hub.create_model(initial={"w": np.ones(2)})
            assert hub.fetch_latest(model.model_id).arrays["w"].tolist() == [1.0, 1.0]
            with pytest.raises(Rejected):
                hub.get_model(uuid4())
            with pytest.raises(HubFailed, match="NotRegistered"):
                hub._asking.ask("fedqueue.no.such.task", {}, 30, {})
            running.stop()
            started = time.monotonic()
            with pytest.raises(HubUnavailable):
                hub.get_model(model.model_id, timeout=1)
            assert time.monotonic() - started < 10


def test_one_client_serves_many_threads(hub: Client, make: Make) -> None:
    model, clients = make(8)
    failures: list[BaseException] = []

    def submit(client: UUID) -> None:
        try:
            hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=1)
        except BaseException as error:  # noqa: BLE001  # told in the main thread
            failures.append(error)

    threads = [threading.Thread(target=submit, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert hub.wait_for_aggregate(model.model_id, after=0, timeout=30).num_updates == 8


def test_a_client_goes_on_in_both_processes_after_a_fork(hub: Client, make: Make) -> None:
    """Connections shared by two processes would mix up their answers."""
    model, _ = make()
    hub.get_model(model.model_id)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # counted in the parent only
        ids = {str(hub.get_model(model.model_id).model_id) for _ in range(20)}
        hub.close()
        os.write(writing, json.dumps(sorted(ids)).encode())
        os._exit(0)
    here = {hub.get_model(model.model_id).model_id for _ in range(20)}
    os.waitpid(child, 0)
    assert json.loads(os.read(reading, 1000)) == [str(model.model_id)]
    assert here == {model.model_id}
    assert hub.get_model(model.model_id).model_id == model.model_id
    os.close(reading)
    os.close(writing)


def kill(supervisor: Supervisor, role: str) -> None:
    for process in supervisor.processes:
        if process.role == role:
            os.kill(process.pid, signal.SIGKILL)


def test_a_submission_during_a_brokers_death_succeeds_and_counts_once(
    supervisor: Supervisor, hub: Client, make: Make
) -> None:
    model, clients = make(4)
    kill(supervisor, "server")
    for client in clients:
        view = hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=2, timeout=60)
        assert view.status in ("PENDING", "RUNNING", "COMPLETE")
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=60)
    assert (posted.num_updates, posted.num_examples) == (4, 8.0)
    assert sum(hub.get_model(model.model_id, timeout=60).updates.values()) == 4


def test_a_submission_during_the_workers_death_succeeds_and_counts_once(
    supervisor: Supervisor, hub: Client, make: Make
) -> None:
    model, clients = make(4)
    for at, client in enumerate(clients):
        if at in (1, 3):
            kill(supervisor, "worker")
        hub.submit_update(model.model_id, client, {"w": np.ones(1)}, num_examples=2, timeout=60)
    posted = hub.wait_for_aggregate(model.model_id, after=0, timeout=60)
    assert (posted.num_updates, posted.num_examples) == (4, 8.0)


def test_a_broker_that_is_nowhere_is_given_up_in_time_with_how_to_repeat(tmp_path: Path) -> None:
    submission_id = uuid4()
    with Client(f"redis+socket://{tmp_path}/none.sock", timeout=1) as lost:
        started = time.monotonic()
        with pytest.raises(HubUnavailable, match=str(submission_id)):
            lost.submit_update(uuid4(), uuid4(), [1.0], num_examples=1, submission_id=submission_id)
        assert time.monotonic() - started < 5
