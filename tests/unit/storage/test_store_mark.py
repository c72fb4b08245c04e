"""A store that is away is told from one that lacks a blob, and none is begun in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from connectors.errors import BlobMissing, StoreUnavailable
from connectors.records import BlobRef, DataFormat, FederatedModel
from connectors.storage import FileModelDataConnector
from connectors.storage.mark import StoreMark
from fedqueue.blobs import STORE_MARK, keep_blob, new_blob, path_of

MODEL = FederatedModel(id=1, uuid=uuid4())
SPECS = [("w", (1,), "F64")]


class Hub:
    """A store, and the digests that a database names."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.named: list[str] = []
        self.store = FileModelDataConnector(self.root, named=lambda: self.named)

    def keep(self, data: bytes = b"model") -> BlobRef:
        ref = self.store.push_model_data_to_storage(MODEL, data)
        self.named.append(ref.digest)
        return ref


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_new_store_is_marked_when_it_is_first_used(hub: Hub) -> None:
    assert not hub.root.exists()
    hub.store.check()
    assert (hub.root / STORE_MARK).is_file()


def test_a_blob_that_is_missing_from_a_store_that_is_there_is_missing(hub: Hub) -> None:
    ref = hub.keep()
    path_of(ref.uri).unlink()
    with pytest.raises(BlobMissing):
        hub.store.open(ref, DataFormat.SAFETENSORS)
    with pytest.raises(BlobMissing):
        hub.store.take_in(ref.uri, ref.digest)


@pytest.mark.parametrize("mounted_on", [True, False], ids=["an empty folder in its place", "nothing in its place"])
def test_everything_finds_a_store_that_is_away_unavailable(hub: Hub, tmp_path: Path, mounted_on: bool) -> None:
    """And writes nothing where it was, which would be hidden or in the way when it comes back."""
    ref = hub.keep()
    hub.root.rename(tmp_path / "elsewhere")
    if mounted_on:
        hub.root.mkdir()
    before = everything_in(tmp_path)
    for use in (
        lambda: hub.store.open(ref, DataFormat.SAFETENSORS),
        lambda: hub.store.open(ref, DataFormat.JSON),
        lambda: hub.store.pull_bytes(ref, 100),
        lambda: hub.store.take_in(ref.uri, ref.digest),
        lambda: hub.store.normalise(ref, DataFormat.SAFETENSORS),
        lambda: hub.store.push_model_data_to_storage(MODEL, b"another"),
        lambda: hub.store.writer(SPECS, DataFormat.SAFETENSORS).__enter__(),
        lambda: hub.store.collect_garbage(0, lambda digests: set()),
        hub.store.check,
    ):
        with pytest.raises(StoreUnavailable):
            use()
    assert everything_in(tmp_path) == before


def test_a_process_that_starts_while_the_store_is_away_begins_none(hub: Hub, tmp_path: Path) -> None:
    hub.keep()
    hub.root.rename(tmp_path / "elsewhere")
    started = FileModelDataConnector(hub.root, named=lambda: hub.named)
    with pytest.raises(StoreUnavailable, match="should it be lost for good, make that file"):
        started.check()
    (tmp_path / "elsewhere").rename(hub.root)
    started.check()


def test_a_store_made_before_there_were_marks_is_marked(hub: Hub) -> None:
    ref = hub.keep()
    (hub.root / STORE_MARK).unlink()
    assert hub.store.pull_bytes(ref, 100) == b"model"
    assert (hub.root / STORE_MARK).is_file()


def test_one_blob_of_several_is_enough_to_know_an_unmarked_store_by(hub: Hub) -> None:
    lost, kept = hub.keep(b"lost"), hub.keep(b"kept")
    path_of(lost.uri).unlink()
    (hub.root / STORE_MARK).unlink()
    assert hub.store.pull_bytes(kept, 100) == b"kept"


def test_what_others_put_where_the_store_was_makes_it_no_store(hub: Hub, tmp_path: Path) -> None:
    """Blobs of clients that found the folder and not the mount: the database knows none of them."""
    hub.keep()
    hub.root.rename(tmp_path / "elsewhere")
    with new_blob(hub.root) as file:
        file.write(b"a client's")
        keep_blob(hub.root, file)
    with pytest.raises(StoreUnavailable):
        hub.store.check()
    assert not (hub.root / STORE_MARK).exists()


def test_an_operator_may_begin_anew_by_making_the_mark(hub: Hub, tmp_path: Path) -> None:
    ref = hub.keep()
    hub.root.rename(tmp_path / "elsewhere")
    hub.root.mkdir()
    (hub.root / STORE_MARK).touch()
    with pytest.raises(BlobMissing):
        hub.store.open(ref, DataFormat.SAFETENSORS)


def test_a_model_that_was_being_written_when_the_store_went_is_unavailable_and_begins_no_other(
    hub: Hub, tmp_path: Path
) -> None:
    hub.keep()
    with pytest.raises(StoreUnavailable), hub.store.writer([], DataFormat.SAFETENSORS) as writer:
        hub.root.rename(tmp_path / "elsewhere")
        writer.commit()
    assert not hub.root.exists()


@pytest.mark.parametrize("moment", ["check", "stat"])
def test_a_store_that_goes_between_two_steps_of_a_writing_is_not_begun_in_the_folder_it_leaves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It was there when it was looked at, and when the folder for the blob is made something else lies there."""
    hub.keep()
    owner, name = (StoreMark, "check") if moment == "check" else (Path, "stat")
    step = getattr(owner, name)

    def step_and_go(self: Any, **how: Any) -> Any:
        found = step(self, **how)
        if moment == "check" or self.parent == hub.root / "staging":
            monkeypatch.setattr(owner, name, step)
            hub.root.rename(tmp_path / "elsewhere")
            hub.root.mkdir()
        return found

    monkeypatch.setattr(owner, name, step_and_go)
    with pytest.raises(StoreUnavailable):
        hub.store.push_model_data_to_storage(MODEL, b"another")
    assert everything_in(hub.root) == []
