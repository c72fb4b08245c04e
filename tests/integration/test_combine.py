"""`python -m worker combine`: the rounds' engine on files, with nothing around it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.aggregation import UpdateArrays, combine

ROOT = Path(__file__).resolve().parents[2]
Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; every FEDQUEUE_ variable of it is nonsense, as the command needs none."""
    monkeypatch.setenv("FEDQUEUE_DATABASE_URL", "nonsense")
    monkeypatch.setenv("FEDQUEUE_LEASE_SECOND", "misspelt")
    place = tmp_path / "models"
    place.mkdir()
    return place


def model(path: Path, **arrays: Any) -> Path:
    save_file({name: np.asarray(array, np.float32) for name, array in arrays.items()}, path)
    return path


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", "combine", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def refused(folder: Path, *arguments: str | Path) -> str:
    """The reason, once it is known to be one readable line, with code 2, and nothing new in the folder."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return done.stderr.removeprefix("error: ").strip()


def test_files_are_averaged_by_their_numbers_of_examples(folder: Path) -> None:
    """(1 × 1 + 3 × 5) / 4 = 4."""
    a, b = model(folder / "a.safetensors", w=[1, 2]), model(folder / "b.safetensors", w=[5, 6])
    done = run(folder, "--aggregator", "fedavg", "--out", "out.safetensors", f"{a}:1", f"{b}:3")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["w"].tolist() == [4, 5]
    assert "fedavg of 2 updates, 4 examples" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.safetensors", "out.safetensors"]


def test_the_report_is_json_with_the_seconds_from_the_first_byte_read_to_the_last_written(folder: Path) -> None:
    model(folder / "a.safetensors", w=[1, 2])
    began = time.perf_counter()
    done = run(folder, "--json", "--aggregator", "fedavg", "--out", "out.safetensors", "a.safetensors:2")
    whole = time.perf_counter() - began
    report = json.loads(done.stdout)
    assert 0 < report["seconds"] <= report["seconds_to_disk"] < whole
    assert report["weights"] == [2.0]
    assert report["tensors"] == [["w", [2], "F32"]]
    assert report["bytes_read"] == 8
    assert report["bytes_written"] == (folder / "out.safetensors").stat().st_size


def test_a_file_may_be_given_twice_and_counts_twice_and_for_one_without_a_number(folder: Path) -> None:
    model(folder / "a.safetensors", w=[0]), model(folder / "b.safetensors", w=[3])
    run(folder, "--aggregator", "fedavg", "--out", "out.safetensors", "a.safetensors", "b.safetensors", "b.safetensors")
    assert load_file(folder / "out.safetensors")["w"].tolist() == [2]


def test_the_bytes_are_those_of_combine_in_memory_on_any_number_of_threads_and_engine(folder: Path) -> None:
    rng = np.random.default_rng(3)
    arrays: list[Arrays] = [{"w": rng.standard_normal((300, 7)).astype(np.float32)} for _ in range(5)]
    files = []
    for index, update in enumerate(arrays):
        save_file(dict(update), folder / f"{index}.safetensors")
        files.append(f"{index}.safetensors:{index + 1}")
    expected = combine("fedavg", {}, [UpdateArrays(update, index + 1) for index, update in enumerate(arrays)])
    written = set()
    for engine, threads, budget in (("auto", 1, 256), ("numpy", 2, 1), ("numba", 2, 256)):
        options = ("--engine", engine, "--threads", str(threads), "--budget-mib", str(budget))
        done = run(folder, "--aggregator", "fedavg", *options, "--out", "out.safetensors", *files)
        assert done.returncode == 0, done.stderr
        written.add((folder / "out.safetensors").read_bytes())
    assert len(written) == 1
    np.testing.assert_array_equal(load_file(folder / "out.safetensors")["w"], expected.arrays["w"])


def test_state_goes_from_one_round_to_the_next(folder: Path) -> None:
    """fedavgm with momentum 0.5 and deltas of 1: steps of 1, then 1.5."""
    model(folder / "start.safetensors", w=[0]), model(folder / "first.safetensors", w=[1])
    options = ("--aggregator", "fedavgm", "--param", "server_momentum=.5")
    first = ("--current", "start.safetensors", "--state-out", "state.safetensors", "--out", "one.safetensors")
    assert run(folder, *options, *first, "first.safetensors").returncode == 0
    model(folder / "second.safetensors", w=[2])
    again = ("--state-in", "state.safetensors", "--state-out", "state.safetensors", "--out", "two.safetensors")
    done = run(folder, *options, "--current", "one.safetensors", *again, "second.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "one.safetensors")["w"].tolist() == [1]
    assert load_file(folder / "two.safetensors")["w"].tolist() == [2.5]
    assert load_file(folder / "state.safetensors")["m/w"].tolist() == [1.5]


def test_what_an_aggregator_needs_of_an_update_stands_behind_its_number_of_examples(folder: Path) -> None:
    """FedNova: deltas of 2 in 1 step and of 4 in 4 steps, equal weights: 2.5 steps of (2 + 1) / 2."""
    model(folder / "base.safetensors", w=[0]), model(folder / "a.safetensors", w=[2])
    model(folder / "b.safetensors", w=[4])
    updates = ("a.safetensors:10,num_steps=1", "b.safetensors:10,num_steps=4,base=base.safetensors")
    done = run(folder, "--aggregator", "fednova", "--current", "base.safetensors", "--out", "out.safetensors", *updates)
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["w"].tolist() == [3.75]


def test_a_parameter_that_names_a_model_gives_its_file(folder: Path) -> None:
    """FLTrust: an update twice as long in the root's direction is taken at the root's length."""
    model(folder / "now.safetensors", w=[0, 0]), model(folder / "root.safetensors", w=[3, 4])
    model(folder / "a.safetensors", w=[6, 8])
    parameter = ("--param", "root_update=root.safetensors", "--current", "now.safetensors")
    done = run(folder, "--aggregator", "fltrust", *parameter, "--out", "out.safetensors", "a.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["w"].tolist() == [3, 4]


def test_json_of_fma_is_read_and_written(folder: Path) -> None:
    (folder / "a.json").write_text("[[1, 2], [[3]]]")
    (folder / "b.json").write_text("[[2, 4], [[5]]]")
    done = run(folder, "--aggregator", "average_layers", "--out", "out.json", "a.json:7", "b.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "out.json").read_text()) == [[1.5, 3.0], [[4.0]]]
    run(folder, "--aggregator", "average_layers", "--out", "out.safetensors", "a.json", "b.json")
    assert load_file(folder / "out.safetensors")["1"].tolist() == [[4.0]]


def test_numpy_files_and_safetensors_are_combined_with_one_another(folder: Path) -> None:
    np.savez(folder / "a.npz", w=np.array([1, 2], np.float32))
    model(folder / "b.safetensors", w=[3, 4])
    done = run(folder, "--aggregator", "fedavg", "--out", "out.safetensors", "a.npz", "b.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["w"].tolist() == [2, 3]


def test_json_of_more_than_is_kept_in_memory_leaves_nothing_beside_it(folder: Path) -> None:
    """Large values wait in a temporary file, which must not be in the user's folder."""
    (folder / "a.json").write_text(json.dumps([float(number) for number in range(200_000)]))
    done = run(folder, "--aggregator", "average_layers", "--out", "out.safetensors", "a.json")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["values"][-1] == 199_999
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "out.safetensors"]


def test_out_may_be_one_of_the_updates_and_keeps_the_mode_of_a_new_file(folder: Path) -> None:
    model(folder / "a.safetensors", w=[1]), model(folder / "b.safetensors", w=[3])
    done = run(folder, "--aggregator", "fedavg", "--out", "a.safetensors", "a.safetensors", "b.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "a.safetensors")["w"].tolist() == [2]
    (folder / "new").touch()
    assert stat.S_IMODE((folder / "a.safetensors").stat().st_mode) == stat.S_IMODE((folder / "new").stat().st_mode)


def test_through_a_link_the_file_is_replaced_and_not_the_link(folder: Path) -> None:
    model(folder / "a.safetensors", w=[1])
    (folder / "elsewhere").mkdir()
    (folder / "out.safetensors").symlink_to("elsewhere/real.safetensors")
    assert run(folder, "--aggregator", "fedavg", "--out", "out.safetensors", "a.safetensors").returncode == 0
    assert (folder / "out.safetensors").is_symlink()
    assert load_file(folder / "elsewhere" / "real.safetensors")["w"].tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--aggregator", "fedavg", "a.safetensors", "gone.safetensors:5"), "gone.safetensors: there is no such file"),
        (("--aggregator", "fedavg", "a.safetensors", "short.safetensors"), "short.safetensors: not a sound"),
        (("--aggregator", "fedavg", "a.safetensors", "empty.safetensors"), "empty.safetensors: not a safetensors"),
        (("--aggregator", "fedavg", "a.safetensors", "wide.safetensors"), "wide.safetensors: tensor 'w' has shape"),
        (("--aggregator", "fedavg", "nan.safetensors", "a.safetensors"), "nan.safetensors: w[1] is nan"),
        (("--aggregator", "fedavg", "a.safetensors:0"), "a.safetensors: num_examples is 0"),
        (("--aggregator", "fedavg", "a.safetensors:many"), "a.safetensors:many: 'many' is no num_examples"),
        (("--aggregator", "fedavg", "a.safetensors:1,steps=3"), "known are num_steps, loss, staleness, base"),
        (
            ("--aggregator", "fedavg", "--current", "wide.safetensors", "a.safetensors"),
            "a.safetensors: tensor 'w' has shape",
        ),
        (("--aggregator", "fedavg", "--param", "beta=.2", "a.safetensors"), "fedavg has no parameter 'beta'"),
        (("--aggregator", "fedavg", "--param", "beta", "a.safetensors"), "--param beta: give NAME=VALUE"),
        (("--aggregator", "krum", "--param", "num_byzantine=1", "a.safetensors"), "krum needs 5 updates"),
        (("--aggregator", "median", "--state-out", "s", "a.safetensors"), "s: median keeps no state"),
        (("--aggregator", "median", "--state-in", "a.safetensors", "a.safetensors"), "median keeps no state"),
        (("--aggregator", "fedavg", "--engine", "gpu", "a.safetensors"), "known are auto, numpy, numba"),
        (
            ("--aggregator", "fedavgm", "--current", "a.safetensors", "--state-in", "a.safetensors", "a.safetensors"),
            "a.safetensors: fedavgm: its state",
        ),
        (
            (
                "--aggregator",
                "fedavgm",
                "--current",
                "a.safetensors",
                "--state-out",
                "out.safetensors",
                "a.safetensors",
            ),
            "out.safetensors: the model and the state can't be one file",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_wrong_and_leaves_nothing_behind(
    folder: Path, arguments: tuple[str, ...], named: str
) -> None:
    model(folder / "a.safetensors", w=[1, 2])
    model(folder / "wide.safetensors", w=[1, 2, 3])
    model(folder / "nan.safetensors", w=[1, np.nan])
    (folder / "short.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-1])
    (folder / "empty.safetensors").touch()
    assert named in refused(folder, "--out", "out.safetensors", *arguments)


def test_what_was_there_stays_when_a_combination_fails_late(folder: Path) -> None:
    """The NaN lies in the last chunk: by then most of the new file has been written."""
    values = np.ones(1_000_000, np.float32)
    model(folder / "a.safetensors", w=values)
    values[-1] = np.nan
    model(folder / "b.safetensors", w=values)
    model(folder / "out.safetensors", w=[7])
    reason = refused(folder, "--aggregator", "fedavg", "--out", "out.safetensors", "a.safetensors", "b.safetensors")
    assert "b.safetensors: w[999999] is nan" in reason


def test_a_folder_that_is_not_there_or_a_target_that_is_no_file_is_named(folder: Path) -> None:
    model(folder / "a.safetensors", w=[1])
    assert "nowhere/out.safetensors" in refused(
        folder, "--aggregator", "fedavg", "--out", "nowhere/out.safetensors", "a.safetensors"
    )
    assert "it is there, and not a file" in refused(folder, "--aggregator", "fedavg", "--out", ".", "a.safetensors")
    assert "out.json: tensor 'w' is of dtype F32" in refused(
        folder, "--aggregator", "fedavg", "--out", "out.json", "a.safetensors"
    )


def test_an_unknown_aggregator_is_answered_with_the_nearest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here settings matter: FEDQUEUE_PLUGINS might have brought it."""
    monkeypatch.delenv("FEDQUEUE_DATABASE_URL")
    monkeypatch.delenv("FEDQUEUE_LEASE_SECOND")
    model(folder / "a.safetensors", w=[1])
    assert "did you mean 'fedavg'?" in refused(
        folder, "--aggregator", "fedavgg", "--out", "out.safetensors", "a.safetensors"
    )


def test_more_updates_than_files_may_be_open_combine_all_the_same(folder: Path) -> None:
    """The mean of 0 … 299 is 149.5: a mapped file is not an open one."""
    files = [model(folder / f"{index}.safetensors", w=[index]).name for index in range(300)]
    command = 'ulimit -n 150; exec "$0" -m worker combine --aggregator fedavg --out out.safetensors "$@"'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *files], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert load_file(folder / "out.safetensors")["w"].tolist() == [149.5]


def test_ended_by_a_signal_it_leaves_no_staged_file(folder: Path) -> None:
    """One thread, the numpy engine and a hundred updates take a few seconds: enough to be hit amid them."""
    model(folder / "a.safetensors", w=np.ones(2_000_000))
    command = [sys.executable, "-m", "worker", "combine", "--aggregator", "median", "--engine", "numpy"]
    process = subprocess.Popen(
        [*command, "--threads", "1", "--out", "out.safetensors", *["a.safetensors"] * 100],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".out.safetensors.*.part")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert [path.name for path in folder.iterdir()] == ["a.safetensors"]
