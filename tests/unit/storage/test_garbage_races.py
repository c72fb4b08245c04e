"""Garbage is collected while the same bytes are stored anew, and by a store whose writers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from connectors.errors import BlobMissing, StoreUnavailable
from connectors.records import BlobRef, DataFormat, FederatedModel
from connectors.storage import FileModelDataConnector
from fedqueue.blobs import path_of
from tests.hubs import ROOT

MODEL = FederatedModel(id=1, uuid=uuid4())
DAY = 24 * 3600.0
_COLLECTED = 15  # of the blobs that were stored anew afterwards


class Hub:
    """A store, the digests that rows name, and a collector at work without a pause."""

    def __init__(self, root: Path) -> None:
        self.store = FileModelDataConnector(root)
        self.named: set[str] = set()
        self.collected = 0
        self.problems: list[BaseException] = []
        self._ending = threading.Event()
        self._collector = threading.Thread(target=self._collect)

    def __enter__(self) -> Hub:
        self._collector.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._collector.join()

    def _collect(self) -> None:
        try:
            while not self._ending.is_set():
                self.collected += self.store.collect_garbage(DAY, self._is_named)
        except BaseException as error:  # noqa: BLE001  # the test shows it
            self.problems.append(error)

    def _is_named(self, digests: Sequence[str]) -> set[str]:
        return self.named & set(digests)

    def forget(self, ref: BlobRef) -> None:
        """Its row goes, and a day passes."""
        self.named.discard(ref.digest)
        try:
            os.utime(path_of(ref.uri), (0, 0))
        except FileNotFoundError:
            return  # collected, or being looked at

    def read(self, ref: BlobRef) -> bytes:
        """Its bytes, as a task gets them that comes back when the store says so."""
        while True:
            try:
                return self.store.pull_bytes(ref, 1 << 20)
            except StoreUnavailable:
                time.sleep(0)


@pytest.mark.parametrize("how", ["pushed", "taken in"])
def test_bytes_stored_anew_while_they_are_collected_are_never_missing(tmp_path: Path, how: str) -> None:
    """A row names them right after: whatever the collector was about to do, they are there and whole."""
    hub = Hub(tmp_path / "store")
    data = [f"model {number}".encode() for number in range(4)]
    refs = [hub.store.push_model_data_to_storage(MODEL, each) for each in data]
    rounds = 0
    deadline = time.monotonic() + 180  # each store waits for the disk
    with hub:
        while (hub.collected < _COLLECTED or rounds < 60) and not hub.problems:
            assert time.monotonic() < deadline, f"{hub.collected} blobs were collected in {rounds} rounds"
            rounds += 1
            for ref, each in zip(refs, data, strict=True):
                hub.forget(ref)
                time.sleep(0)
                if how == "pushed":
                    hub.store.push_model_data_to_storage(MODEL, each)
                else:
                    try:
                        hub.store.take_in(ref.uri, ref.digest)
                    except StoreUnavailable:
                        continue  # the task would come back
                    except BlobMissing:
                        # It was garbage, and went before anybody asked for it: whoever sends it stores it.
                        hub.store.push_model_data_to_storage(MODEL, each)
                hub.named.add(ref.digest)
                assert hub.read(ref) == each
    assert hub.problems == []
    for ref, each in zip(refs, data, strict=True):
        if ref.digest in hub.named:
            assert path_of(ref.uri).read_bytes() == each


def test_a_blob_that_a_collector_looks_at_is_out_of_reach_and_not_missing(tmp_path: Path) -> None:
    """Taken for missing, its update would be condemned for data that is there again in a moment."""
    store = FileModelDataConnector(tmp_path)
    ref = store.push_model_data_to_storage(MODEL, store.prep_model_data_for_storage([[1.0]], DataFormat.JSON))
    aside = tmp_path / "staging" / f"collected-{ref.digest}"
    path_of(ref.uri).rename(aside)
    with pytest.raises(StoreUnavailable, match="garbage collection"):
        store.take_in(ref.uri, ref.digest)
    with pytest.raises(StoreUnavailable, match="garbage collection"):
        store.open(ref, DataFormat.JSON)
    aside.unlink()
    with pytest.raises(BlobMissing):
        store.take_in(ref.uri, ref.digest)


def test_what_a_killed_writer_leaves_goes_after_a_day(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fedqueue.blobs import new_blob\n"
        "with new_blob(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half a model')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "staging").iterdir()
    store = FileModelDataConnector(tmp_path)
    store.collect_garbage(DAY, lambda digests: set())
    assert left.exists(), "its writer might still live"
    os.utime(left, (0, 0))
    store.collect_garbage(DAY, lambda digests: set())
    assert not left.exists()
