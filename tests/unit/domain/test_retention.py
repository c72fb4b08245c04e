"""Retention: old inputs go, what is proven from them is said to be beyond proof, nothing else is touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fedqueue.blobs import path_of
from tasks.domain.provenance import Verdict, verify
from tasks.domain.retention import let_old_inputs_go, let_old_records_go
from tests.unit.domain.conftest import Bench


def _rounds(bench: Bench, count: int) -> list[int]:
    model, (one, two) = bench.model(requirement="require_x_clients", requirement_args=[2])
    made = []
    for value in range(count):
        # Two that differ: the mean of one update has its very bytes, and is kept under the same name.
        bench.submit(model, one, [float(value)])
        bench.submit(model, two, [float(value) + 100])
        made.append(bench.post(model).id)
    return made


def test_all_inputs_are_kept_by_default(bench: Bench) -> None:
    _rounds(bench, 3)
    assert let_old_inputs_go(bench.hub) == 0


def test_inputs_beyond_the_newest_aggregates_go_with_the_garbage(tmp_path: Path) -> None:
    bench = Bench(tmp_path, retain_inputs=2)
    first, second, third = (bench.metadata.pull_model_aggregate(a) for a in _rounds(bench, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert let_old_inputs_go(bench.hub) == 2
    assert let_old_inputs_go(bench.hub) == 0
    for path in (tmp_path / "store" / "sha256").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 3600, time.time() - 3600))
    bench.store.collect_garbage(60, bench.metadata.pull_named_digests)
    assert not path_of(first.manifest["inputs"][0]["uri"]).exists()
    assert path_of(first.data.uri).exists(), "the aggregate itself is kept"
    assert verify(bench.hub, first).verdict is Verdict.INPUTS_DROPPED
    assert verify(bench.hub, third).verdict is Verdict.IDENTICAL


def test_only_what_a_setting_names_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    """By default that is follow-ups that have left: nothing that a person might still ask for."""
    keeps, lets_go = Bench(tmp_path / "a"), Bench(tmp_path / "b", retain_dead_letters_days=0.02 / 86_400)
    for bench in (keeps, lets_go):
        with bench.metadata.transaction():
            for number in range(3):
                bench.metadata.add_dead_letter("t", {"n": number}, kind="Refused", field=None, reason="none")
    time.sleep(0.05)
    assert [let_old_records_go(bench.hub) for bench in (keeps, lets_go)] == [0, 2]
    assert [letter.payload for letter in lets_go.metadata.pull_dead_letters()] == [{"n": 2}]
    assert len(keeps.metadata.pull_dead_letters()) == 3
