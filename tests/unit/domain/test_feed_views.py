"""What readers are shown: pages that join without a gap, senders as people call them, runs told apart."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.records import FederatedModel, NewLog, NewMetric, Trust
from fedqueue.messages import RegisterClient
from tasks.domain.feed_views import view_logs, view_metrics, view_progress
from tasks.domain.models import register_client
from tests.unit.domain.conftest import Bench

RUNS = UUID(int=1), UUID(int=2)


def model_with(bench: Bench, *entries: dict[str, Any]) -> FederatedModel:
    """A model without clients whose feed has these entries, and nothing else."""
    model, _ = bench.model(clients=0)
    with bench.metadata.transaction():
        bench.metadata.add_logs([NewLog(model_id=model.id, event_id=uuid4(), **entry) for entry in entries])
    return model


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_pages_join_without_a_gap(bench: Bench, limit: int) -> None:
    model = model_with(bench, *({"log": f"line {number}"} for number in range(4)))
    texts, pages, after = [], 0, 0
    while True:
        view = view_logs(bench.metadata, model, None, after, limit)
        texts += [entry.text for entry in view.entries]
        pages += 1
        if view.next_after_id is None:
            break
        assert len(view.entries) == limit
        after = view.next_after_id
    assert texts == [f"line {number}" for number in range(4)]
    assert pages == -(-4 // limit)  # no empty page at the end


def test_a_page_of_long_entries_is_short(bench: Bench) -> None:
    """Whatever was told, an answer stays about a mebibyte; one entry comes at any length."""
    model = model_with(bench, {"log": "x" * (3 << 20)}, *({"log": "y" * 65_000} for _ in range(40)))
    lengths, after = [], 0
    while True:
        view = view_logs(bench.metadata, model, None, after, 1000)
        lengths.append(len(view.entries))
        if view.next_after_id is None:
            break
        after = view.next_after_id
    assert lengths == [1, 16, 16, 8]


def test_a_run_s_pages_hold_nothing_of_another(bench: Bench) -> None:
    model = model_with(bench, *({"log": f"line {number}", "run_id": RUNS[number % 2]} for number in range(6)))
    view = view_logs(bench.metadata, model, RUNS[0], 0, 2)
    assert [entry.text for entry in view.entries] == ["line 0", "line 2"]
    view = view_logs(bench.metadata, model, RUNS[0], view.next_after_id or 0, 2)
    assert ([entry.text for entry in view.entries], view.next_after_id) == (["line 4"], None)


def test_a_sender_is_shown_as_people_call_it(bench: Bench) -> None:
    """By the trust, else by the client's present name, else by what the FL server called it."""
    with bench.metadata.transaction():
        trust = bench.metadata.add_trust(Trust(0, uuid4(), "King's College Hospital", "KCH"))
    client = uuid4()
    model = model_with(
        bench,
        {"log": "a", "trust_id": trust.id, "fl_client_name": "site-1"},
        {"log": "b", "fl_client_name": str(client)},
        {"log": "c", "fl_client_name": "site-9"},
        {"log": "d"},
    )
    register_client(bench.hub, RegisterClient(model_id=model.uuid, client_id=client, name="Oxford"))
    entries = view_logs(bench.metadata, model, None, 0, 4).entries
    assert [(entry.sender, entry.trust) for entry in entries] == [
        ("KCH", "KCH"),
        ("Oxford", None),
        ("site-9", None),
        (None, None),
    ]


def test_metrics_are_of_one_run_or_of_all_told_apart(bench: Bench) -> None:
    model, (client, _) = bench.model()
    points = [
        NewMetric(
            model_id=model.id,
            event_id=uuid4(),
            run_id=run_id,
            fl_client_name=str(client),
            label="loss",
            x_label="Global Rounds",
            x_value=number,
            result=number / 2,
        )
        for run_id in RUNS
        for number in (1, 2)
    ]
    with bench.metadata.transaction():
        bench.metadata.add_metrics(points)
    (plot,) = view_metrics(bench.metadata, model, None).plots
    assert [(series.sender, series.run_id, len(series.points)) for series in plot.series] == [
        ("client 0", RUNS[0], 2),
        ("client 0", RUNS[1], 2),
    ]
    (plot,) = view_metrics(bench.metadata, model, RUNS[1]).plots
    assert [(series.run_id, [point.result for point in series.points]) for series in plot.series] == [
        (RUNS[1], [0.5, 1.0])
    ]
    # By when it was taken in a reader knows a point that it has read before: two may be alike otherwise.
    taken = [metric.created_at for metric in bench.metadata.pull_metrics(model, run_id=RUNS[1])]
    assert [point.created_at for point in plot.series[0].points] == taken
    assert None not in taken


def test_clients_of_one_trust_are_one_participant(bench: Bench) -> None:
    """Also for what one of them did before it was assigned to the trust."""
    model, (first, second) = bench.model(requirement="all_clients")
    entries: list[dict[str, Any]] = [
        {"event_type": "ROUND_STARTED", "global_round": 2},
        {"event_type": "CLIENT_RESULT_RECEIVED", "global_round": 2, "fl_client_name": str(first)},
    ]
    with bench.metadata.transaction():
        trust = bench.metadata.add_trust(Trust(0, uuid4(), "King's College Hospital", "KCH"))
        for client in (first, second):
            found = bench.metadata.pull_client(client)
            assert found is not None
            bench.metadata.set_client_trust(found, trust)
        bench.metadata.add_logs([NewLog(model_id=model.id, event_id=uuid4(), **entry) for entry in entries])
    view = view_progress(bench.metadata, bench.now(model))
    assert [(each.name, each.trust_id, each.state) for each in view.participants] == [("KCH", trust.uuid, "returned")]


def test_approved_trusts_are_the_participants_heard_of_or_not(bench: Bench) -> None:
    model, _ = bench.model()
    with bench.metadata.transaction():
        trusts = [bench.metadata.add_trust(Trust(0, uuid4(), name)) for name in ("B", "A")]
        bench.metadata.set_model_trusts(model, trusts)
    assert [(each.name, each.state) for each in view_progress(bench.metadata, model).participants] == [
        ("A", "waiting"),
        ("B", "waiting"),
    ]
