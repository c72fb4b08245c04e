"""Provenance: an aggregate can be made again to the byte, and whatever was changed since shows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save

from connectors.records import FederatedModel
from fedqueue.blobs import path_of
from fedqueue.messages import DataRef
from tasks.domain.provenance import Verdict, lineage, verify
from tasks.domain.rounds import run_round

AGGREGATORS: list[tuple[str, dict[str, Any]]] = [
    ("fedavg", {}),
    ("fedavgm", {"server_momentum": 0.9}),
    ("fedadam", {}),
    ("fedyogi", {}),
    ("fedadagrad", {}),
    ("fednova", {}),
    ("scaffold", {"local_learning_rate": 0.1, "num_clients": 5}),
    ("feddyn", {"alpha": 0.1, "num_clients": 5}),
    ("qfedavg", {}),
    ("median", {}),
    ("trimmed_mean", {}),
    ("krum", {"num_byzantine": 1}),
    ("multi_krum", {"num_byzantine": 1, "m": 2}),
    ("geometric_median", {}),
    ("centered_clipping", {"tau": 1.0}),
    ("norm_clipping", {"tau": 1.0}),
    ("fedasync", {}),
    ("fedbuff", {"buffer_size": 5}),
    ("fltrust", {"root_update": "client 0"}),
    ("dp_fedavg", {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "keep_noise_seed": True}),
]


def _three_rounds(bench: Any, aggregator: str, params: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A model of five clients after three rounds, every second update from an older base."""
    initial = None
    if aggregator == "dp_fedavg":  # a first round that is the plain mean would give away what the noise hides
        zeros = {"w": np.zeros((3, 4), "f4"), "n": np.arange(3), "s": np.array(0.0)}
        blob = bench.store.push_model_data_to_storage(FederatedModel(0, uuid4()), save(zeros))
        initial = DataRef(uri=blob.uri, digest=blob.digest)
    model, clients = bench.model(
        clients=5,
        initial=initial,
        data_format="safetensors",
        aggregator=aggregator,
        aggregator_params=params,
        requirement="require_x_updates",
        requirement_args=[5],
    )
    generator = np.random.default_rng(7)
    aggregates: list[Any] = []
    for _ in range(3):
        for position, client in enumerate(clients):
            base = aggregates[-2 if position % 2 and len(aggregates) > 1 else -1].id if aggregates else None
            weights = generator.normal(size=(3, 4)).astype("f4")
            facts = {"num_examples": position + 1, "num_steps": position + 1, "loss": 0.5, "base_aggregate": base}
            bench.submit_arrays(model, client, {"w": weights, "n": np.arange(3), "s": float(position)}, **facts)
        aggregates.append(bench.post(model))
    return model, aggregates


@pytest.mark.parametrize(("aggregator", "params"), AGGREGATORS, ids=[name for name, _ in AGGREGATORS])
def test_every_aggregate_can_be_made_again_to_the_byte(bench: Any, aggregator: str, params: dict[str, Any]) -> None:
    """State and bases included: three rounds, each verified from its manifest alone."""
    _model, aggregates = _three_rounds(bench, aggregator, params)
    for aggregate in aggregates:
        found = verify(bench.hub, aggregate)
        assert found.verdict is Verdict.IDENTICAL, found.reason


def test_optimizer_state_goes_on_from_round_to_round(bench: Any) -> None:
    """A crash must not lose the moments (Flower, NVFLARE, FEDn do): they are committed with their aggregate."""
    _model, (first, second, third) = _three_rounds(bench, "fedadam", {})
    assert first.state is None, "the first round, without any model, is the weighted mean"
    assert second.state is not None
    assert third.manifest["state"]["digest"] == second.state.digest
    assert third.state.digest != second.state.digest
    reader = bench.store.open(second.state, "safetensors")
    assert "m/w" in [name for name, _, _ in reader.tensors]


def test_noise_without_its_seed_is_said_to_be_beyond_proof(bench: Any) -> None:
    params = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
    _model, aggregates = _three_rounds(bench, "dp_fedavg", params)
    found = verify(bench.hub, aggregates[-1])
    assert found.verdict is Verdict.NOT_REPEATABLE
    assert "keep_noise_seed" in found.reason


@pytest.mark.parametrize("what", ["aggregate", "input"])
def test_changed_bytes_are_found(bench: Any, what: str) -> None:
    _model, aggregates = _three_rounds(bench, "fedavg", {})
    aggregate = aggregates[-1]
    ref = aggregate.data.uri if what == "aggregate" else aggregate.manifest["inputs"][0]["uri"]
    path = path_of(ref)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = verify(bench.hub, aggregate)
    assert found.verdict is Verdict.DIFFERENT
    assert "other bytes than were sent" in found.reason


def test_a_changed_manifest_is_found(bench: Any) -> None:
    from dataclasses import replace

    _model, aggregates = _three_rounds(bench, "fedavg", {})
    manifest = {**aggregates[-1].manifest}
    manifest["inputs"] = [{**given, "num_examples": 1.0} for given in manifest["inputs"]]
    found = verify(bench.hub, replace(aggregates[-1], manifest=manifest))
    assert (found.verdict, "made again it has digest" in found.reason) == (Verdict.DIFFERENT, True)


def test_dropped_inputs_are_said_plainly(bench: Any) -> None:
    _model, aggregates = _three_rounds(bench, "fedavg", {})
    path_of(aggregates[-1].manifest["inputs"][2]["uri"]).unlink()
    found = verify(bench.hub, aggregates[-1])
    update = aggregates[-1].manifest["inputs"][2]["update_id"]
    assert (found.verdict, found.reason) == (
        Verdict.INPUTS_DROPPED,
        f"the input of update {update} is not in the store any more",
    )


def test_a_lineage_goes_back_to_the_first_with_its_contributors(bench: Any) -> None:
    _model, aggregates = _three_rounds(bench, "fedavg", {})
    links = lineage(bench.hub, aggregates[-1])
    assert [link.aggregate.number for link in links] == [3, 2, 1]
    assert [examples for _, examples, _ in links[0].contributors] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_too_few_updates_for_the_aggregator_are_waited_for(bench: Any) -> None:
    """Krum's guarantee needs 2f + 3: fewer are no failure, the round is not due yet."""
    model, clients = bench.model(clients=5, aggregator="krum", aggregator_params={"num_byzantine": 1})
    for client in clients[:4]:
        bench.submit(model, client, [1.0])
        outcome = run_round(bench.hub, model.id)
    assert outcome.outcome == "waiting"
    assert outcome.reason == "krum: 4 of 5 updates, the fewest it takes with its parameters"
    assert {u.attempts for u in bench.metadata.pull_model_updates(model)} == {0}
    bench.submit(model, clients[4], [1.0])
    assert run_round(bench.hub, model.id).outcome == "posted"


def test_fltrust_waits_for_its_root(bench: Any) -> None:
    model, (one, two) = bench.model(
        initial_data=[0.0, 0.0], aggregator="fltrust", aggregator_params={"root_update": "client 0"}
    )
    bench.submit(model, two, [1.0, 0.0])
    outcome = run_round(bench.hub, model.id)
    assert (outcome.outcome, outcome.reason) == ("waiting", "fltrust: no update of root_update 'client 0' is ready")
    bench.submit(model, one, [2.0, 0.0])
    aggregate = bench.post(model)
    assert aggregate.num_updates == 2
    assert bench.values(model) == {"values": [2.0, 0.0]}, "the other, scaled to the root's length"
