"""Writers at the same moment: each event once, a reader misses none, and a deletion in between is seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from connectors.errors import ModelDeleted
from connectors.memory import InMemoryMetadataConnector
from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel, Kept, ModelStatus, NewLog, NewMetric, Trust
from tests.waiting import run_until_it_waits


def entries(model: FederatedModel, count: int) -> list[NewLog]:
    return [NewLog(model.id, uuid4(), log=f"entry {number}") for number in range(count)]


def points(model: FederatedModel, count: int) -> list[NewMetric]:
    return [
        NewMetric(model_id=model.id, event_id=uuid4(), label="loss", x_label="Epochs", x_value=float(n), result=0.0)
        for n in range(count)
    ]


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """What each returned or raised."""
    outcomes: list[Any] = [None] * len(works)

    def run(position: int) -> None:
        try:
            outcomes[position] = works[position]()
        except Exception as error:  # noqa: BLE001  # whatever it is, the test must show it
            outcomes[position] = error

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


@pytest.mark.parametrize("kind", ["logs", "metrics"])
def test_a_batch_that_two_write_at_once_is_kept_once(connector: BaseMetadataConnector, world: Any, kind: str) -> None:
    model = world.model()
    barrier = threading.Barrier(3)
    batch: list[Any] = entries(model, 200) if kind == "logs" else points(model, 200)

    def write() -> list[Kept]:
        add = connector.add_logs if kind == "logs" else connector.add_metrics
        barrier.wait()
        return connector.transact(lambda _: add(batch))

    outcomes = in_threads([write, write, write])
    for each in zip(*outcomes, strict=True):
        assert sorted(each) == [Kept.NEW, Kept.REPEATED, Kept.REPEATED]
    kept = connector.pull_logs(model, limit=1000) if kind == "logs" else connector.pull_metrics(model)
    assert [entry.event_id for entry in kept] == [entry.event_id for entry in batch]


def test_batches_over_the_same_models_in_any_order_do_not_wait_in_a_ring(
    connector: BaseMetadataConnector, world: Any
) -> None:
    models = [world.model(clients=0) for _ in range(4)]

    def write(order: list[FederatedModel]) -> int:
        written = 0
        for _ in range(10):
            batch = [entry for model in order for entry in entries(model, 2)]
            written += connector.transact(lambda _, batch=batch: connector.add_logs(batch)).count(Kept.NEW)  # type: ignore[misc]
        return written

    assert in_threads([lambda: write(models), lambda: write(models[::-1])]) == [80, 80]


def test_who_reads_on_from_the_last_id_misses_none(connector: BaseMetadataConnector, world: Any) -> None:
    """Ids are given out before the commit: without the lock a reader passes by an entry that is not visible yet."""
    if isinstance(connector, InMemoryMetadataConnector):
        pytest.skip("the in-memory connector shows what is written before it is committed")
    model = world.model()
    done = threading.Event()

    def write() -> int:
        for _ in range(15):
            with connector.transaction():
                connector.add_logs(entries(model, 3))
                time.sleep(0.002)  # between the ids and the commit
        return 45

    def read() -> list[int]:
        seen: list[int] = []
        while True:
            is_last = done.is_set()
            page = connector.pull_logs(model, after_id=seen[-1] if seen else 0, limit=1000)
            seen += [entry.id for entry in page]
            if is_last and not page:
                return seen

    def write_all() -> int:
        try:
            return sum(in_threads([write, write, write]))
        finally:
            done.set()

    written, seen = in_threads([write_all, read])
    assert written == 135
    assert seen == [entry.id for entry in connector.pull_logs(model, limit=1000)]


def test_what_is_written_meanwhile_comes_after_what_is_not_committed_yet(
    connector: BaseMetadataConnector, world: Any
) -> None:
    """The same with one writer that holds its ids for long: the other one's are higher, and seen later."""
    if isinstance(connector, InMemoryMetadataConnector):
        pytest.skip("the in-memory connector shows what is written before it is committed")
    model = world.model()
    first, second = entries(model, 3), entries(model, 3)
    writing = threading.Thread(target=lambda: connector.transact(lambda _: connector.add_logs(second)))
    with connector.transaction():
        connector.add_logs(first)
        run_until_it_waits(writing, connector)
        (seen,) = in_threads([lambda: connector.pull_logs(model)])
    writing.join(60)
    seen += connector.pull_logs(model, after_id=seen[-1].id if seen else 0)
    assert [entry.event_id for entry in seen] == [entry.event_id for entry in (*first, *second)]


WRITES: dict[str, Callable[[BaseMetadataConnector, Any, FederatedModel], Any]] = {
    "logs": lambda connector, _, model: connector.add_logs(entries(model, 1)),
    "metrics": lambda connector, _, model: connector.add_metrics(points(model, 1)),
    "status": lambda connector, _, model: connector.update_model_status(model, ModelStatus.ERROR).changed,
    "claim": lambda connector, _, model: connector.claim_model(model, 60_000),
    "update": lambda connector, update, _: connector.add_model_update(update),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_waits_while_its_model_is_being_deleted_writes_nothing(
    connector: BaseMetadataConnector, world: Any, what: str
) -> None:
    """It looked before, and the deletion commits before it writes."""
    model = world.model()
    update = world.update(model)
    fresh = type(update)(**{**{f: getattr(update, f) for f in update.__slots__}, "submission_id": uuid4()})
    outcomes: list[Any] = []

    def write() -> None:
        def work(_: object) -> Any:
            return WRITES[what](connector, fresh, model)

        outcomes.extend(in_threads([lambda: connector.transact(work)]))

    writing = threading.Thread(target=write)
    with connector.transaction():
        connector.delete_federated_models([model], "u1")
        run_until_it_waits(writing, connector)
        assert writing.is_alive(), "it does not wait: this shows nothing"
    writing.join(60)
    (outcome,) = outcomes
    if what == "update":
        assert isinstance(outcome, ModelDeleted)
    else:
        assert outcome in ([Kept.DELETED], False, None)
    assert (connector.pull_logs(model), connector.pull_metrics(model)) == ([], [])
    assert (len(connector.pull_model_updates(model)), world.now(model).fence) == (1, 0)


@pytest.mark.parametrize("what", ["logs", "metrics", "status", "update"])
def test_a_deletion_waits_for_what_is_being_written(connector: BaseMetadataConnector, world: Any, what: str) -> None:
    model = world.model()
    update = world.update(model)
    fresh = type(update)(**{**{f: getattr(update, f) for f in update.__slots__}, "submission_id": uuid4()})
    counts: list[int] = []
    deleting = threading.Thread(target=lambda: counts.append(world.delete(model)))
    with connector.transaction():
        WRITES[what](connector, fresh, model)
        run_until_it_waits(deleting, connector)
        assert deleting.is_alive(), "it does not wait: this shows nothing"
    deleting.join(60)
    assert counts == [1]
    told = [*connector.pull_logs(model), *connector.pull_metrics(model)]
    assert len(told) + len(connector.pull_model_updates(model)) == 2, "the one update that there was, and this"


def test_metrics_of_one_model_are_written_side_by_side(connector: BaseMetadataConnector, world: Any) -> None:
    """Only their deletion waits for them; on SQLite, and in memory, one writes at a time anyway."""
    if not str(getattr(getattr(connector, "engine", None), "url", "")).startswith(("postgresql", "mariadb")):
        pytest.skip("only servers let two write side by side: SQLite and memory have one writer at a time")
    model = world.model()
    with connector.transaction():
        connector.add_metrics(points(model, 1))
        (other,) = in_threads([lambda: connector.transact(lambda _: connector.add_metrics(points(model, 1)))])
        assert other == [Kept.NEW]


def test_a_trust_that_two_add_at_once_is_there_once(connector: BaseMetadataConnector, world: Any) -> None:
    barrier = threading.Barrier(2)

    def add() -> Any:
        barrier.wait()
        return connector.transact(lambda _: connector.add_trust(Trust(0, uuid4(), "King's")))

    outcomes = in_threads([add, add])
    assert sorted(type(each).__name__ for each in outcomes) == ["AlreadyExists", "Trust"]
    assert len(connector.pull_trusts()) == 1
