"""The hub's own rounds as a feed: each fact once, in its order, with whom it is about, in words that people read."""

from __future__ import annotations

from uuid import UUID, uuid4

from connectors.records import FederatedModel
from tasks.domain.claiming import Begun, begin_round
from tasks.domain.feed_views import view_logs, view_progress
from tasks.domain.rounds import finish_round, run_round
from tests.unit.domain.conftest import Bench


def feed(bench: Bench, model: FederatedModel) -> list[str]:
    """Sender and text of each entry that is not about a status."""
    return [
        f"{entry.sender or '-'} {'|' if entry.success else '!'} {entry.text}"
        for entry in view_logs(bench.metadata, model, None, 0, 100).entries
        if entry.text not in ("Run initiated", "Training started", "Results uploaded", "Run ended with an error")
    ]


def test_a_round_reads_from_its_first_update_to_its_aggregate(bench: Bench) -> None:
    model, (first, second) = bench.model(requirement="all_clients", max_rounds=2)
    bench.submit(model, first, [1, 2])
    bench.submit(model, second, [3, 4])
    bench.post(model)
    assert feed(bench, model) == [
        "client 0 | Round 1 weights uploaded · 6 B",
        "client 1 | Round 1 weights uploaded · 6 B",
        "- | Round 1 of 2 started",
        "- | Round 1 aggregated · 2 of 2 participants returned",
    ]


def test_a_repeated_submission_is_told_once(bench: Bench) -> None:
    model, (client, _) = bench.model(requirement="all_clients")
    submission_id = uuid4()
    for _ in range(2):
        bench.submit(model, client, [1], submission_id=submission_id)
    assert feed(bench, model) == ["client 0 | Round 1 weights uploaded · 3 B"]


def test_two_clients_of_one_name_stay_two(bench: Bench) -> None:
    """A feed names a client by its UUID; only what is shown is its name."""
    model, (first, _) = bench.model(requirement="all_clients")
    bench.submit(model, first, [1])
    assert [entry.fl_client_name for entry in bench.metadata.pull_logs(model)][-1] == str(first)


def test_what_is_set_aside_says_why(bench: Bench) -> None:
    model, (client, _) = bench.model(requirement="all_clients")
    bench.submit(model, client, [1, 2])
    bench.submit(model, client, [1, 2, 3])
    bench.submit(model, UUID(int=5), [1, 2])
    aside = feed(bench, model)[1:]
    assert aside[0].startswith("client 0 ! Round 1 update 2 set aside · SHAPE: tensor ")
    assert aside[1].startswith(f"{UUID(int=5)} ! Round 1 update 3 set aside · UNREGISTERED_CLIENT: client ")


def test_updates_that_will_never_count_are_told_with_the_round_that_passes_them(bench: Bench) -> None:
    model, (client, _) = bench.model(furthest_base_agg=1)
    bench.submit(model, client, [1])
    bench.submit(model, client, [2])
    first = bench.post(model)
    bench.submit(model, client, [3], base_aggregate=first.id)
    late = bench.submit(model, client, [4], base_aggregate=first.id)
    assert feed(bench, model)[2:4] == [
        "client 0 ! Round 1 update 1 set aside · DUPLICATE: "
        "superseded by update 2 of the same client, from the same base",
        "- | Round 1 started",
    ]
    assert late.id == 4


def test_a_rescued_round_says_so(bench: Bench) -> None:
    """Its worker never came back: what it held is taken back, and the round is begun again."""
    model, (client, _) = bench.model()
    bench.submit(model, client, [1])
    with bench.metadata.transaction() as transaction:
        begun = begin_round(bench.hub, model.id, transaction)
    assert isinstance(begun, Begun)
    bench.milliseconds += 30_001
    bench.post(model)
    assert finish_round(bench.hub, begun).outcome == "overtaken"
    assert feed(bench, model) == [
        "client 0 | Round 1 weights uploaded · 3 B",
        "- | Round 1 started",
        "- ! Round 1 rescued from a worker that fell silent · 1 update taken back",
        "- | Round 1 started",
        "- | Round 1 aggregated · 1 of 2 participants returned",
    ]


def test_asking_whether_a_round_is_due_tells_nothing(bench: Bench) -> None:
    model, _ = bench.model(requirement="all_clients")
    before = feed(bench, model)
    assert run_round(bench.hub, model.id).outcome == "idle"
    assert feed(bench, model) == before == []


def test_the_hub_s_own_rounds_are_progress(bench: Bench) -> None:
    model, (first, second) = bench.model(requirement="all_clients", max_rounds=3)
    for client in (first, second):
        bench.submit(model, client, [1])
    bench.post(model)
    bench.submit(model, first, [1])
    view = view_progress(bench.metadata, bench.now(model))
    assert (view.current_round, view.completed_rounds, view.total_rounds) == (2, 1, 3)
    assert [(each.name, each.state, each.last_round) for each in view.participants] == [
        ("client 0", "returned", 2),
        ("client 1", "training", 1),
    ]
    assert view.eta_seconds is not None
