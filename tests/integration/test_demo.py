"""The demonstration, from start to end in its short form; and its judge, shown hubs that cheat."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from worker.demo.chaos import children_of
from worker.demo.digits import load_digits, split_unevenly
from worker.demo.errors import DemoNeedsPackage
from worker.demo.judge import Accepted, Verdict, judge, read_journals

ROOT = Path(__file__).resolve().parents[2]
LAST_LINE = re.compile(
    r"demo: accuracy (0\.\d{4}), central (0\.\d{4}), (\d+) rounds, (\d+) updates, (\d+) lost, (\d+) counted twice"
)
# Four participants on this seed come within the margin in five rounds.
SHORT = ("--rounds", "5", "--clients", "4", "--seed", "6")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "worker", "demo", *map(str, arguments)]


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=200)


def processes_of(home: Path) -> list[int]:
    """Processes whose environment names that home: a hub's, and its participants'."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"FEDQUEUE_HOME={home}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


# --- the whole ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A demonstration that has run, its folder kept."""

    run: subprocess.CompletedProcess[str]
    home: Path
    plot: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("demo")
    home, plot = folder / "home", folder / "accuracy.png"
    return Finished(run_demo(*SHORT, "--home", home, "--out", plot), home, plot)


def test_the_short_demonstration_passes_and_ends_with_its_figures(finished: Finished) -> None:
    assert finished.run.returncode == 0, finished.run.stdout + finished.run.stderr
    last = LAST_LINE.fullmatch(finished.run.stdout.splitlines()[-1])
    assert last is not None
    accuracy, central, *counts = last.groups()
    assert counts == ["5", "20", "0", "0"]
    assert float(accuracy) >= float(central) - 0.03
    assert finished.plot.read_bytes().startswith(b"\x89PNG")
    assert processes_of(finished.home) == []


def test_what_it_says_is_what_the_judge_finds_in_the_files(finished: Finished) -> None:
    verdict = judge_copy(finished.home)
    assert verdict.problems == []
    assert (verdict.submitted, len(verdict.lost), len(verdict.counted_twice)) == (20, 0, 0)
    assert [aggregate.num_updates for aggregate in verdict.aggregates] == [4] * 5
    assert {aggregate.num_examples for aggregate in verdict.aggregates} == {1438.0}  # four fifths of 1,797


@pytest.mark.wide
def test_too_low_an_accuracy_is_said_and_fails(tmp_path: Path) -> None:
    """Two rounds are too few: whoever ran it must not be told that all is well."""
    run = run_demo("--rounds", 2, "--clients", 4, "--seed", 0, "--json", "--out", tmp_path / "a.png")
    facts = json.loads(run.stdout)
    assert run.returncode == 1
    assert not facts["passed"]
    assert any("below" in shortcoming for shortcoming in facts["shortcomings"])
    assert run.stderr.splitlines()[-1] == facts["line"]
    assert LAST_LINE.fullmatch(facts["line"])


@pytest.mark.wide
@pytest.mark.slow
def test_under_chaos_it_passes_with_the_same_figures(finished: Finished, tmp_path: Path) -> None:
    """Killed workers cost time and nothing else. (Who comes first may differ, and with it a sum's last bit.)"""
    run = run_demo(*SHORT, "--chaos", "--out", tmp_path / "a.png")
    assert run.returncode == 0, run.stdout + run.stderr
    *_, kills, last = run.stdout.splitlines()
    killed = re.match(r"chaos: (\d+) kills by SIGKILL", kills)
    disturbed, undisturbed = LAST_LINE.fullmatch(last), LAST_LINE.fullmatch(finished.run.stdout.splitlines()[-1])
    assert killed is not None
    assert disturbed is not None
    assert undisturbed is not None
    assert int(killed[1]) >= 2
    assert disturbed.groups()[1:] == undisturbed.groups()[1:]
    assert float(disturbed[1]) == pytest.approx(float(undisturbed[1]), abs=0.01)


def test_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    home = tmp_path / "home"
    # So many rounds that it can't be over before it is interrupted.
    running = subprocess.Popen(
        command("--rounds", 1000, "--home", home, "--out", tmp_path / "a.png"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        for line in running.stdout:
            # Any but the first model's: a round that passes between two looks is never shown.
            if line.startswith("round ") and not line.startswith("round 0 "):
                break
        assert len(processes_of(home)) > 10
        running.send_signal(signal.SIGINT)
        assert running.wait(100) == 128 + signal.SIGINT
        assert processes_of(home) == []
    finally:
        running.kill()
        running.communicate()


def test_a_folder_that_holds_a_hub_is_left_alone(finished: Finished) -> None:
    before = (finished.home / "fedqueue.db").read_bytes()
    run = run_demo("--home", finished.home)
    assert run.returncode == 2
    assert "holds a hub already" in run.stderr
    assert (finished.home / "fedqueue.db").read_bytes() == before


def test_a_participant_knows_the_hub_by_its_client_alone() -> None:
    code = "import worker.demo.participant, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = {name for name in run.stdout.split() if name.split(".")[0] in ("worker", "tasks", "connectors", "config")}
    assert ours == {"worker", "worker.demo", "worker.demo.participant", "worker.demo.examples", "worker.demo.learning"}


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DemoNeedsPackage, match=r"scikit-learn.*pip install"):
        load_digits(0)


def test_the_split_gives_every_example_to_one_participant_and_the_same_again() -> None:
    training, testing = load_digits(0)
    assert (len(training), len(testing)) == (1438, 359)
    parts = split_unevenly(training, 10, seed=0)
    assert sum(map(len, parts)) == len(training)
    assert min(map(len, parts)) >= 20
    owned = {part.features[row].tobytes() for part in parts for row in range(len(part))}
    assert owned == {training.features[row].tobytes() for row in range(len(training))}
    again = split_unevenly(training, 10, seed=0)
    assert all((one.labels == other.labels).all() for one, other in zip(parts, again, strict=True))


def test_the_chaos_finds_a_processs_children() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert child.pid in children_of(os.getpid())
            assert children_of(child.pid) == []
        finally:
            child.kill()


# --- the judge ----------------------------------------------------------------------------------------------------

Tamper = Callable[[sqlite3.Connection], object]


def judge_copy(home: Path, tamper: Tamper | None = None, accepted: list[Accepted] | None = None) -> Verdict:
    """The verdict on a copy of a finished hub's database, changed first; without the constraints that forbid it."""
    copy = home.parent / f"{uuid4()}.db"
    shutil.copy(home / "fedqueue.db", copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        for table in ("model_update", "model_aggregate"):
            connection.execute(f"CREATE TABLE free AS SELECT * FROM {table}")
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"ALTER TABLE free RENAME TO {table}")
        if tamper is not None:
            tamper(connection)
        (model_id,) = connection.execute("SELECT uuid FROM federated_model").fetchone()
    return judge(copy, UUID(model_id), journalled(home) if accepted is None else accepted)


def journalled(home: Path) -> list[Accepted]:
    return read_journals(sorted((home / "journals").iterdir()))


def first_update(connection: sqlite3.Connection) -> UUID:
    return UUID(connection.execute("SELECT submission_id FROM model_update WHERE id = 1").fetchone()[0])


def test_an_accepted_update_that_the_hub_forgot_is_lost(finished: Finished) -> None:
    verdict = judge_copy(finished.home, lambda c: c.execute("DELETE FROM model_update WHERE id = 1"))
    assert len(verdict.lost) == 1
    assert any("unknown to the hub" in problem for problem in verdict.problems)
    assert "aggregate 1 is not the weighted mean of its updates" in verdict.problems


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "FAILED"])
def test_an_accepted_update_that_is_never_counted_is_lost(finished: Finished, status: str) -> None:
    lost: list[UUID] = []

    def tamper(connection: sqlite3.Connection) -> None:
        lost.append(first_update(connection))
        connection.execute("UPDATE model_update SET status = ?, applied_aggregate_id = NULL WHERE id = 1", (status,))

    assert judge_copy(finished.home, tamper).lost == set(lost)


def test_an_update_of_an_aggregate_that_is_not_there_is_lost(finished: Finished) -> None:
    verdict = judge_copy(finished.home, lambda c: c.execute("UPDATE model_update SET applied_aggregate_id = 99"))
    assert len(verdict.lost) == 20


def test_an_update_set_aside_needs_a_reason(finished: Finished) -> None:
    aside = (
        "UPDATE model_update SET status = 'INVALID', applied_aggregate_id = NULL, reason_code = ?, reason = ? "
        "WHERE id = 1"
    )
    excused = judge_copy(finished.home, lambda c: c.execute(aside, ("DUPLICATE", "a newer one came")))
    assert (len(excused.lost), excused.set_aside) == (0, 1)
    unexcused = judge_copy(finished.home, lambda c: c.execute(aside, (None, None)))
    assert (len(unexcused.lost), unexcused.set_aside) == (1, 0)


def test_an_update_in_two_aggregates_is_counted_twice(finished: Finished) -> None:
    twice: list[UUID] = []

    def tamper(connection: sqlite3.Connection) -> None:
        twice.append(first_update(connection))
        connection.execute("INSERT INTO model_update SELECT * FROM model_update WHERE id = 1")
        connection.execute("UPDATE model_update SET applied_aggregate_id = 2 WHERE rowid = last_insert_rowid()")

    verdict = judge_copy(finished.home, tamper)
    assert verdict.counted_twice == set(twice)
    assert any("is in 2 aggregates" in problem for problem in verdict.problems)


def test_the_same_values_under_two_ids_are_counted_twice(finished: Finished) -> None:
    """What a client does that repeats a submission under a new id; no row of the hub's is wrong then."""
    second = uuid4()

    def tamper(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO model_update SELECT * FROM model_update WHERE id = 1")
        connection.execute("UPDATE model_update SET submission_id = ? WHERE rowid = last_insert_rowid()", (second.hex,))

    verdict = judge_copy(finished.home, tamper)
    assert verdict.counted_twice
    assert f"submission {second} is in an aggregate, but nobody saw it accepted" in verdict.problems


def test_a_manifest_that_lists_an_update_again_is_counted_twice(finished: Finished) -> None:
    def tamper(connection: sqlite3.Connection) -> None:
        first = connection.execute("SELECT manifest FROM model_aggregate WHERE number = 1").fetchone()
        connection.execute("UPDATE model_aggregate SET manifest = ? WHERE number = 2", first)

    verdict = judge_copy(finished.home, tamper)
    assert len(verdict.counted_twice) == 4
    assert "aggregate 2's manifest lists other updates than name it" in verdict.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE model_update SET num_examples = num_examples + 1 WHERE id = 1", "weighs"),
        ("UPDATE model_aggregate SET num_updates = 5 WHERE number = 1", "says that it holds 5 updates; 4 name it"),
        ("UPDATE model_aggregate SET num_examples = 1439 WHERE number = 1", "1439 examples; its updates have 1438"),
        ("UPDATE model_aggregate SET parent_id = 1 WHERE number = 3", "aggregate 3 does not follow"),
        ("DELETE FROM model_aggregate WHERE number = 2", "does not follow"),
    ],
)
def test_figures_that_do_not_add_up_are_said(finished: Finished, change: str, said: str) -> None:
    verdict = judge_copy(finished.home, lambda c: c.execute(change))
    assert any(said in problem for problem in verdict.problems), verdict.problems


def test_an_aggregate_of_other_values_is_found_out(finished: Finished) -> None:
    """The bytes of the next aggregate in its place: all rows agree, the mean does not."""

    def tamper(connection: sqlite3.Connection) -> None:
        uri, digest = connection.execute(
            "SELECT data_uri, data_digest FROM model_aggregate WHERE number = 2"
        ).fetchone()
        connection.execute("UPDATE model_aggregate SET data_uri = ?, data_digest = ? WHERE number = 1", (uri, digest))

    assert judge_copy(finished.home, tamper).problems == ["aggregate 1 is not the weighted mean of its updates"]


def test_bytes_that_are_not_the_rows_are_found_out(finished: Finished) -> None:
    with pytest.raises(ValueError, match="does not hold the bytes"):
        judge_copy(finished.home, lambda c: c.execute("UPDATE model_aggregate SET data_digest = 'x'"))


def test_a_participant_that_says_another_weight_than_the_hub_is_heard(finished: Finished) -> None:
    first, *others = journalled(finished.home)
    verdict = judge_copy(finished.home, accepted=[replace(first, num_examples=7.0), *others])
    assert any(problem.endswith("not 7") for problem in verdict.problems)
