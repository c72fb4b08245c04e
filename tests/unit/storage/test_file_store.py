"""The folder store: what it takes in, what it refuses, what it clears away.

Its length is the list of hostile files: every one meets the same store, made by the same few lines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from connectors.errors import BlobMissing, ModelDataError, ReferenceRefused, StoreUnavailable
from connectors.model_data import BaseModelDataConnector
from connectors.records import BlobRef, DataFormat, FederatedModel, ModelUpdate, ReasonCode
from connectors.storage import FileModelDataConnector, Limits
from fedqueue.blobs import blob_path, keep_blob, new_blob, path_of

ID = UUID(int=1)
MODEL = FederatedModel(id=1, uuid=ID)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.fixture
def store(tmp_path: Path, outside: Path) -> FileModelDataConnector:
    return FileModelDataConnector(tmp_path / "store", outside_roots=[outside])


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _put(path: Path, data: bytes = b"model") -> str:
    path.write_bytes(data)
    return path.as_uri()


def _files(store: FileModelDataConnector) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.is_file())


def _age(path: Path, seconds: float = 3600) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_it_is_found_by_name() -> None:
    with pytest.raises(ValueError, match="FileModelDataConnector"):
        BaseModelDataConnector.create("floppy")
    assert BaseModelDataConnector._registry["file"] is FileModelDataConnector


@pytest.mark.parametrize("form", ["path", "text", "url"])
def test_the_root_may_be_a_path_or_a_file_url(tmp_path: Path, form: str) -> None:
    root = tmp_path / "new" / "store"
    given = {"path": root, "text": str(root), "url": root.as_uri()}[form]
    assert BaseModelDataConnector.create("file", {"root": given}).root == root  # type: ignore[attr-defined]
    assert root.is_dir()


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tensors"):
        Limits(max_tensors=0)


# --- taking in --------------------------------------------------------------------------------------------------------


def test_bytes_from_outside_are_copied_in_under_their_digest(store: FileModelDataConnector, outside: Path) -> None:
    """Their owner may cut the file short later, which would kill a process that had it mapped."""
    ref = store.take_in(_put(outside / "a file.bin"), _digest(b"model"))
    assert path_of(ref.uri) == blob_path(store.root, _digest(b"model"))
    assert path_of(ref.uri).read_bytes() == b"model"
    assert ref.size_bytes == 5
    (outside / "a file.bin").write_bytes(b"")
    assert path_of(ref.uri).read_bytes() == b"model"


def test_without_a_digest_the_found_one_is_answered(store: FileModelDataConnector, outside: Path) -> None:
    assert store.take_in(_put(outside / "a"), None).digest == _digest(b"model")


def test_a_blob_of_the_store_is_used_where_it_is(store: FileModelDataConnector) -> None:
    with new_blob(store.root) as file:
        file.write(b"model")
        path, digest = keep_blob(store.root, file)
    inode = path.stat().st_ino
    _age(path)
    assert store.take_in(path.as_uri(), digest) == BlobRef(path.as_uri(), digest, 5)
    assert path.stat().st_ino == inode
    assert _files(store) == [path]
    assert time.time() - path.stat().st_mtime < 60, "garbage collection must start counting anew"


def test_a_blob_that_has_rotted_in_the_store_is_corrupt(store: FileModelDataConnector) -> None:
    ref = store.push_model_data_to_storage(MODEL, b"model")
    path_of(ref.uri).write_bytes(b"mxdel")
    with pytest.raises(ModelDataError, match="other bytes") as caught:
        store.take_in(ref.uri, ref.digest)
    assert caught.value.reason_code is ReasonCode.CORRUPT


def test_a_wrong_digest_is_corrupt_and_leaves_nothing(store: FileModelDataConnector, outside: Path) -> None:
    with pytest.raises(ModelDataError, match="other bytes") as caught:
        store.take_in(_put(outside / "a"), _digest(b"another"))
    assert caught.value.reason_code is ReasonCode.CORRUPT
    assert _files(store) == []


def test_the_blob_of_another_digest_is_corrupt(store: FileModelDataConnector) -> None:
    ref = store.push_model_data_to_storage(MODEL, b"model")
    with pytest.raises(ModelDataError, match="other bytes"):
        store.take_in(ref.uri, _digest(b"another"))


def test_too_large_is_known_before_a_byte_is_read(tmp_path: Path, outside: Path) -> None:
    """A sparse file of a tebibyte would take an hour to read."""
    store = FileModelDataConnector(tmp_path / "store", outside_roots=[outside])
    with (outside / "huge").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    with pytest.raises(ModelDataError, match="limit") as caught:
        store.take_in((outside / "huge").as_uri(), None)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE
    assert time.monotonic() - started < 60


def test_inline_bytes_over_the_limit_are_too_large(tmp_path: Path) -> None:
    store = FileModelDataConnector(tmp_path, limits=Limits(max_bytes=4))
    with pytest.raises(ModelDataError) as caught:
        store.push_model_data_to_storage(MODEL, b"model")
    assert caught.value.reason_code is ReasonCode.TOO_LARGE


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/model",
        "s3://bucket/model",
        "file://elsewhere/model",
        "file:relative",
        "relative",
        "",
        "file:///etc/hostname",
        "file://[",
        "file:///with%00nul",
    ],
)
def test_what_is_not_under_a_configured_root_is_refused(store: FileModelDataConnector, uri: str) -> None:
    with pytest.raises(ReferenceRefused):
        store.take_in(uri, None)


@pytest.mark.parametrize("way", ["..", "%2e%2e", "%2E."])
def test_no_way_leads_up(store: FileModelDataConnector, outside: Path, way: str) -> None:
    _put(outside.parent / "secret")
    with pytest.raises(ReferenceRefused, match="not a plain path"):
        store.take_in(f"{outside.as_uri()}/{way}/secret", None)


def test_a_name_is_not_cut_short_at_a_question_mark(store: FileModelDataConnector, outside: Path) -> None:
    _put(outside / "a")
    with pytest.raises(ReferenceRefused):
        store.take_in(f"{outside.as_uri()}/a?version=2", None)
    assert store.take_in(_put(outside / "a?version=2", b"two"), None).digest == _digest(b"two")


def test_a_link_that_leads_out_is_refused(store: FileModelDataConnector, outside: Path) -> None:
    _put(outside.parent / "secret")
    (outside / "link").symlink_to(outside.parent / "secret")
    with pytest.raises(ReferenceRefused, match="leads out"):
        store.take_in((outside / "link").as_uri(), None)


def test_a_folder_that_is_a_link_out_is_refused(store: FileModelDataConnector, outside: Path) -> None:
    (outside.parent / "other").mkdir()
    _put(outside.parent / "other" / "secret")
    (outside / "folder").symlink_to(outside.parent / "other")
    with pytest.raises(ReferenceRefused, match="leads out"):
        store.take_in((outside / "folder" / "secret").as_uri(), None)


def test_a_link_that_stays_inside_is_followed(store: FileModelDataConnector, outside: Path) -> None:
    _put(outside / "a")
    (outside / "link").symlink_to("a")
    assert store.take_in((outside / "link").as_uri(), None).digest == _digest(b"model")


def test_a_loop_of_links_is_refused(store: FileModelDataConnector, outside: Path) -> None:
    (outside / "loop").symlink_to("loop")
    with pytest.raises(ReferenceRefused):
        store.take_in((outside / "loop").as_uri(), None)


def test_a_link_put_in_place_after_the_check_is_refused(
    store: FileModelDataConnector, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is resolved first and opened later: in between it may be swapped."""
    _put(outside.parent / "secret")
    uri = _put(outside / "a")
    resolve = Path.resolve

    def resolve_then_swap(path: Path, strict: bool = False) -> Path:
        real = resolve(path, strict)
        if path.name == "a" and not path.is_symlink():
            path.unlink()
            path.symlink_to(outside.parent / "secret")
        return real

    monkeypatch.setattr(Path, "resolve", resolve_then_swap)
    with pytest.raises(ReferenceRefused):
        store.take_in(uri, None)
    assert (outside / "a").is_symlink()


def test_a_link_in_the_store_under_a_blobs_name_is_refused(store: FileModelDataConnector, tmp_path: Path) -> None:
    _put(tmp_path / "secret")
    blob = blob_path(store.root, _digest(b"model"))
    blob.parent.mkdir(parents=True)
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(ReferenceRefused):
        store.take_in(blob.as_uri(), None)
    with pytest.raises(ReferenceRefused):
        store.open(BlobRef(blob.as_uri(), blob.name, 5), DataFormat.JSON)


def test_files_of_the_store_that_are_no_blobs_are_refused(store: FileModelDataConnector) -> None:
    (store.root / "staging").mkdir()
    with pytest.raises(ReferenceRefused, match="not a blob"):
        store.take_in(_put(store.root / "staging" / "half"), None)


@pytest.mark.timeout(10)
def test_a_pipe_is_refused_without_waiting_for_its_writer(store: FileModelDataConnector, outside: Path) -> None:
    os.mkfifo(outside / "pipe")
    with pytest.raises(ReferenceRefused, match="not a regular file"):
        store.take_in((outside / "pipe").as_uri(), None)


def test_a_folder_is_refused(store: FileModelDataConnector, outside: Path) -> None:
    (outside / "folder").mkdir()
    for uri in ((outside / "folder").as_uri(), outside.as_uri(), store.root.as_uri()):
        with pytest.raises(ReferenceRefused):
            store.take_in(uri, None)


def test_a_device_is_refused(tmp_path: Path) -> None:
    store = FileModelDataConnector(tmp_path, outside_roots=["/dev"])
    with pytest.raises(ReferenceRefused, match="not a regular file"):
        store.take_in("file:///dev/zero", None)


def test_a_file_within_a_file_is_refused(store: FileModelDataConnector, outside: Path) -> None:
    _put(outside / "a")
    with pytest.raises((ReferenceRefused, BlobMissing)):
        store.take_in((outside / "a" / "b").as_uri(), None)


def test_a_file_that_is_not_there_is_missing(store: FileModelDataConnector, outside: Path) -> None:
    with pytest.raises(BlobMissing, match="nothing is stored"):
        store.take_in((outside / "absent").as_uri(), None)
    with pytest.raises(BlobMissing):
        store.open(BlobRef("file:///gone", _digest(b"gone"), 4), DataFormat.SAFETENSORS)
    with pytest.raises(BlobMissing):
        store.open(BlobRef("file:///gone", "../../../etc/hostname", 4), DataFormat.JSON)


@pytest.mark.parametrize("digest", ["", "abc", "A" * 64, "../" * 20])
def test_a_digest_that_is_none_is_refused(store: FileModelDataConnector, outside: Path, digest: str) -> None:
    with pytest.raises(ReferenceRefused, match="sha256"):
        store.take_in(_put(outside / "a"), digest)


def test_a_store_reached_through_a_link_knows_its_own_blobs(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = FileModelDataConnector(tmp_path / "link")
    ref = store.push_model_data_to_storage(MODEL, b"model")
    by_link = blob_path(tmp_path / "link", ref.digest).as_uri()
    assert store.take_in(by_link, ref.digest) == ref


def test_a_vanished_store_is_unavailable_and_no_ones_data_is_blamed(
    store: FileModelDataConnector, outside: Path
) -> None:
    uri = _put(outside / "a")
    store.root.rmdir()
    _put(store.root, b"a file where the store was")
    with pytest.raises(StoreUnavailable):
        store.take_in(uri, None)
    with pytest.raises(StoreUnavailable):
        store.push_model_data_to_storage(MODEL, b"model")
    with pytest.raises(StoreUnavailable):
        store.check()
    with pytest.raises(StoreUnavailable), store.writer([("w", (1,), "F64")], DataFormat.SAFETENSORS):
        pass


def test_a_working_store_passes_the_check_and_keeps_nothing_of_it(store: FileModelDataConnector) -> None:
    store.check()
    assert _files(store) == []


def test_the_same_bytes_are_stored_once(store: FileModelDataConnector) -> None:
    first = store.push_model_data_to_storage(MODEL, b"model")
    inode = path_of(first.uri).stat().st_ino
    assert store.push_model_data_to_storage(MODEL, b"model") == first
    assert path_of(first.uri).stat().st_ino == inode
    assert _files(store) == [path_of(first.uri)]


# --- reading updates --------------------------------------------------------------------------------------------------


def _update(number: int, data: BlobRef | None) -> ModelUpdate:
    return ModelUpdate(
        id=number,
        model_id=1,
        client_id=1,
        client_uuid=ID,
        submission_id=ID,
        payload_digest="",
        data=data,
        num_examples=1.0,
    )


def test_each_update_comes_with_a_reader_of_its_own_format(store: FileModelDataConnector) -> None:
    updates = [
        _update(1, store.push_model_data_to_storage(MODEL, b" [1, 2]")),
        # 91 bytes of header would begin like a JSON list, by its first byte.
        _update(2, store.push_model_data_to_storage(MODEL, _safetensors_with_header_of(91))),
    ]
    read = [
        (update.id, reader.read("values", 0, 2).tolist()) for update, reader in store.pull_model_updates_data(updates)
    ]
    assert read == [(1, [1.0, 2.0]), (2, [1.0, 2.0])]


def _safetensors_with_header_of(length: int) -> bytes:
    text = b'{"values":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'.ljust(length)
    return length.to_bytes(8, "little") + text + np.array([1.0, 2.0]).tobytes()


def test_an_unreadable_update_is_named(store: FileModelDataConnector) -> None:
    good = _update(1, store.push_model_data_to_storage(MODEL, b"[1]"))
    bad = _update(7, store.push_model_data_to_storage(MODEL, b"[1, true]"))
    pulled = store.pull_model_updates_data([good, bad])
    assert next(pulled)[0] is good
    with pytest.raises(ModelDataError, match=r"update 7: .*true or false") as caught:
        next(pulled)
    assert caught.value.reason_code is ReasonCode.SCHEMA
    with pytest.raises(ModelDataError, match="update 8 has no data"):
        next(store.pull_model_updates_data([_update(8, None)]))


def test_lists_become_tensors_of_their_positions(store: FileModelDataConnector) -> None:
    data = store.prep_model_data_for_storage([[1, 2], 3], DataFormat.SAFETENSORS)
    reader = store.open(store.push_model_data_to_storage(MODEL, data), DataFormat.SAFETENSORS)
    assert reader.tensors == (("0", (2,), "F64"), ("1", (), "F64"))
    assert reader.read("1", 0, 1).tolist() == [3.0]


def test_arrays_of_foreign_byte_order_are_stored_little_endian(store: FileModelDataConnector) -> None:
    data = store.prep_model_data_for_storage({"w": np.array([1.0, 2.0], ">f4")}, DataFormat.SAFETENSORS)
    reader = store.open(store.push_model_data_to_storage(MODEL, data), DataFormat.SAFETENSORS)
    assert reader.read("w", 0, 2).tolist() == [1.0, 2.0]


def test_bytes_are_handed_out_up_to_a_limit(store: FileModelDataConnector) -> None:
    ref = store.push_model_data_to_storage(MODEL, b"model")
    assert store.pull_bytes(ref, 5) == b"model"
    with pytest.raises(ModelDataError) as caught:
        store.pull_bytes(ref, 4)
    assert caught.value.reason_code is ReasonCode.TOO_LARGE
    with pytest.raises(BlobMissing):
        store.pull_bytes(BlobRef(ref.uri, _digest(b"gone"), 4), 4)


# --- garbage ----------------------------------------------------------------------------------------------------------


def test_old_blobs_that_nobody_names_are_deleted(store: FileModelDataConnector) -> None:
    named, lost, young = (store.push_model_data_to_storage(MODEL, data) for data in (b"named", b"lost", b"young"))
    for ref in (named, lost):
        _age(path_of(ref.uri))
    asked: list[str] = []

    def is_named(digests: Sequence[str]) -> set[str]:
        asked.extend(digests)
        return {named.digest} & set(digests)

    assert store.collect_garbage(600, is_named) == 1
    assert _files(store) == sorted(path_of(ref.uri) for ref in (named, young))
    assert sorted(asked) == sorted([named.digest, lost.digest])


def test_a_blob_stored_anew_while_rows_are_asked_is_left(store: FileModelDataConnector) -> None:
    """The row that names it is written after the question was answered."""
    ref = store.push_model_data_to_storage(MODEL, b"model")
    _age(path_of(ref.uri))

    def is_named(digests: Sequence[str]) -> set[str]:
        store.push_model_data_to_storage(MODEL, b"model")
        return set()

    assert store.collect_garbage(600, is_named) == 0
    assert path_of(ref.uri).read_bytes() == b"model"


def test_a_blob_collected_while_it_is_stored_anew_is_stored_again(
    store: FileModelDataConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = store.push_model_data_to_storage(MODEL, b"model")
    utime = os.utime

    def collect_then_utime(path: Path) -> None:
        monkeypatch.setattr(os, "utime", utime)
        Path(path).unlink()
        utime(path)

    monkeypatch.setattr(os, "utime", collect_then_utime)
    assert store.push_model_data_to_storage(MODEL, b"model") == ref
    assert path_of(ref.uri).read_bytes() == b"model"


def test_what_a_killed_collector_took_out_of_the_way_is_put_back(store: FileModelDataConnector) -> None:
    ref = store.push_model_data_to_storage(MODEL, b"model")
    path_of(ref.uri).rename(store.root / "staging" / f"collected-{ref.digest}")
    assert store.collect_garbage(0, lambda digests: set(digests)) == 0
    assert _files(store) == [path_of(ref.uri)]


def test_a_blob_that_is_held_is_as_good_as_new(store: FileModelDataConnector) -> None:
    """Its worker slept for a day between storing it and naming it."""
    kept, lost = (store.push_model_data_to_storage(MODEL, data) for data in (b"kept", b"lost"))
    _age(path_of(kept.uri))
    _age(path_of(lost.uri))
    store.hold(kept)
    assert store.collect_garbage(600, lambda digests: set()) == 1
    assert _files(store) == [path_of(kept.uri)]
    with pytest.raises(StoreUnavailable):
        store.hold(lost)


def test_old_staged_files_go_and_young_ones_stay(store: FileModelDataConnector) -> None:
    staging = store.root / "staging"
    staging.mkdir()
    for name in ("old", "young"):
        (staging / name).write_bytes(b"half")
    _age(staging / "old")
    assert store.collect_garbage(600, lambda digests: set()) == 0
    assert _files(store) == [staging / "young"]


def test_files_that_the_store_did_not_make_are_left(store: FileModelDataConnector) -> None:
    strange = store.root / "sha256" / "ab" / "README"
    strange.parent.mkdir(parents=True)
    strange.write_text("kept")
    _age(strange)
    assert store.collect_garbage(600, lambda digests: set()) == 0
    assert strange.exists()


def test_thousands_of_blobs_are_asked_for_in_batches(store: FileModelDataConnector) -> None:
    for number in range(1100):
        blob = blob_path(store.root, _digest(str(number).encode()))
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(str(number).encode())
        _age(blob)
    sizes: list[int] = []

    def is_named(digests: Sequence[str]) -> set[str]:
        sizes.append(len(digests))
        return set()

    assert store.collect_garbage(600, is_named) == 1100
    assert sizes == [500, 500, 100]


def test_an_empty_store_has_no_garbage(store: FileModelDataConnector) -> None:
    assert store.collect_garbage(0, lambda digests: set()) == 0


def test_new_folders_are_durable_with_the_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob whose folder's name is lost in a power cut is lost with it."""
    synced: set[Path] = set()
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    root = tmp_path / "deep" / "store"
    with new_blob(root) as file:
        file.write(b"model")
        path, _digest_of_it = keep_blob(root, file)
    assert {path.parent, root / "sha256", root, root.parent, tmp_path} <= synced
