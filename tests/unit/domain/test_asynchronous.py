"""Asynchronous FL as rounds of a model: staleness from recorded bases, a buffer of so many updates."""

from __future__ import annotations

from math import sqrt
from typing import Any
from uuid import uuid4

import pytest

from fedqueue.messages import CreateModel
from tasks.domain.models import create_model
from tasks.domain.rounds import run_round


def test_asynchronous_models_allow_repeats_and_wait_for_nobody(bench: Any) -> None:
    for aggregator, params in (("fedasync", {}), ("fedbuff", {"buffer_size": 2})):
        model = create_model(bench.hub, CreateModel(model_id=uuid4(), aggregator=aggregator, aggregator_params=params))
        assert (model.allow_repeats, model.requirement) == (True, None)
    asked = CreateModel(model_id=uuid4(), aggregator="fedasync", requirement="all_clients", allow_repeats=False)
    model = create_model(bench.hub, asked)
    assert (model.allow_repeats, model.requirement) == (False, "all_clients")


def test_fedasync_mixes_each_update_in_by_how_stale_it_is(bench: Any) -> None:
    """alpha .5, halved again by (1 + 1) ** -1 for the one whose base is one aggregate old."""
    model, (one, two) = bench.model(
        initial_data=[0.0],
        aggregator="fedasync",
        aggregator_params={"alpha": 0.5, "staleness_function": "polynomial", "polynomial_a": 1.0},
    )
    bench.submit(model, one, [4.0])
    first = bench.post(model)
    assert bench.values(model) == {"values": [2.0]}
    bench.submit(model, two, [6.0])  # trained from the initial model: one aggregate behind
    second = bench.post(model)
    assert second.manifest["inputs"][0]["staleness"] == 1
    assert bench.values(model) == {"values": [0.75 * 2.0 + 0.25 * 6.0]}
    bench.submit(model, one, [3.0], base_aggregate=second.id)
    third = bench.post(model)
    assert (third.manifest["inputs"][0]["staleness"], first.number, third.number) == (0, 1, 3)
    assert bench.values(model) == {"values": [3.0]}


def test_fedbuff_waits_for_its_buffer_and_takes_no_more(bench: Any) -> None:
    model, (one, two) = bench.model(initial_data=[0.0], aggregator="fedbuff", aggregator_params={"buffer_size": 2})
    bench.submit(model, one, [2.0])
    outcome = run_round(bench.hub, model.id)
    assert (outcome.outcome, outcome.reason) == ("waiting", "require_x_updates: 1 of 2 updates")
    for value in (4.0, 6.0, 8.0, 10.0):
        bench.submit(model, two, [value])
    first, second = bench.post(model), bench.post(model)
    assert (first.num_updates, second.num_updates) == (2, 2)
    assert [i["staleness"] for i in second.manifest["inputs"]] == [1, 1]
    # (2 + 4) / 2, then (6 + 8) / 2 / sqrt(2): each delta is taken against its own base, the initial model.
    assert bench.values(model)["values"] == pytest.approx([3.0 + 7.0 / sqrt(2)])
    assert run_round(bench.hub, model.id).outcome == "waiting"


def test_a_fresh_buffered_update_counts_whole(bench: Any) -> None:
    """It weighs one half in NVFLARE (DESIGN 11)."""
    model, (one, _) = bench.model(initial_data=[1.0], aggregator="fedbuff", aggregator_params={"buffer_size": 1})
    bench.submit(model, one, [5.0])
    bench.post(model)
    assert bench.values(model) == {"values": [5.0]}
