"""What a client puts into the store, and takes out."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedqueue.blobs import STORE_MARK, blob_path
from fedqueue.errors import DataCorrupt, InvalidArgument, StoreUnreachable
from fedqueue.messages.names import INLINE_DATA_LIMIT
from fedqueue.payload import SharedStore
from fedqueue.tensors import read_tensors


def pickled_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", b"")
    return file.getvalue()


def begun(folder: Path) -> Path:
    """A store as a hub leaves it at its first start."""
    folder.mkdir()
    (folder / STORE_MARK).touch()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a store"
    return begun(folder)


@pytest.fixture
def store(root: Path) -> SharedStore:
    return SharedStore(root.as_uri())


def test_arrays_become_one_blob_named_by_their_digest(store: SharedStore, root: Path) -> None:
    first = store.take({"w": np.ones(3)}, "data")
    again = store.take({"w": np.ones(3)}, "data")
    assert first.ref is not None
    assert first == again
    path = blob_path(root, first.ref.digest)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first.ref.digest
    assert [p for p in root.rglob("*") if p.is_file() and p.name != STORE_MARK] == [path]


def test_a_stored_model_comes_back_by_its_reference(store: SharedStore) -> None:
    ref = store.take({"w": np.array([1.0, 2.0])}, "data").ref
    assert ref is not None
    assert read_tensors(store.read(ref.uri, ref.digest))["w"].tolist() == [1.0, 2.0]


def test_a_blob_is_copied_in_pieces_and_checked(store: SharedStore, root: Path) -> None:
    """Models of hundreds of megabytes pass by who only hands them on."""
    ref = store.take({"w": np.arange(4 << 20, dtype=np.float64)}, "data").ref
    assert ref is not None
    tracemalloc.start()
    with tempfile.TemporaryFile() as file:
        store.copy(ref.uri, ref.digest, file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20, "of 32 MiB"
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == ref.digest
    tracemalloc.stop()
    with blob_path(root, ref.digest).open("r+b") as blob:
        blob.truncate(4711)
    with pytest.raises(DataCorrupt, match="does not hold the bytes"):
        store.copy(ref.uri, ref.digest, io.BytesIO())
    blob_path(root, ref.digest).unlink()
    with pytest.raises(StoreUnreachable, match="is the hub's store mounted"):
        store.copy(ref.uri, ref.digest, io.BytesIO())


def test_a_file_is_stored_byte_for_byte(store: SharedStore, root: Path, tmp_path: Path) -> None:
    """Even a broken one: to judge it is the hub's part, and its reason is then on record."""
    file = tmp_path / "update.safetensors"
    file.write_bytes(b"not a model")
    payload = store.take(file, "data")
    assert payload.ref is not None
    assert payload.data_format == "safetensors"
    assert blob_path(root, payload.ref.digest).read_bytes() == b"not a model"


@pytest.mark.parametrize("name", ["update.npz", "update", "update.json", "update.npy"])
def test_numpys_files_are_known_by_their_bytes_and_sent_as_they_are(
    store: SharedStore, root: Path, tmp_path: Path, name: str
) -> None:
    """The hub brings them into the model's format; a name that says otherwise changes nothing."""
    archive, lone = io.BytesIO(), io.BytesIO()
    np.savez(archive, w=np.ones(3))
    np.save(lone, np.ones(3))
    for content in (archive.getvalue(), lone.getvalue()):
        (tmp_path / name).write_bytes(content)
        payload = store.take(str(tmp_path / name), "data")
        assert payload.ref is not None
        assert payload.data_format == "safetensors"
        assert blob_path(root, payload.ref.digest).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", pickled_archive()])
def test_a_broken_file_under_numpys_names_goes_to_the_hub_for_its_reason(
    store: SharedStore, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "update.npz").write_bytes(content)
    assert store.take(tmp_path / "update.npz", "data").data_format == "safetensors"


def test_an_archive_that_is_not_numpys_is_refused_here(store: SharedStore, root: Path, tmp_path: Path) -> None:
    """As torch.save writes it: there is no need to send a gigabyte to hear so."""
    (tmp_path / "model.pt").write_bytes(pickled_archive())
    with pytest.raises(InvalidArgument, match=r"model\.pt is none of \.safetensors, \.npz, \.npy, \.json"):
        store.take(tmp_path / "model.pt", "data")
    assert list(root.iterdir()) == [root / STORE_MARK]


def test_small_lists_travel_inline_and_need_no_store() -> None:
    payload = SharedStore(None).take([[1, 2.5], np.array([3.0], np.float32)], "data")
    assert payload.inline == [[1, 2.5], [3.0]]
    assert payload.ref is None


def test_lists_too_long_for_the_broker_go_to_the_store(store: SharedStore, root: Path) -> None:
    data = [0.5] * (INLINE_DATA_LIMIT // 5 + 1)  # "0.5, " is five characters
    payload = store.take(data, "data")
    assert payload.inline is None
    assert payload.ref is not None
    assert json.loads(blob_path(root, payload.ref.digest).read_text()) == data


def test_lists_of_exactly_the_limit_still_travel_inline(store: SharedStore) -> None:
    text = "x" * (INLINE_DATA_LIMIT - len('[""]'))
    assert store.take([text], "data").inline == [text]
    assert store.take([text + "x"], "data").inline is None


@pytest.mark.parametrize("data", [[float("nan")], [object()], 7, b"bytes", {}])
def test_what_is_no_model_data_is_refused_by_the_fields_name(store: SharedStore, root: Path, data: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        store.take(data, "initial")  # type: ignore[arg-type]
    assert refused.value.field == "initial"
    assert list(root.iterdir()) == [root / STORE_MARK]


@pytest.mark.parametrize("name", ["model.pkl", "model", "missing.safetensors", "folder.npz"])
def test_a_path_that_can_not_be_taken_is_refused_by_the_fields_name(
    store: SharedStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "model.pkl").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InvalidArgument) as refused:
        store.take(tmp_path / name, "data")
    assert refused.value.field == "data"


def test_without_a_store_the_error_names_the_setting() -> None:
    with pytest.raises(StoreUnreachable, match="FEDQUEUE_STORE_URL"):
        SharedStore(None).take({"w": np.ones(1)}, "data")


def test_a_store_that_is_no_folder_here_is_said_to_be() -> None:
    with pytest.raises(StoreUnreachable, match="s3://bucket"):
        SharedStore("s3://bucket").take({"w": np.ones(1)}, "data")


def test_a_store_that_can_not_be_written_leaves_an_error_of_its_own(tmp_path: Path) -> None:
    (begun(tmp_path / "store") / "staging").write_text("in the way")
    with pytest.raises(StoreUnreachable, match="can't be written"):
        SharedStore((tmp_path / "store").as_uri()).take({"w": np.ones(1)}, "data")


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_client_begins_no_store(tmp_path: Path, left: str) -> None:
    """It would be a folder where the hub's store is not mounted, and what lies in it would never be found."""
    root = tmp_path / "store"
    if left == "an empty folder":
        root.mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreUnreachable, match="mounted on this machine"):
        SharedStore(root.as_uri()).take({"w": np.ones(1)}, "data")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_of_before_there_were_marks_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "sha256").mkdir()
    assert SharedStore(tmp_path.as_uri()).take({"w": np.ones(1)}, "data").ref is not None


def test_changed_bytes_are_not_handed_out(store: SharedStore, root: Path) -> None:
    ref = store.take({"w": np.ones(1)}, "data").ref
    assert ref is not None
    path = blob_path(root, ref.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataCorrupt, match=ref.digest):
        store.read(ref.uri, ref.digest)


def test_a_model_is_found_where_this_machine_has_the_store_mounted(tmp_path: Path) -> None:
    """The hub names its own path; the digest names the same bytes under ours."""
    hubs, ours = tmp_path / "hubs", tmp_path / "ours"
    begun(hubs)
    ref = SharedStore(hubs.as_uri()).take({"w": np.ones(1)}, "data").ref
    assert ref is not None
    hubs.rename(ours)
    assert SharedStore(ours.as_uri()).read(ref.uri, ref.digest)
    with pytest.raises(StoreUnreachable, match="mounted"):
        SharedStore(None).read(ref.uri, ref.digest)
