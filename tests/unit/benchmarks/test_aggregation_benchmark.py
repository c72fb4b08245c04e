"""The aggregation benchmark's own judgement: what it writes, compares and calls a goal met."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks import aggregation, contestants
from benchmarks.aggregation_report import Entry, Figures
from benchmarks.agreement import Agreement, agreement
from benchmarks.contestants import Answer, Contestant, PeerMissing, peak_anonymous_bytes
from benchmarks.differences import converged_updates
from benchmarks.peers.serving import Request
from benchmarks.update_files import layer_shapes, tensor_bytes, write_json_updates, write_updates
from tasks.aggregation import UpdateArrays, combine


def save(path: Path, *values: float) -> Path:
    save_file({"w": np.array(values, np.float32)}, path)
    return path


@pytest.mark.parametrize("parameters", [1, 64 * 64, 300_000, 25_000_000])
def test_layers_come_to_exactly_as_many_parameters_as_asked_for(parameters: int) -> None:
    assert sum(int(np.prod(shape)) for shape in layer_shapes(parameters).values()) == parameters


def test_layers_are_of_the_width_asked_for() -> None:
    assert layer_shapes(2_000, width=8)["blocks.1.up"] == (32, 8)


def test_updates_are_of_one_model_and_byzantine_ones_far_from_it(tmp_path: Path) -> None:
    files = write_updates(tmp_path, 5, 5_000, byzantine=1)
    assert [tensor_bytes(file) for file in files] == [20_000] * 5
    flat = [np.concatenate([array.ravel() for _, array in sorted(load_file(file).items())]) for file in files]
    near = [float(np.linalg.norm(flat[0] - other)) for other in flat[1:]]
    assert 0 < min(near) < max(near[:3]) < near[3] / 10


def test_a_result_within_the_rounding_of_float32_agrees_and_one_beyond_it_does_not(tmp_path: Path) -> None:
    """Two updates whose largest value is 1: (2 + 3) half units of 2⁻²⁴ are allowed, 2⁻²¹ is eight."""
    updates = [save(tmp_path / "a", 1, 0.5), save(tmp_path / "b", 1, 0.25)]
    ours = save(tmp_path / "ours", 1, 0.375)
    near = agreement("fedavg", ours, save(tmp_path / "near", 1 - 2**-22, 0.375), updates)
    far = agreement("fedavg", ours, save(tmp_path / "far", 1 - 2**-21, 0.375), updates)
    assert near == Agreement(2**-22, 5 * 2**-24)
    assert near.agrees
    assert not far.agrees


def test_nan_and_other_shapes_never_agree(tmp_path: Path) -> None:
    updates, ours = [save(tmp_path / "a", 1, 2)], save(tmp_path / "ours", 1, 2)
    assert not agreement("fedavg", ours, save(tmp_path / "nan", 1, np.nan), updates).agrees
    assert not agreement("fedavg", ours, save(tmp_path / "short", 1), updates).agrees


def test_a_pick_must_be_the_same_update_to_the_bit(tmp_path: Path) -> None:
    updates = [save(tmp_path / "a", 1), save(tmp_path / "b", 1 + 2**-23)]
    ours = save(tmp_path / "ours", 1)
    assert agreement("krum", ours, save(tmp_path / "same", 1), updates) == Agreement(0.0, 0.0)
    other = agreement("krum", ours, save(tmp_path / "other", 1 + 2**-23), updates)
    assert not other.agrees
    assert other.remark == "picked 1, we 0"


def test_goals_compare_with_the_peers_best_and_with_the_limit() -> None:
    """100 bytes: the limit 1 s, ours 2 s, Flower 60 s and 20 s, so half the limit and 10 times Flower's best."""
    figures = Figures(updates=1, parameters=25, threads=1, machine={}, num_bytes=100)
    figures.add_limit(Answer(1.0, facts={"seconds_mapped": 0.5}))
    for contestant, seconds in (("fedqueue", 2.0), ("flower", 60.0), ("flower", 20.0)):
        figures.entries.append(Entry("fedavg", contestant, "f"))
        figures.entries[-1].add(Answer(seconds), None)
    assert [(goal.what, goal.wanted, goal.found, goal.met) for goal in figures.goals()] == [
        ("fedavg / read limit", 0.5, 0.5, True),
        ("fedavg / flower's best", 15, 10.0, False),
    ]


def test_the_worst_of_the_repeats_is_what_counts() -> None:
    entry = Entry("fedavg", "flower", "aggregate")
    for difference in (0.0, 2.0, 1.0):
        entry.add(Answer(1.0), Agreement(difference, 1.0))
    assert entry.worst == Agreement(2.0, 1.0)
    assert not entry.agrees
    assert not Entry("fedavg", "flower", "aggregate", error="TypeError").agrees


def test_an_error_is_an_answer_and_the_next_request_is_done(tmp_path: Path) -> None:
    files = [str(file) for file in write_json_updates(tmp_path, 2, 1_500)]
    out = tmp_path / "out.json"
    with Contestant("fma") as fma:
        broken = fma.ask(Request("average_layers", [str(tmp_path / "gone")], [1], str(out), {}, 1))
        done = fma.ask(Request("average_layers", files, [1, 1], str(out), {}, 1))
    assert broken.error is not None
    assert broken.error.startswith("FileNotFoundError")
    assert done.error is None
    assert set(done.phases) == {"read", "combine", "write"}
    assert [len(layer) for layer in json.loads(out.read_text())] == [1_000, 500]


def test_peak_memory_is_what_a_request_takes_beyond_the_idle_process(tmp_path: Path) -> None:
    """A list of 1,000,000 numbers is 8 MB of pointers and 24 MB of floats, and its text is in memory with it."""
    file = write_json_updates(tmp_path, 1, 1_000_000)[0]
    request = Request("average_layers", [str(file)], [1], str(tmp_path / "out"), {}, 1)
    assert 32_000_000 < peak_anonymous_bytes("fma", request) < 400_000_000


def test_a_process_that_worked_before_would_seem_to_need_less(tmp_path: Path) -> None:
    """Why memory is measured in a fresh one: the allocator keeps what was freed."""
    file = write_json_updates(tmp_path, 1, 1_000_000)[0]
    request = Request("average_layers", [str(file)], [1], str(tmp_path / "out"), {}, 1)
    with Contestant("fma") as fma:
        (idle, _), (used, _) = fma.watched(request), fma.watched(request)
    assert used > idle


def test_the_limit_is_measured_on_the_files_given(tmp_path: Path) -> None:
    files = [str(file) for file in write_updates(tmp_path, 3, 100_000)]
    with Contestant("limit") as limit:
        answer = limit.ask(Request("read", files, [1] * 3, str(tmp_path / "out"), {}, 2))
    assert answer.error is None
    assert 0 < answer.seconds < 60
    assert 0 < answer.facts["seconds_mapped"] < 60


def test_a_peer_that_is_not_there_is_said_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "ROOT", tmp_path)
    with pytest.raises(PeerMissing, match=r"\.peers/flower is not there: run `make peers`"):
        Contestant("flower")


def test_json_is_raced_against_fma_and_both_results_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The whole command, on what needs no peer's environment."""
    code = aggregation.main(["--quick", "--only", "json", "--json", "--folder", str(tmp_path)])
    figures = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [entry["contestant"] for entry in figures["entries"]] == ["fedqueue", "fma"]
    assert figures["entries"][1]["worst"]["max_difference"] <= figures["entries"][1]["worst"]["allowed"]
    assert list(tmp_path.iterdir()) == []


def test_ended_by_a_signal_it_takes_its_files_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.aggregation", "--alone", "--only", "fedavg", "--folder", f"{tmp_path}"]
    process = subprocess.Popen([*command, "--parameters", "300000", "--repeats", "100000"], cwd=contestants.ROOT)
    deadline = time.monotonic() + 180  # its kernels may have to be compiled first
    while not list(tmp_path.glob("*/ours.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_updates_late_in_training_have_one_that_is_clearly_nearest() -> None:
    """What the comparison of Krum's picks rests on: ours, by direct differences in float64, finds it."""
    updates, nearest = converged_updates()
    report = combine("krum", {"num_byzantine": 2}, [UpdateArrays(update) for update in updates]).report
    assert report.facts["picked"] == [nearest]
