"""A full disk: rounds and submissions fail cleanly, leave nothing half done, and succeed when there is room again."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from config.settings import Settings
from fedqueue import Client
from tests.chaos.evidence import Evidence
from tests.chaos.faults import hub_settings
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.grounds import database_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.traffic import settled, wait_until
from tests.servers import valkey_server

_PARAMETERS = 60_000
_FREE_BYTES = 128 * 1024  # less than an aggregate, and than the JSON submission
_LAYER = 40_000
# More than the failed rounds after which updates become suspects, and their models ERROR.
_ROUNDS = 7


class FileSizeLimit:
    """Every file that a pool process writes ends at `_FREE_BYTES`: EFBIG where a full disk says ENOSPC."""

    words = "File too large"

    def fill(self, fleet: Fleet) -> None:
        self._limit(fleet, _FREE_BYTES)

    def free(self, fleet: Fleet) -> None:
        self._limit(fleet, psutil.RLIM_INFINITY)

    @staticmethod
    def _limit(fleet: Fleet, size: int) -> None:
        # The parents too: a process that is started anew has its parent's limits.
        for pid in (*fleet.parents(), *fleet.pool()):
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


class FullFileSystem:
    """A file system of its own, with nearly all of it taken."""

    words = "No space left on device"

    def __init__(self, mounted: Path, free_bytes: int = _FREE_BYTES) -> None:
        self._filler = mounted / "filler"
        self._free_bytes = free_bytes

    def fill(self, fleet: Fleet) -> None:
        with self._filler.open("wb", buffering=0) as file:
            with pytest.raises(OSError) as full:
                while file.write(b"\0" * 4096):
                    pass
            assert full.value.errno == errno.ENOSPC
            file.truncate(file.tell() - self._free_bytes)

    def free(self, fleet: Fleet) -> None:
        self._filler.unlink()


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """One of some megabytes; the test is skipped where none may be mounted."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_and_free(settings: Settings, disk: FileSizeLimit | FullFileSystem, case: str, evidence: Evidence) -> None:
    """A round and a submission meet the full disk; both succeed when it is freed."""
    staging = settings.home / "store" / "staging"
    accepted: list[Accepted] = []
    with (
        fleet_running(settings, settings.home.parent / "logs") as fleet,
        Client(settings.broker_url, settings.result_url, settings.store_url, resend_after=1.0) as hub,
    ):
        large = hub.create_model(initial={"w": np.zeros(_PARAMETERS, np.float32)}, requirement=None).model_id
        lists = hub.create_model(initial=[[0.0] * _LAYER], requirement=None, data_format="json").model_id
        clients = [hub.register_client(large).client_id for _ in range(3)]
        hub.register_client(lists, clients[0])
        hub.pause_model(large)
        for number, client in enumerate(clients, start=1):
            sent = hub.submit_update(
                large, client, {"w": np.full(_PARAMETERS, number, np.float32)}, num_examples=number
            )
            accepted.append(Accepted(sent.submission_id, number))

        def submit() -> None:
            sent = hub.submit_update(lists, clients[0], [[1.0] * _LAYER], num_examples=5, timeout=180)
            accepted.append(Accepted(sent.submission_id, 5))

        on_its_way = threading.Thread(target=submit)
        disk.fill(fleet)
        on_its_way.start()
        hub.resume_model(large)
        for task, times in (("fedqueue.rounds.aggregate", _ROUNDS), ("fedqueue.updates.submit", 1)):
            wait_until(f"{times} failures of {task}", lambda: _failures(fleet, disk.words, task) >= times, 90)  # noqa: B023
        failed_rounds = _failures(fleet, disk.words, "fedqueue.rounds.aggregate")
        failed_submissions = _failures(fleet, disk.words, "fedqueue.updates.submit")
        assert on_its_way.is_alive()
        # Nothing is left of what was begun; a round that is at it this moment has its own.
        wait_until("moment without a staged file", lambda: not list(staging.iterdir()), 60)
        disk.free(fleet)
        on_its_way.join(180)
        facts, took = settled(settings.database_url, 60)
        restarts = fleet.restarts
    wrong = [*violations(facts, quiet=True), *unaccounted(facts, accepted)]
    reasons = [str(log["details"]) for log in facts.logs if log["event_type"] == "ROUND_FAILED"]
    evidence(
        "disk_full",
        case,
        violations=len(wrong),
        updates=len(accepted),
        rounds_failed=failed_rounds,
        submissions_failed=failed_submissions,
        most_attempts_of_an_update=max(update["attempts"] for update in facts.updates),
        workers_restarted=restarts,
        quiet_after_seconds=round(took, 2),
    )
    assert wrong == []
    assert len(accepted) == 4
    assert {model["status"] for model in facts.models} == {"RUNNING"}
    assert {update["attempts"] for update in facts.updates} == {1}, "a full disk is no update's fault"
    assert any(disk.words in reason for reason in reasons), f"the model's feed does not say why: {reasons}"
    assert restarts == 0
    assert list(staging.iterdir()) == []


def _failures(fleet: Fleet, words: str, task: str) -> int:
    return sum("task.postponed" in line and words in line and task in line for line in fleet.said().splitlines())


@pytest.mark.slow
def test_files_that_can_not_grow_fail_rounds_and_submissions_until_they_can(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    """The kernel's signal for it, which would end most programs, is ignored by Python."""
    with database_on("postgresql", tmp_path, request) as url, valkey_server(tmp_path) as broker:
        # Nobody dies here: a lease that a slow machine outlasts would count as an attempt.
        settings = hub_settings(tmp_path, broker.url, url, lease_seconds=30.0)
        fill_and_free(settings, FileSizeLimit(), "a limit on the size of files", evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_file_system_fails_rounds_and_submissions_until_there_is_room(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    with (
        small_file_system(tmp_path / "small") as mounted,
        database_on("postgresql", tmp_path, request) as url,
        valkey_server(tmp_path) as broker,
    ):
        settings = hub_settings(tmp_path, broker.url, url, home=mounted / "home", lease_seconds=30.0)
        fill_and_free(settings, FullFileSystem(mounted), "a full file system under the store", evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_file_system_under_the_database_makes_everybody_wait(tmp_path: Path, evidence: Evidence) -> None:
    """SQLite's file and its log; the store lies elsewhere."""
    accepted: list[Accepted] = []
    words = "database or disk is full"
    with small_file_system(tmp_path / "small") as mounted, valkey_server(tmp_path) as broker:
        settings = hub_settings(tmp_path, broker.url, f"sqlite:///{mounted}/hub.db")
        disk = FullFileSystem(mounted, free_bytes=0)
        with (
            fleet_running(settings, tmp_path / "logs") as fleet,
            Client(settings.broker_url, settings.result_url, resend_after=1.0) as hub,
        ):
            model = hub.create_model(initial=[[0.0]], requirement=None, allow_repeats=True).model_id
            client = hub.register_client(model).client_id

            def submit() -> None:
                for number in range(1, 11):
                    sent = hub.submit_update(model, client, [[1.0]], num_examples=number, timeout=180)
                    accepted.append(Accepted(sent.submission_id, number))

            submitting = threading.Thread(target=submit)
            disk.fill(fleet)
            submitting.start()
            wait_until("tasks that met it", lambda: fleet.said().count(words) >= _ROUNDS, 90)
            answered = len(accepted)
            assert submitting.is_alive()
            disk.free(fleet)
            submitting.join(180)
            facts, took = settled(settings.database_url, 60)
            met, restarts = fleet.said().count(words), fleet.restarts
        wrong = [*violations(facts, quiet=True), *unaccounted(facts, accepted)]
    evidence(
        "disk_full",
        "a full file system under SQLite",
        violations=len(wrong),
        updates=len(accepted),
        answered_on_the_full_disk=answered,
        transactions_refused=met,
        workers_restarted=restarts,
        quiet_after_seconds=round(took, 2),
    )
    assert wrong == []
    assert len(accepted) == 10
    assert restarts == 0
